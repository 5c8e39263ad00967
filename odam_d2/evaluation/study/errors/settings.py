"""What is looked for among a detector's errors: thresholds, and how many pictures are kept."""

from dataclasses import asdict, dataclass
from typing import Any

from odam_d2.evaluation.detections.error_modes import BACKGROUND, FOREGROUND


@dataclass(frozen=True)
class ErrorSettings:
    """Everything that decides about the errors of a run.

    Args:
        score_threshold: detections with a higher score count; what scores less is not there, and its object missed.
        foreground: from this IoU on a box fits (TIDE's t_f).
        background: below this IoU it means nothing (t_b).
        side_tolerance: a side is wrong that is further from the object's than this part of the object's extent along
            that axis. With .1, a box whose IoU is less than .5 always has one.
        pictures: of each kind and class, the worst so many are on the page.
        max_images: the dataset's first images alone; default all.

    Raises:
        ValueError: a number out of its range.
    """

    score_threshold: float = 0.3
    foreground: float = FOREGROUND
    background: float = BACKGROUND
    side_tolerance: float = 0.1
    pictures: int = 2
    max_images: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.score_threshold < 1:
            raise ValueError(f"score_threshold is {self.score_threshold}; it must be at least 0 and less than 1")
        if not 0 <= self.background < self.foreground <= 1:
            raise ValueError(
                f"the thresholds are background {self.background} and foreground {self.foreground}; 0 <= background < "
                "foreground <= 1 is needed"
            )
        if not 0 <= self.side_tolerance < 1:
            raise ValueError(f"side_tolerance is {self.side_tolerance}; it must be at least 0 and less than 1")
        if self.pictures < 0 or (self.max_images is not None and self.max_images < 1):
            raise ValueError(
                f"pictures is {self.pictures} and max_images {self.max_images}; at least 0 and 1 are needed"
            )

    def to_json(self) -> dict[str, Any]:
        """For the record of a run."""
        return asdict(self)
