"""What non-maximum suppression gets and what it did: :class:`Candidates` and :class:`Suppression`.

Shapes: D candidates, K kept ones, (gh,gw) the coarse grid on which maps are compared, E embedding.
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from odam_d2.nms.removals import Removals
from odam_d2.structures import Size, Trace


@dataclass(frozen=True, eq=False, repr=False)
class Candidates:
    """The predictions of one image that enter NMS. What explains or embeds them is made when somebody asks for it.

    Args:
        boxes: XYXY in network-input pixels, (D,4).
        scores: (D,).
        classes: (D,) int64.
        places: where the detector made each, (D,) int64.
        image_size: (h,w) of the network input before padding, which the boxes refer to.
        trace: makes the trace of all of them, in this order.
        embeddings: makes their embeddings (D,E); None where the detector has no embedding head.
    """

    boxes: Tensor
    scores: Tensor
    classes: Tensor
    places: Tensor
    image_size: Size
    trace: Callable[[], Trace]
    embeddings: Callable[[], Tensor] | None = None

    def __len__(self) -> int:
        return len(self.boxes)

    def __repr__(self) -> str:
        height, width = self.image_size
        return f"Candidates({len(self)} of an image of {height} x {width})"


@dataclass(frozen=True, eq=False, repr=False)
class Suppression:
    """What an NMS did with the candidates of one image.

    Args:
        boxes: of all candidates, (D,4).
        scores: before NMS, (D,).
        classes: (D,) int64.
        image_size: (h,w) that the boxes refer to.
        iou_threshold: that the NMS was given.
        keep: the kept candidates, at most as many as the detector returns, by descending score, (K,) int64.
        kept_scores: their scores after NMS, decayed by Soft-NMS, (K,).
        removals: makes the list of removed candidates, see :attr:`removed`.
        maps: what ODAM-NMS compared, (D,gh,gw).
        correlation: how it compared them, ``cosine`` or ``pearson``.
    """

    boxes: Tensor
    scores: Tensor
    classes: Tensor
    image_size: Size
    iou_threshold: float
    keep: Tensor
    kept_scores: Tensor
    removals: Callable[[], Removals]
    maps: Tensor | None = None
    correlation: str = "cosine"

    def __repr__(self) -> str:
        maps = "" if self.maps is None else f", compared maps of {self.maps.shape[1]} x {self.maps.shape[2]}"
        return f"Suppression(kept {len(self.keep)} of {len(self.boxes)} candidates{maps})"

    @property
    def removed(self) -> Removals:
        """Who was removed, by whom, and how much the two overlap and correlate.

        Raises:
            ValueError: Soft-NMS, which lowers scores and removes nobody.
        """
        return self.removals()
