"""What to explain: names of differentiable outputs of a prediction, or any function of a trace.

Shapes: D predictions.
"""

import difflib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from odam_d2.structures import Trace

SIDES = ("x1", "y1", "x2", "y2")
# The element-wise maximum of these maps, each scaled to [0,1]: H_comb of section 4.1.2.
COMBINED_PARTS = ("class_score", *SIDES)
TARGETS = ("class_score", "class_logit", *SIDES, "combined")
# A box grows with -x1, -y1, x2 and y2.
OUTWARDS = {"x1": -1, "y1": -1, "x2": 1, "y2": 1}
# Outputs that a prediction has for every class, and how one of them is asked for: class_score[dog], class_logit[16].
PER_CLASS = ("class_score", "class_logit")
_OF_CLASS = re.compile(rf"({'|'.join(PER_CLASS)})\[(.+)\]")

# A name, or a function from a trace to (D,) scalars, the d-th of which depends on the d-th prediction's outputs alone.
Target = str | Callable[[Trace], Tensor]


@dataclass(frozen=True)
class ClassTarget:
    """An output of one class, whatever the predictions' own classes are: "why not dog?".

    Args:
        output: a name of :data:`PER_CLASS`.
        index: of the class.
        name: of the class, for people.
    """

    output: str
    index: int
    name: str

    def __str__(self) -> str:
        return f"{self.output}[{self.name}]"

    def __call__(self, trace: Trace) -> Tensor:
        """The output of this class at every place of the trace, (D,).

        Raises:
            ValueError: the detector has no such class.
        """
        if not 0 <= self.index < trace.num_classes:
            raise ValueError(f"{self} asks for class {self.index}, but this detector has {trace.num_classes} classes")
        return _class_output(trace, self.output, torch.full_like(trace.classes, self.index))


def resolve_target(target: Target, class_names: Sequence[str] = ()) -> Target:
    """A target whose class, if it names one, is known by its number.

    Args:
        target: a name of :data:`TARGETS`, such a name with a class in brackets, or a function.
        class_names: of the detector; without them a class can only be given by its number.

    Returns:
        a name of :data:`TARGETS` or a function.

    Raises:
        ValueError: an unknown name; the valid ones are listed.
    """
    if callable(target) or target in TARGETS:
        return target
    match = _OF_CLASS.fullmatch(target) if isinstance(target, str) else None
    if match is None:
        raise ValueError(
            f"unknown target {target!r}; valid targets are {', '.join(TARGETS)}, and "
            f"{' and '.join(f'{name}[class]' for name in PER_CLASS)} for any class"
        )
    output, name = match.groups()
    if name in class_names:
        return ClassTarget(output, list(class_names).index(name), name)
    if name.isdecimal() and (not class_names or int(name) < len(class_names)):
        return ClassTarget(output, int(name), class_names[int(name)] if class_names else name)
    hint = closest_classes(name, class_names) if class_names else "without class names, give its number"
    raise ValueError(f"the target {target!r} names no class of this detector; {hint}")


def closest_classes(name: str, class_names: Sequence[str]) -> str:
    """What to say to somebody who named a class that a detector does not have.

    Args:
        name: what was named.
        class_names: of the detector.
    """
    close = difflib.get_close_matches(name, class_names, n=3, cutoff=0.5)
    if close:
        return f"the closest of its {len(class_names)} classes are {', '.join(close)}"
    more = ", ..." if len(class_names) > 5 else ""
    return f"its {len(class_names)} classes are {', '.join(class_names[:5])}{more}"


def target_name(target: Target) -> str:
    """How people read a target, and the key of its maps."""
    if isinstance(target, (str, ClassTarget)):
        return str(target)
    return getattr(target, "__name__", type(target).__name__)


def check_targets(targets: Sequence[Target]) -> None:
    """Refuse unknown names; which classes there are, the detector knows.

    Raises:
        ValueError: lists the valid targets.
    """
    for target in targets:
        if not isinstance(target, str) or not _OF_CLASS.fullmatch(target):
            resolve_target(target)


def name_targets(targets: Sequence[Target]) -> dict[str, Target]:
    """Targets by name, in order, each once.

    Raises:
        ValueError: two targets of one name, or a function with the name of a target that is none.
    """
    named: dict[str, Target] = {}
    for target in targets:
        name = target_name(target)
        if name in TARGETS and callable(target):
            raise ValueError(f"a function called {name} would be taken for the target of this name; rename it")
        if named.setdefault(name, target) != target:
            raise ValueError(f"two targets are called {name}; they need different names to tell their maps apart")
    return named


def target_output(trace: Trace, target: Target) -> Tensor:
    """The scalar Y of equation (1) for every prediction, with graph.

    Args:
        trace: what the detector remembers.
        target: a name of :data:`TARGETS` other than ``combined``, such a name with the number of a class in brackets,
            or a function from a trace to (D,) scalars, the d-th of which depends on the d-th prediction's outputs
            alone.

    Returns:
        (D,).

    Raises:
        ValueError: unknown name, or a function that does not return one scalar a prediction.
    """
    target = resolve_target(target)
    if callable(target):
        output = target(trace)
        if not isinstance(output, Tensor) or tuple(output.shape) != (len(trace),):
            found = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise ValueError(
                f"the target {target_name(target)} returned {found} for {len(trace)} predictions; "
                "it must return a tensor with one scalar a prediction"
            )
        return output
    if target in PER_CLASS:
        return _class_output(trace, target, trace.classes)
    if target in SIDES:
        return OUTWARDS[target] * trace.boxes[:, SIDES.index(target)]
    raise ValueError(f"the target {target!r} is made of several outputs: {', '.join(COMBINED_PARTS)}")


def _class_output(trace: Trace, output: str, classes: Tensor) -> Tensor:
    if output == "class_score":
        return trace.scores_of(classes)
    return trace.logits.gather(1, classes[:, None])[:, 0]
