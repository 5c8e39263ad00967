"""What to explain: names of differentiable outputs of a detection.

Shapes: D detections.
"""

from collections.abc import Callable, Sequence

from torch import Tensor

from odam_d2.structures import Trace

SIDES = ("x1", "y1", "x2", "y2")
# The element-wise maximum of these maps, each scaled to [0,1]: H_comb of section 4.1.2.
COMBINED_PARTS = ("class_score", *SIDES)
TARGETS = ("class_score", "class_logit", *SIDES, "combined")

Target = str | Callable[[Trace], Tensor]


def check_targets(targets: Sequence[str]) -> None:
    """Refuse unknown names.

    Raises:
        ValueError: lists the valid targets.
    """
    unknown = [t for t in targets if t not in TARGETS]
    if unknown:
        raise ValueError(f"unknown target {unknown[0]!r}; valid targets are {', '.join(TARGETS)}")


def target_output(trace: Trace, target: Target) -> Tensor:
    """The scalar Y of equation (1) for every detection, with graph.

    Args:
        trace: what the detector remembers.
        target: a name of :data:`TARGETS` other than ``combined``, or a function from a trace to (D,) scalars, the
            d-th of which depends on the d-th detection's outputs alone.

    Returns:
        (D,).

    Raises:
        ValueError: unknown name, or a function that does not return one scalar a detection.
    """
    if callable(target):
        output = target(trace)
        if tuple(output.shape) != (len(trace),):
            raise ValueError(f"the target returned shape {tuple(output.shape)} for {len(trace)} detections")
        return output
    if target not in trace.outputs:
        raise ValueError(f"unknown target {target!r}; valid targets are {', '.join(TARGETS)}")
    return trace.outputs[target]
