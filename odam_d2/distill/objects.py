"""What a distiller may be told about a batch besides its feature maps: :class:`Objects`.

Shapes: N images, G ground-truth objects of an image, (Hl,Wl) level, A anchors a cell, L places of an image, K classes,
F focused objects. Boxes are XYXY in network-input pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from odam_d2.structures import Size


class LevelFocus(NamedTuple):
    """What ODAM-KD looks at on one level of a batch.

    Attributes:
        focused: of each image the objects with a key prediction on this level, each once, as positions in its boxes,
            (F,) int64; see :attr:`odam_d2.distill.KeyPredictions.focused`.
        teacher_attention: top-down attention of the teacher, equation (3), non-negative, (N,Hl,Wl); zero in an image
            without a key prediction on this level. None where none is used.
        student_attention: of the student, equation (4), likewise.
    """

    focused: Sequence[Tensor]
    teacher_attention: Tensor | None = None
    student_attention: Tensor | None = None


class Responses(NamedTuple):
    """What one network predicts at all places of a batch.

    Attributes:
        logits: of all classes but background, (N,L,K).
        boxes: decoded, (N,L,4).
        deltas: the box regression before it was decoded, (N,L,4); None where it is not to be imitated.
    """

    logits: Tensor
    boxes: Tensor
    deltas: Tensor | None = None


@dataclass(frozen=True, eq=False, repr=False)
class Objects:
    """The ground-truth objects of a batch, and what particular distillers want to know about it.

    :attr:`odam_d2.distill.Distiller.needs` names the optional fields that a distiller reads.

    Args:
        boxes: of each image, (G,4); parts outside the image are cut off, and a box that has no part inside it
            covers nothing.
        image_sizes: (h,w) of each image before padding.
        anchors: of each level, (Hl * Wl * A,4), row by row with a cell's anchors together, as Detectron2's anchor
            generators list them.
        focus: of each level.
        student_responses: the student's predictions, with graph.
        teacher_responses: the teacher's at the same places.

    Raises:
        ValueError: lists of different lengths, or boxes that are not (G,4).
    """

    boxes: Sequence[Tensor]
    image_sizes: Sequence[Size]
    anchors: Sequence[Tensor] | None = None
    focus: Sequence[LevelFocus] | None = None
    student_responses: Responses | None = None
    teacher_responses: Responses | None = None

    def __post_init__(self) -> None:
        if len(self.boxes) != len(self.image_sizes):
            raise ValueError(f"boxes of {len(self.boxes)} images and sizes of {len(self.image_sizes)}; give one each")
        for number, boxes in enumerate(self.boxes):
            if boxes.dim() != 2 or boxes.shape[1] != 4:
                raise ValueError(f"the boxes of image {number} have shape {tuple(boxes.shape)}; they must be (G,4)")

    def __len__(self) -> int:
        return len(self.boxes)

    def __repr__(self) -> str:
        counts = ", ".join(str(len(boxes)) for boxes in self.boxes)
        optional = ("anchors", "focus", "student_responses", "teacher_responses")
        given = "".join(f", {name}" for name in optional if getattr(self, name) is not None)
        return f"Objects({counts} in {len(self)} images{given})"
