"""CWD: Channel-wise Knowledge Distillation for Dense Prediction (Shu et al., ICCV 2021).

Shapes: N images, C channels of the teacher, (Hl,Wl) level.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from odam_d2.distill.distiller import Distiller, check_positive
from odam_d2.distill.objects import Objects


def channel_divergence(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """``T^2 / C sum_c sum_i phi(t)_ci log(phi(t)_ci / phi(s)_ci)``, mean over images.

    phi is the softmax of a channel divided by T over all cells: where in the image the channel responds.

    Args:
        student: (N,C,Hl,Wl).
        teacher: likewise.
        temperature: T.
    """
    own, aim = ((x.flatten(2) / temperature).log_softmax(dim=2) for x in (student, teacher))
    return temperature**2 * (aim.exp() * (aim - own)).sum() / (student.shape[0] * student.shape[1])


class CWD(Distiller):
    """:func:`channel_divergence` on every level, summed over levels.

    Where the widths differ a 1x1 convolution adapts the student's maps. Our reading of the settings for feature
    pyramids: T 1 and weight 10, those of a public configuration (OpenMMLab's MMRazor); the paper's own numbers are for
    segmentation.

    Args:
        strides: network-input pixels per cell of every level.
        student_channels: width of the student's maps.
        teacher_channels: width of the teacher's; None: the same.
        temperature: T.
        weight: of the loss.

    Raises:
        ValueError: a temperature that is not positive, or as in :class:`odam_d2.distill.Distiller`.
    """

    def __init__(
        self,
        strides: Sequence[int],
        student_channels: int,
        teacher_channels: int | None = None,
        temperature: float = 1.0,
        weight: float = 10.0,
    ) -> None:
        check_positive("temperature", temperature)
        super().__init__(strides, student_channels, teacher_channels)
        self.temperature, self.weight = temperature, weight

    def terms(self, student: Sequence[Tensor], teacher: Sequence[Tensor], objects: Objects) -> dict[str, Tensor]:
        """Implements :meth:`odam_d2.distill.Distiller.terms`: channel."""
        levels = [channel_divergence(s, t, self.temperature) for s, t in zip(student, teacher)]
        return {"channel": self.weight * torch.stack(levels).sum()}
