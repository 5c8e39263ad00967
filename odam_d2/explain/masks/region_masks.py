"""BBAM with the call of every explainer here, ``explainer(trace, target) -> HeatMaps``, for a two-stage detector."""

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from odam_d2.explain.masks.bbam import BBAM, Answer, Ask, Progress, blurred, mask_stride
from odam_d2.explain.methods import check_method_targets
from odam_d2.explain.settings import ExplainSettings
from odam_d2.explain.targets import Target
from odam_d2.structures import Grid, HeatMaps, Trace


class Traceable(Protocol):
    """What is asked of an observation, see :class:`odam_d2.modeling.explainable.Observation`."""

    def trace(self, image: int, places: Tensor, classes: Tensor) -> Trace:
        """What explaining some predictions needs."""


class RegionDetector(Protocol):
    """What is asked of a detector, see :class:`odam_d2.modeling.explainable.ExplainableDetector`.

    Attributes:
        layers: with ``roi_pool`` among them, as it pools regions.
        pixel_mean: the colour that it subtracts from its images, (3,1,1).
    """

    layers: list[str]
    pixel_mean: Tensor

    def observe(self, batched_inputs: Sequence[dict[str, Any]], layers: Sequence[str], places_of: Any) -> Traceable:
        """One forward pass in which given regions are looked at."""


def check_regions(detector: Any) -> None:
    """Refuse what does not predict from regions.

    Raises:
        ValueError: a dense detector, or one that cannot be asked.
    """
    if not hasattr(detector, "observe") or "roi_pool" not in getattr(detector, "layers", ()):
        raise ValueError(
            f"bbam asks about one region of an image, as it was published for two-stage detectors, and "
            f"{type(detector).__name__} pools none; use ODAMRCNN, or the method drise, which takes any detector"
        )


class BBAMExplainer:
    """Explains predictions by BBAM, one after the other.

    Args:
        detector: of two stages; it is left as it was found.
        settings: number of steps, and what hidden parts show.
        progress: told (steps done, steps in all) of all predictions of a trace.

    Raises:
        ValueError: a detector without regions.
    """

    # What a trace must hold: it asks for no layer of its own.
    layer = "fpn"

    def __init__(self, detector: RegionDetector, settings: ExplainSettings, progress: Progress | None = None):
        check_regions(detector)
        self.settings, self.progress, self._detector = settings, progress, detector
        self.bbam = BBAM(settings.bbam_steps)

    def __repr__(self) -> str:
        return f"BBAMExplainer({', '.join(f'{name}={value}' for name, value in self.settings.describe().items())})"

    def check(self, targets: Sequence[Target]) -> None:
        """Refuse targets that BBAM does not have.

        Raises:
            ValueError: another target than ``class_score``, a side or ``combined``.
        """
        check_method_targets(self.settings.method, targets)

    def __call__(self, trace: Trace, target: Target = "class_score") -> HeatMaps:
        """One mask for each prediction of the trace, each with a grid of its own.

        Args:
            trace: of a whole image, with its pixels and regions.
            target: whose terms keep the detection, see :class:`odam_d2.explain.masks.bbam.BBAM`.

        Raises:
            ValueError: another target, a trace without pixels or regions, or an answer that is not finite.
        """
        self.check([target])
        if trace.pixels is None or trace.regions is None:
            lacks = "pixels" if trace.pixels is None else "regions"
            raise ValueError(f"{self.settings.method} needs the trace's {lacks}, which this one lacks")
        pixels = trace.pixels.to(trace.boxes.device, torch.float32)
        outside = blurred(pixels) if self.settings.bbam_outside == "blurred" else self._detector.pixel_mean.to(pixels)
        grids = []
        for row in range(len(trace)):
            region, box = trace.regions.boxes[row].detach(), trace.boxes[row].detach()
            tell = self._teller(row, len(trace))
            mask = self.bbam(self._ask(trace, row), pixels, outside, region, box, target, tell)
            stride = mask_stride(box, trace.image_size)
            grids.append(Grid(mask[None], torch.tensor([row], device=mask.device), stride))
        return HeatMaps(tuple(grids), trace.clipped_boxes, trace.image_size, trace.image_size, trace.output_size)

    def _ask(self, trace: Trace, row: int) -> Ask:
        """What the detector says about the regions of one prediction, of every stage, in another image."""
        regions, label = trace.regions.stage_boxes[row : row + 1].detach(), trace.classes[row : row + 1]

        def ask(image: Tensor) -> Answer:
            seen = self._detector.observe([{"image": image}], layers=("fpn",), places_of=[regions])
            found = seen.trace(0, torch.zeros_like(label), label)
            return Answer(found.scores[0], found.boxes[0])

        return ask

    def _teller(self, row: int, count: int) -> Progress | None:
        """Steps of one prediction, told as part of those of all."""
        if self.progress is None:
            return None
        return lambda done, steps: self.progress(row * steps + done, count * steps)
