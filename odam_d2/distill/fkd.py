"""FKD: Improve Object Detection with Feature-based Knowledge Distillation (Zhang and Ma, ICLR 2021).

Shapes: N images, C channels of the teacher, (Hl,Wl) level.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from odam_d2.distill.context import NonLocalBlock
from odam_d2.distill.distiller import Distiller, add_up, check_positive
from odam_d2.distill.objects import Objects
from odam_d2.distill.terms import spatial_softmax


@dataclass(frozen=True)
class FKDSettings:
    """Temperature and weights of FKD.

    Args:
        temperature: T of the masks.
        feature: of the masked difference of features.
        attention: of the difference of attentions.
        relation: of the difference behind non-local blocks.

    Raises:
        ValueError: a temperature that is not positive.
    """

    temperature: float = 0.5
    feature: float = 4e-4
    attention: float = 2e-2
    relation: float = 4e-4

    def __post_init__(self) -> None:
        check_positive("temperature", self.temperature)


# Our reading of the paper's two settings.
FKD_ONE_STAGE = FKDSettings()
FKD_TWO_STAGE = FKDSettings(temperature=0.1, feature=7e-5, attention=4e-3, relation=7e-5)


def magnitudes(features: Tensor) -> tuple[Tensor, Tensor]:
    """G^s and G^c: mean of |F| over channels (N,Hl,Wl), and over cells (N,C)."""
    size = features.abs()
    return size.mean(dim=1), size.mean(dim=(2, 3))


def attention_mask(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """``M^s M^c``, the attention of both networks together, without graph: a constant of the loss.

    ``M^s = Hl Wl softmax((G^s(S) + G^s(T)) / T)`` and ``M^c = C softmax((G^c(S) + G^c(T)) / T)``.

    Args:
        student: (N,C,Hl,Wl).
        teacher: likewise.
        temperature: T.

    Returns:
        (N,C,Hl,Wl).
    """
    spatial, channel = (a + b for a, b in zip(magnitudes(student.detach()), magnitudes(teacher.detach())))
    spatial = spatial_softmax(spatial, temperature)
    channel = student.shape[1] * (channel / temperature).softmax(dim=1)
    return spatial[:, None] * channel[:, :, None, None]


def masked_feature_term(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """L_AM: ``(sum (T - S)^2 M^s M^c)^(1/2)``.

    Args:
        student: (N,C,Hl,Wl).
        teacher: likewise.
        mask: M^s M^c, see :func:`attention_mask`.
    """
    # The norm has a finite gradient, 0, where the networks agree.
    return torch.linalg.vector_norm((student - teacher) * mask.sqrt())


def attention_transfer_term(student: Tensor, teacher: Tensor) -> Tensor:
    """L_AT: ``||G^s(S) - G^s(T)||_2 + ||G^c(S) - G^c(T)||_2``.

    Args:
        student: (N,C,Hl,Wl).
        teacher: likewise.
    """
    spatial, channel = (torch.linalg.vector_norm(a - b) for a, b in zip(magnitudes(student), magnitudes(teacher)))
    return spatial + channel


class FKD(Distiller):
    """Attention-guided and non-local distillation.

    Summed over levels,

        L = feature L_AM + attention L_AT + relation || f(R_s(F_s)) - R_t(F_t) ||_2,

    with :func:`masked_feature_term`, :func:`attention_transfer_term`, a non-local block R for each network, both
    learned (:class:`odam_d2.distill.context.NonLocalBlock`), and a 1x1 convolution f. A 1x1 convolution, also where the
    widths agree, adapts the student's maps.

    Our reading: norms are taken over a whole batch, as the authors' code does, and relations are those of standard
    dot-product blocks. Attention is compared as the paper writes it, of adapted maps; the code learns a further
    adaptation of the attentions, and leaves the channel mask out.

    Args:
        strides: network-input pixels per cell of every level.
        student_channels: width of the student's maps.
        teacher_channels: width of the teacher's; None: the same.
        settings: :data:`FKD_ONE_STAGE`, :data:`FKD_TWO_STAGE` or your own.
    """

    def __init__(
        self,
        strides: Sequence[int],
        student_channels: int,
        teacher_channels: int | None = None,
        settings: FKDSettings = FKD_ONE_STAGE,
    ) -> None:
        super().__init__(strides, student_channels, teacher_channels, always_adapt=True)
        self.settings = settings
        channels = self.teacher_channels
        self.student_blocks = nn.ModuleList(NonLocalBlock(channels) for _ in self.strides)
        self.teacher_blocks = nn.ModuleList(NonLocalBlock(channels) for _ in self.strides)
        self.relation_adapters = nn.ModuleList(nn.Conv2d(channels, channels, 1) for _ in self.strides)

    def terms(self, student: Sequence[Tensor], teacher: Sequence[Tensor], objects: Objects) -> dict[str, Tensor]:
        """Implements :meth:`odam_d2.distill.Distiller.terms`: feature, attention, relation."""
        return add_up(self._terms_of_level(level, *maps) for level, maps in enumerate(zip(student, teacher)))

    def _terms_of_level(self, level: int, student: Tensor, teacher: Tensor) -> dict[str, Tensor]:
        own = self.relation_adapters[level](self.student_blocks[level](student))
        relation = torch.linalg.vector_norm(own - self.teacher_blocks[level](teacher))
        weight = self.settings
        mask = attention_mask(student, teacher, weight.temperature)
        return {
            "feature": weight.feature * masked_feature_term(student, teacher, mask),
            "attention": weight.attention * attention_transfer_term(student, teacher),
            "relation": weight.relation * relation,
        }
