"""What an evaluation of explanations measures: the metrics by name, and the settings that its numbers depend on."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from odam_d2.explain import METHODS, ExplainSettings, Target, check_methods, check_targets, target_name

PROTOCOLS = ("paper", "authors")
# In summary.json beside the methods.
COUNTS = "counts"


class Metric(NamedTuple):
    """How a metric is shown.

    Attributes:
        title: column of a table; the arrow says where better is.
        meaning: what it tells of a map, for people.
        digits: after the decimal point.
        needs_mask: whether it is about the object's mask.
        needs_runs: whether it runs the detector on perturbed images.
    """

    title: str
    meaning: str
    digits: int = 1
    needs_mask: bool = False
    needs_runs: bool = False


METRICS = {
    "pg_box": Metric("PG (box) ↑", "maps whose strongest pixel lies in the object's box, %"),
    "pg_mask": Metric("PG (mask) ↑", "maps whose strongest pixel lies in the object's mask, %", needs_mask=True),
    "enpg_box": Metric("enPG (box) ↑", "part of the map's energy that lies in the object's box, %"),
    "enpg_mask": Metric("enPG (mask) ↑", "part of the map's energy that lies in the object's mask, %", needs_mask=True),
    "compactness": Metric(
        "Comp. ↓", "how far the energy lies from the strongest pixel, relative to the object's size", digits=2
    ),
    "odi_box": Metric("ODI (box) ↓", "of the energy in the boxes of all objects, the part in those of others, %"),
    "odi_mask": Metric(
        "ODI (mask) ↓", "of the energy in the masks of all objects, the part in those of others, %", needs_mask=True
    ),
    "vea_auc": Metric(
        "VEA ↑", "IoU of the thresholded map with the object's mask, over all thresholds", digits=3, needs_mask=True
    ),
    "deletion_auc": Metric(
        "Deletion ↓", "the detector's score while the map's strongest pixels are deleted, area in %", needs_runs=True
    ),
    "insertion_auc": Metric(
        "Insertion ↑", "the detector's score while the map's strongest pixels are inserted, area in %", needs_runs=True
    ),
}
# The paper's tables and their columns.
TABLES = {
    1: ("deletion_auc", "insertion_auc", "vea_auc"),
    2: ("pg_box", "pg_mask", "enpg_box", "enpg_mask", "compactness"),
    3: ("odi_box", "odi_mask"),
}
# Scores can rise far above their start: one weak detection can decide the mean of these.
SKEWED = ("deletion_auc", "insertion_auc")
CHEAP = tuple(name for name, metric in METRICS.items() if not metric.needs_runs)


def choose_metrics(words: Sequence[str]) -> tuple[str, ...]:
    """Names of metrics from what a user typed.

    Args:
        words: names of :data:`METRICS`, ``cheap`` (all but Deletion and Insertion) or ``all``.

    Returns:
        names in the order of :data:`METRICS`, each once.

    Raises:
        ValueError: an unknown name, or none; the valid ones are listed.
    """
    groups = {"cheap": CHEAP, "all": tuple(METRICS)}
    wanted = {name for word in words for name in groups.get(word, (word,))}
    unknown = [word for word in words if word not in METRICS and word not in groups]
    if unknown or not wanted:
        what = f"unknown metric {unknown[0]!r}" if unknown else "no metric was named"
        raise ValueError(f"{what}; valid metrics are {', '.join(METRICS)}, and cheap or all")
    return tuple(name for name in METRICS if name in wanted)


@dataclass(frozen=True)
class ExplanationSettings:
    """Everything about the measuring that changes its numbers.

    Args:
        methods: names of :data:`odam_d2.explain.METHODS`.
        map_folders: folders of maps that another tool made, each a method of its own with the folder's name. They hold
            ``<image id>_<annotation id>.npy``, float, of the image's size.
        metrics: names of :data:`METRICS`. The cheap ones are worked out in any case.
        target: what is explained, see :func:`odam_d2.explain.resolve_target`. D-RISE has no choice of targets.
        explain: how they explain it: layer, smoothing, path, D-RISE's number of masks and BBAM's of steps. Its method
            and seed are not looked at. None: as the predictor does (``ODAM.EXPLAIN``).
        iou_threshold: objects are explained whose detection has a larger IoU with them.
        score_threshold: and a higher score. The detector's own threshold applies before.
        protocol: of Deletion and Insertion, ``paper`` or ``authors``, see
            :func:`odam_d2.evaluation.metrics.specification.perturbation_scores`.
        steps: of Deletion and Insertion, 100 in the paper; with ``authors`` a multiple of 10.
        seed: of D-RISE's masks and Deletion's random values.
        max_images: the dataset's first images alone; default all.
        max_objects: an even choice of so many of the well-detected objects; default all.

    Raises:
        ValueError: an unknown name (the valid ones are listed), a name twice, no method, or a number out of its range.
    """

    methods: tuple[str, ...] = ("odam", "gradcam", "gradcam++", "drise")
    map_folders: tuple[str, ...] = ()
    metrics: tuple[str, ...] = CHEAP
    target: Target = "class_score"
    explain: ExplainSettings | None = None
    iou_threshold: float = 0.9
    score_threshold: float = 0.1
    protocol: str = "paper"
    steps: int = 100
    seed: int = 0
    max_images: int | None = None
    max_objects: int | None = None

    def __post_init__(self) -> None:
        check_methods(self.methods)
        choose_metrics(self.metrics)
        check_targets([self.target])
        names = self.names
        if not names:
            raise ValueError(f"no method was named; valid methods are {', '.join(METHODS)}")
        twice = [name for name in names if names.count(name) > 1 or name == COUNTS]
        if twice:
            raise ValueError(f"each method needs a name of its own, other than {COUNTS}; {twice[0]!r} is not")
        for name in ("iou_threshold", "score_threshold"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 0 and less than 1")
        if self.protocol not in PROTOCOLS:
            raise ValueError(f"unknown protocol {self.protocol!r}; valid protocols are {', '.join(PROTOCOLS)}")
        step = 10 if self.protocol == "authors" else 1
        if self.steps < 1 or self.steps % step:
            raise ValueError(f"steps is {self.steps}; it must be a positive multiple of {step}")
        if self.seed < 0:
            raise ValueError(f"seed is {self.seed}; it must be at least 0")
        for name in ("max_images", "max_objects"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all methods in the tables: the own ones, then those of the folders."""
        return (*self.methods, *(Path(folder).resolve().name for folder in self.map_folders))

    def to_json(self) -> dict[str, Any]:
        """The settings as ``settings.json`` holds them. Paths are absolute, so that a run can go on from elsewhere."""
        folders = [str(Path(folder).resolve()) for folder in self.map_folders]
        plain = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}
        return plain | {"map_folders": folders, "target": target_name(self.target)}
