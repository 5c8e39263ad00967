"""PKD: General Distillation Framework for Object Detectors via Pearson Correlation (Cao et al., NeurIPS 2022).

Shapes: N images, C channels of the teacher, (Hl,Wl) level.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from odam_d2.distill.distiller import Distiller
from odam_d2.distill.objects import Objects

# Added to standard deviations, so that a constant channel becomes 0.
EPSILON = 1e-6


def standardize(features: Tensor) -> Tensor:
    """Each channel less its mean and divided by its standard deviation over the cells of all images, (N,C,Hl,Wl)."""
    over = (0, 2, 3)
    deviation = features.std(dim=over, keepdim=True, correction=0)
    return (features - features.mean(dim=over, keepdim=True)) / (deviation + EPSILON)


def pearson_term(student: Tensor, teacher: Tensor) -> Tensor:
    """Half the mean squared difference of standardised maps: 1 - r, the mean over channels of Pearson's correlation r.

    Neither scale nor offset of a channel matters. A constant channel of either network counts 1/2, of both 0.

    Args:
        student: (N,C,Hl,Wl).
        teacher: likewise.
    """
    return F.mse_loss(standardize(student), standardize(teacher)) / 2


class PKD(Distiller):
    """:func:`pearson_term` on every level, summed over levels.

    Where the widths differ a 1x1 convolution adapts the student's maps; the paper compares networks of one width. The
    weight is 10 for RetinaNet and 6 for two-stage detectors in the authors' public configurations.

    Args:
        strides: network-input pixels per cell of every level.
        student_channels: width of the student's maps.
        teacher_channels: width of the teacher's; None: the same.
        weight: of the loss.
    """

    def __init__(
        self,
        strides: Sequence[int],
        student_channels: int,
        teacher_channels: int | None = None,
        weight: float = 10.0,
    ) -> None:
        super().__init__(strides, student_channels, teacher_channels)
        self.weight = weight

    def terms(self, student: Sequence[Tensor], teacher: Sequence[Tensor], objects: Objects) -> dict[str, Tensor]:
        """Implements :meth:`odam_d2.distill.Distiller.terms`: pearson."""
        levels = [pearson_term(s, t) for s, t in zip(student, teacher)]
        return {"pearson": self.weight * torch.stack(levels).sum()}
