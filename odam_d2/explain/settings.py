"""How to explain, in one object: predictor, NMS, evaluation and sanity checks all take it."""

from dataclasses import dataclass
from typing import Any

from odam_d2.explain.methods import METHODS, SMOOTHINGS, check_methods

PATHS = ("exact", "batched", "auto")
# What an image that BBAM masks shows where it is hidden: the colour that the detector subtracts, or a blurred image.
OUTSIDES = ("mean", "blurred")


@dataclass(frozen=True)
class ExplainSettings:
    """How to explain predictions; ``ODAM.EXPLAIN`` in a config, see :meth:`from_options`.

    Args:
        method: a name of :data:`odam_d2.explain.METHODS`.
        layer: ``fpn`` (each prediction's own level), ``roi_pool`` (two-stage detectors) or a stage of the backbone.
        smoothing: Phi of ODAM, ``none`` or ``gaussian``.
        path: ``exact``, ``batched`` or ``auto``, see :class:`odam_d2.explain.GradientExplainer`.
        memory: GiB that the reversed head may take at a time.
        drise_masks: of D-RISE, an image.
        drise_batch: masked images that go through the detector at a time.
        drise_seed: of D-RISE's masks.
        amp: changed images, of D-RISE, Deletion and Insertion, go through the detector in mixed precision, see
            :func:`odam_d2.explain.masks.black_box.observe_images`.
        bbam_steps: of the optimisation of each of BBAM's masks.
        bbam_outside: what it shows instead of what it hides, ``mean`` (the colour that the detector subtracts from its
            images) or ``blurred``.

    Raises:
        ValueError: an unknown name (the valid ones are listed) or a number out of its range.
    """

    method: str = "odam"
    layer: str = "fpn"
    smoothing: str = "none"
    path: str = "exact"
    memory: float = 1.0
    drise_masks: int = 5000
    drise_batch: int = 8
    drise_seed: int = 0
    amp: bool = False
    bbam_steps: int = 300
    bbam_outside: str = "mean"

    def __post_init__(self) -> None:
        check_methods([self.method])
        if self.smoothing not in SMOOTHINGS:
            raise ValueError(f"unknown smoothing {self.smoothing!r}; valid values are {', '.join(SMOOTHINGS)}")
        if self.path not in PATHS:
            raise ValueError(f"unknown path {self.path!r}; valid paths are {', '.join(PATHS)}")
        if not self.memory > 0:
            raise ValueError(f"memory is {self.memory} GiB; it must be more than 0")
        if self.bbam_outside not in OUTSIDES:
            raise ValueError(f"unknown bbam_outside {self.bbam_outside!r}; valid values are {', '.join(OUTSIDES)}")
        for name, least in (("drise_masks", 1), ("drise_batch", 1), ("drise_seed", 0), ("bbam_steps", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}; at least {least} is needed")

    @classmethod
    def from_options(cls, options: Any) -> "ExplainSettings":
        """How a config says that predictions are explained.

        Args:
            options: the node ``ODAM.EXPLAIN``.

        Raises:
            ValueError: as in the constructor.
        """
        return cls(
            method=options.METHOD,
            layer=options.LAYER,
            smoothing=options.SMOOTHING,
            path=options.PATH,
            memory=options.MEMORY,
            drise_masks=options.DRISE_MASKS,
            drise_batch=options.DRISE_BATCH,
            amp=options.AMP,
            bbam_steps=options.BBAM_STEPS,
            bbam_outside=options.BBAM_OUTSIDE,
        )

    def describe(self) -> dict[str, Any]:
        """What of the settings has an influence on the maps, for the record of a run."""
        kind = METHODS[self.method].kind
        if kind == "masks":
            return {"method": self.method, "masks": self.drise_masks, "seed": self.drise_seed, "amp": self.amp}
        if kind == "region_masks":
            return {"method": self.method, "steps": self.bbam_steps, "outside": self.bbam_outside}
        if kind == "attention":
            return {"method": self.method}
        return {"method": self.method, "layer": self.layer, "smoothing": self.smoothing, "path": self.path}
