"""What a comparison with human attention measures: its columns, its rows and the settings its numbers depend on."""

from dataclasses import dataclass, field
from typing import Any

from odam_d2.evaluation.people.attention import PIXELS_PER_DEGREE, WEIGHTS
from odam_d2.evaluation.people.similarity import GRID
from odam_d2.evaluation.study.settings import ExplanationSettings, Metric

SIMILARITIES = {
    "cosine": Metric("Cos. ↑", "cosine of the two maps", digits=3),
    "correlation": Metric("Corr. ↑", "Pearson's correlation of the two maps", digits=3),
    "otd": Metric("OTD ↓", "optimal transport distance, in diagonals of what is compared", digits=4),
    "jsd": Metric("JSD ↓", "Jensen-Shannon divergence, in bits", digits=3),
}
# What is compared: the maps over the whole image, or the parts of them in the object's box.
WINDOWS = {"image": "the whole image", "object": "the object's box alone"}
# What stands in the tables beside the methods.
OBSERVERS, CENTRE = "observers", "centre"
REFERENCES = {
    OBSERVERS: "ceiling: half of the people against the other half",
    CENTRE: "floor: a Gaussian around the middle of the image, the same for all",
}


@dataclass(frozen=True)
class AttentionSettings:
    """Everything that changes the numbers.

    Args:
        explanation: which objects are explained, by which methods, of which target, and how; its metrics are not
            looked at.
        pixels_per_degree: of visual angle, standard deviation of the Gaussian around a fixation.
        weights: what a fixation counts, ``duration`` or ``count``.
        grid: cells along the longer side of the grid for optimal transport.
        splits: how often the people are divided into halves, for what they agree about.
        leave_out_outside: leave out fixations outside of their image instead of refusing them.

    Raises:
        ValueError: an unknown name or a number out of its range.
    """

    explanation: ExplanationSettings = field(
        default_factory=lambda: ExplanationSettings(iou_threshold=0.5, score_threshold=0.3)
    )
    pixels_per_degree: float = PIXELS_PER_DEGREE
    weights: str = "duration"
    grid: int = GRID
    splits: int = 3
    leave_out_outside: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.pixels_per_degree < float("inf"):
            raise ValueError(f"pixels_per_degree is {self.pixels_per_degree}; it must be a positive number of pixels")
        if self.weights not in WEIGHTS:
            raise ValueError(f"unknown weights {self.weights!r}; valid values are {', '.join(WEIGHTS)}")
        for name in ("grid", "splits"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        taken = [name for name in self.explanation.names if name in REFERENCES]
        if taken:
            raise ValueError(f"a method cannot be called {taken[0]}, which is a row of the tables by itself; rename it")

    @property
    def rows(self) -> tuple[str, ...]:
        """Names of the tables' rows."""
        return (*self.explanation.names, *REFERENCES)

    def to_json(self) -> dict[str, Any]:
        """For the record of a run."""
        own = {name: getattr(self, name) for name in ("pixels_per_degree", "weights", "grid", "splits")}
        return self.explanation.to_json() | own | {"leave_out_outside": self.leave_out_outside}
