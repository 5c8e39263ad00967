"""D-RISE with the call of every explainer, ``explainer(trace, target) -> HeatMaps``: it looks at the trace's image.

Shapes: D detections, (h,w) network input before padding.
"""

from collections.abc import Sequence

from odam_d2.explain.masks.drise import (
    DRISE,
    Detect,
    DRISEState,
    Progress,
    Proposals,
    drise_heat_maps,
    find_class_vectors,
)
from odam_d2.structures import HeatMaps, Trace

# The name of the method, and the only target it has.
BLACK_BOX, WHOLE_DETECTION = "drise", "class_score"


class BlackBoxExplainer:
    """Explains detections by D-RISE; all detections of a trace share the masked images.

    Args:
        detect: the detector, see :func:`odam_d2.modeling.proposals.proposal_function`.
        every: the same with all it says about an image, without NMS: class vectors are looked up there.
        drise: number of masks and the like.
        progress: told after every batch.
    """

    # What a trace must hold: it asks for no layer of its own.
    layer = "fpn"

    def __init__(self, detect: Detect, every: Detect, drise: DRISE, progress: Progress | None = None):
        self.detect, self.every, self.drise, self.progress = detect, every, drise, progress

    def check(self, targets: Sequence[str]) -> None:
        """Refuse targets that D-RISE does not have.

        Raises:
            ValueError: another target than ``class_score``.
        """
        for target in targets:
            if target != WHOLE_DETECTION:
                raise ValueError(
                    f"{BLACK_BOX} explains a detection as a whole, its box and its class together; its only target is "
                    f"{WHOLE_DETECTION}, not {target!r}"
                )

    def __call__(self, trace: Trace, target: str = WHOLE_DETECTION, state: DRISEState | None = None) -> HeatMaps:
        """One map for each detection of the trace.

        Args:
            trace: of a whole image, with its pixels.
            target: ``class_score``.
            state: of an interrupted run; it is kept up to date.

        Raises:
            ValueError: another target, a trace without pixels, or what :class:`odam_d2.explain.DRISE` refuses.
        """
        self.check([target])
        if trace.pixels is None:
            raise ValueError(f"{BLACK_BOX} needs the trace's pixels, which this one lacks")
        pixels = trace.pixels.to(trace.boxes.device)
        (found,) = self.every(pixels[None])
        vectors = find_class_vectors(Proposals(*found), trace.boxes, trace.classes)
        maps = self.drise(self.detect, pixels, trace.boxes, vectors, state, self.progress)
        return drise_heat_maps(maps, trace.boxes, trace.output_size)
