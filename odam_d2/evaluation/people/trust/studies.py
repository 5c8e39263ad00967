"""The paper's three studies of trust: what is asked, of whom, in which order, and the researcher's key.

Shapes: P participants, Q questions each, O objects, M methods.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import linear_sum_assignment

from odam_d2.files import write_atomically

KEY_FORMAT = "odam_d2 trust key 1"
KEY_FILE = "key.json"


class StudyKind(NamedTuple):
    """One of the paper's studies.

    Attributes:
        title: for people.
        text: what a participant is asked; ``{name}`` stands for the object's class.
        methods: how many it compares; None for any number from two on.
        options: whether all methods stand in one question, or one alone.
    """

    title: str
    text: str
    methods: int | None
    options: bool


RANK, CHOOSE, DRAW = "rank", "choose", "draw"
STUDIES = {
    RANK: StudyKind(
        "Which picture explains best?",
        "A computer found the {name} in the blue box. Every picture claims to show what it looked at for that: the "
        "brighter a place glows, the more it mattered. Put the pictures in order, from the most reasonable to the "
        "least.",
        None,
        True,
    ),
    CHOOSE: StudyKind(
        "Which computer is more reasonable?",
        "Two computers found the {name} in the blue box. The pictures show what each of them looked at for that: the "
        "brighter a place glows, the more it mattered. Choose the computer that has the more reasonable picture.",
        2,
        True,
    ),
    DRAW: StudyKind(
        "What did the computer find?",
        "A computer found one {name}. The picture shows what it looked at for that: the brighter a place glows, the "
        "more it mattered. Draw a box around the {name} that you think it found, and say how sure you are.",
        None,
        False,
    ),
}


class Item(NamedTuple):
    """An object that is asked about.

    Attributes:
        image_id: in the dataset.
        annotation_id: of the object.
        name: of its class.
        file: of the image.
        size: (h,w) of the image.
        box: (4,) XYXY in pixels of the image.
    """

    image_id: str
    annotation_id: str
    name: str
    file: str
    size: tuple[int, int]
    box: tuple[float, float, float, float]


@dataclass(frozen=True)
class Question:
    """What one participant is asked once.

    Args:
        id: unique in the study, such as ``07-12``.
        participant: such as ``07``.
        item: place of the object in the study's list.
        options: methods in the order in which their pictures stand, A first; one alone where a box is drawn.
    """

    id: str
    participant: str
    item: int
    options: tuple[str, ...]


@dataclass(frozen=True)
class Study:
    """A study and its key: who saw which method where.

    Args:
        id: told apart from other studies by it.
        kind: a name of :data:`STUDIES`.
        methods: that are compared.
        seed: of all that is random.
        items: the objects.
        questions: of all participants, in their order.
    """

    id: str
    kind: str
    methods: tuple[str, ...]
    seed: int
    items: tuple[Item, ...]
    questions: tuple[Question, ...]

    @property
    def participants(self) -> list[str]:
        """Names of the participants."""
        return list(dict.fromkeys(question.participant for question in self.questions))

    def questions_of(self, participant: str) -> list[Question]:
        """What a participant is asked, in order."""
        return [question for question in self.questions if question.participant == participant]


def check_study(kind: str, methods: Sequence[str], participants: int, each: int, objects: int) -> None:
    """Refuse a study that cannot be made.

    Raises:
        ValueError: an unknown kind, methods that do not suit it, no participants or questions, or too few objects.
    """
    if kind not in STUDIES:
        raise ValueError(f"unknown study {kind!r}; valid studies are {', '.join(STUDIES)}")
    wanted = STUDIES[kind].methods
    if len(methods) < 2 or (wanted is not None and len(methods) != wanted):
        raise ValueError(f"the study {kind} compares {wanted or 'at least 2'} methods; {len(methods)} were named")
    if len(methods) > 9:
        raise ValueError(f"the study {kind} would compare {len(methods)} methods; nobody can rank more than 9")
    twice = [name for name in methods if methods.count(name) > 1 or not name]
    if twice:
        raise ValueError(f"each method needs a name of its own; {twice[0]!r} is not: give --names")
    if participants < 1 or each < 1:
        raise ValueError(f"{participants} participants with {each} questions each make no study; at least 1 is needed")
    if objects < each:
        raise ValueError(
            f"{each} questions each need {each} objects, so that nobody sees one twice; there are {objects} with maps "
            "of all methods"
        )


def plan_study(
    kind: str, methods: Sequence[str], items: Sequence[Item], participants: int, each: int, seed: int = 0
) -> Study:
    """Decide who is asked what.

    Objects are dealt out in turn, so that each is asked about as often as any other, up to one time; nobody sees an
    object twice. Pictures of all methods stand in random order. Where a question shows one method alone, a participant
    sees all methods equally often, up to one time, and every object is shown by all of them, as equally often as that
    allows, so that no method has easier objects than another.

    Args:
        kind: a name of :data:`STUDIES`.
        methods: M names.
        items: O objects.
        participants: P.
        each: Q.
        seed: the same gives the same study.

    Raises:
        ValueError: as for :func:`check_study`.
    """
    check_study(kind, list(methods), participants, each, len(items))
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(items))
    digits = max(2, len(str(participants)))
    questions = []
    shown_by = np.zeros((len(items), len(methods)), dtype=np.int64)
    for p in range(participants):
        name = f"{p + 1:0{digits}d}"
        own = order[np.arange(p * each, (p + 1) * each) % len(items)]
        if STUDIES[kind].options:
            shown = [tuple(methods[m] for m in rng.permutation(len(methods))) for _ in own]
        else:
            dealt = _deal_methods(shown_by[own], rng)
            shown_by[own, dealt] += 1
            shown = [(methods[m],) for m in dealt]
        for place, i in enumerate(rng.permutation(each), 1):
            questions.append(Question(f"{name}-{place:02d}", name, int(own[i]), shown[i]))
    content = [kind, list(methods), seed, [asdict(question) for question in questions], *items]
    number = hashlib.sha256(json.dumps(content).encode()).hexdigest()[:8]
    return Study(f"{kind}-{number}", kind, tuple(methods), seed, tuple(items), tuple(questions))


def _deal_methods(shown_by: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One method for each object of a participant, all equally often, up to one time.

    Args:
        shown_by: how often each object was shown by each method before, (Q,M).
        rng: decides where nothing else does.

    Returns:
        methods, (Q,).
    """
    each, count = shown_by.shape
    # So many turns of every method, and one more of those that were shown least; an object takes what it had least.
    least = (shown_by.sum(axis=0) + rng.random(count)).argsort()[: each % count]
    turns = np.concatenate([np.repeat(np.arange(count), each // count), least])
    more = (shown_by - shown_by.min(axis=1, keepdims=True))[:, turns]
    _, chosen = linear_sum_assignment(more.astype(np.float64) ** 2 + rng.random((each, each)) / (2 * each))
    return turns[chosen]


def choose_items(items: Sequence[Item], most: int, seed: int = 0) -> list[Item]:
    """Some of the objects, from as many classes as there are, as in the paper: one a class, then a second one.

    Args:
        items: in order.
        most: at most so many.
        seed: the same gives the same choice.

    Raises:
        ValueError: none are wanted.
    """
    if most < 1:
        raise ValueError(f"{most} objects make no study; at least 1 is needed")
    rng = np.random.default_rng(seed)
    shuffled = [items[i] for i in rng.permutation(len(items))]
    turns: dict[str, int] = {}
    ranked = []
    for item in shuffled:
        ranked.append((turns.setdefault(item.name, 0), item))
        turns[item.name] += 1
    ranked.sort(key=lambda pair: pair[0])
    return [item for _, item in ranked[:most]]


def write_key(folder: Path, study: Study) -> Path:
    """Write the key, which participants must not see.

    Raises:
        OSError: it cannot be written.
    """
    content = {"format": KEY_FORMAT, **asdict(study)}
    write_atomically(folder / KEY_FILE, json.dumps(content, indent=1) + "\n")
    return folder / KEY_FILE


def read_key(path: Path) -> Study:
    """Read a study's key.

    Args:
        path: of the file.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is no key of ours.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no key {path}; odam trust make writes it beside the pages")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != KEY_FORMAT:
            raise ValueError(f"its format is {content['format']!r}")
        return Study(
            content["id"],
            content["kind"],
            tuple(content["methods"]),
            content["seed"],
            tuple(_to_item(one) for one in content["items"]),
            tuple(Question(**one | {"options": tuple(one["options"])}) for one in content["questions"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is no key that odam trust make wrote: {error}") from error


def _to_item(values: Mapping[str, Any] | Sequence[Any]) -> Item:
    item = Item(**values) if isinstance(values, Mapping) else Item(*values)
    return item._replace(size=tuple(item.size), box=tuple(item.box))
