"""What sheets and pages say."""

from collections.abc import Iterable, Mapping, Sequence

BEFORE = "(before the sigmoid/softmax)"
# What the sides of a box are called.
SIDE_WORDS = {"x1": "left", "y1": "top", "x2": "right", "y2": "bottom"}
# What a target's map answers.
TARGET_MEANINGS = {
    "class_score": "why this class",
    "class_logit": f"why this class {BEFORE}",
    **{side: f"why its {word} side is there" for side, word in SIDE_WORDS.items()},
    "combined": "everything together",
}
# A map shows what speaks for its target alone: what speaks against it is 0 as well.
NO_SUPPORT, STRONGEST = "0 = no support", "1 = strongest in this map"
# Where a map shows attention instead.
NO_ATTENTION = "0 = no attention"
NO_DETECTIONS = "no detections above the threshold"


def plural(count: int, word: str) -> str:
    """Such as ``1 object`` or ``2 objects``."""
    return f"{count} {word}{'s' * (count != 1)}"


def meanings_of(targets: Iterable[str], own: Mapping[str, str] | None = None) -> dict[str, str]:
    """What the map of each target answers, in a few words.

    Args:
        targets: names; one with a class in brackets, ``class_score[dog]``, asks about that class.
        own: what a method says instead, by target.
    """
    meanings = {}
    for target in targets:
        label = _class_in(target)
        general = TARGET_MEANINGS.get(target, "") if label is None else f"what speaks for {label}"
        if target.startswith("class_logit["):
            general += f" {BEFORE}"
        meanings[target] = (own or {}).get(target, general)
    return meanings


def captions_of(values: Mapping[str, Sequence[float]]) -> dict[str, list[str]]:
    """The explained numbers, for people.

    They must stand beside the maps: a map of ``class_score[dog]`` glows as brightly where the detector is sure that
    there is no dog.

    Args:
        values: target -> the explained number of each detection.

    Returns:
        target -> a few words for each detection; without targets whose number its label or its box tells.
    """
    told = TARGET_MEANINGS.keys() - {"class_logit"}
    return {
        target: [f"{_output_of(target)} {value:.2f}" for value in own]
        for target, own in values.items()
        if target not in told
    }


def _output_of(target: str) -> str:
    """How people call the explained number."""
    label = _class_in(target)
    if target.partition("[")[0] == "class_logit":
        return "logit" if label is None else f"logit of {label}"
    return label or target


def _class_in(target: str) -> str | None:
    """``dog`` of ``class_score[dog]``; None where no class is named."""
    _, bracket, label = target.partition("[")
    return label.removesuffix("]") if bracket else None
