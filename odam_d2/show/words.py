"""What sheets and pages say."""

from collections.abc import Iterable, Mapping

# What a target's map answers.
TARGET_MEANINGS = {
    "class_score": "why this class",
    "class_logit": "why this class (before the sigmoid/softmax)",
    "x1": "why its left side is there",
    "y1": "why its top side is there",
    "x2": "why its right side is there",
    "y2": "why its bottom side is there",
    "combined": "everything together",
}
NO_INFLUENCE, STRONGEST = "0 = no influence", "1 = strongest in this map"
NO_DETECTIONS = "no detections above the threshold"


def meanings_of(targets: Iterable[str], own: Mapping[str, str] | None = None) -> dict[str, str]:
    """What the map of each target answers, in a few words.

    Args:
        targets: names; one with a class in brackets, ``class_score[dog]``, asks about that class.
        own: what a method says instead, by target.
    """
    meanings = {}
    for target in targets:
        name, bracket, label = target.partition("[")
        general = f"why {label.rstrip(']')}, or why not" if bracket else TARGET_MEANINGS.get(name, "")
        meanings[target] = (own or {}).get(target, general)
    return meanings
