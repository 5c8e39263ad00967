"""Everything a detector says about one image, before non-maximum suppression: :class:`Predictions`."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from odam_d2.structures.precision import full_precision
from odam_d2.structures.trace import Size


@dataclass(frozen=True, eq=False, repr=False)
class Predictions:
    """All places of one image, without graph.

    Shapes: L places, K classes, B boxes a place: 1, or K where each class has its own box.

    Args:
        boxes: decoded, not clipped, XYXY in network-input pixels, (L,B,4).
        class_vectors: probabilities of all classes but background, (L,K).
        class_scores: what the detector ranks by, for every class, (L,K).
        objectness: of a detector that has one apart from its classes, such as the centerness of FCOS, (L,) in [0,1].
        image_size: (h,w) of the network input before padding.
    """

    boxes: Tensor
    class_vectors: Tensor
    class_scores: Tensor
    objectness: Tensor | None
    image_size: Size

    def __len__(self) -> int:
        return len(self.boxes)

    def __repr__(self) -> str:
        height, width = self.image_size
        return (
            f"Predictions({len(self)} places, {self.class_vectors.shape[1]} classes, network input {height} x {width})"
        )

    def boxes_of(self, classes: Tensor | int) -> Tensor:
        """The box that goes with a class at every place, (L,4).

        Args:
            classes: one class for all places, or one each, (L,) int64.
        """
        if self.boxes.shape[1] == 1:
            return self.boxes[:, 0]
        if isinstance(classes, int):
            return self.boxes[:, classes]
        return self.boxes[torch.arange(len(self), device=self.boxes.device), classes]

    def to_full_precision(self) -> "Predictions":
        """The same, whatever of it autocast made half precision."""
        return replace(
            self,
            boxes=full_precision(self.boxes),
            class_vectors=full_precision(self.class_vectors),
            class_scores=full_precision(self.class_scores),
            objectness=None if self.objectness is None else full_precision(self.objectness),
        )
