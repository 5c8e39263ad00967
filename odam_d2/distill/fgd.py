"""FGD: Focal and Global Knowledge Distillation for Detectors (Yang et al., CVPR 2022), the baseline of section 5.

Shapes: N images, C channels of the teacher, (Hl,Wl) level.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

from torch import Tensor, nn

from odam_d2.distill.context import GcBlock
from odam_d2.distill.distiller import Distiller, add_up, check_positive
from odam_d2.distill.objects import Objects
from odam_d2.distill.terms import (
    attention_term,
    background_mask,
    channel_attention,
    foreground_mask,
    masked_term,
    relation_term,
    spatial_attention,
    squared_error,
)


@dataclass(frozen=True)
class FGDSettings:
    """Temperature and weights of FGD. A term whose weight is 0 is neither computed nor reported.

    Args:
        temperature: T of both attentions.
        foreground: alpha.
        background: beta.
        attention: gamma.
        relation: lambda.

    Raises:
        ValueError: a temperature that is not positive, or a negative weight.
    """

    temperature: float = 0.5
    foreground: float = 1e-3
    background: float = 5e-4
    attention: float = 5e-4
    relation: float = 5e-6

    def __post_init__(self) -> None:
        check_positive("temperature", self.temperature)
        for field in fields(self)[1:]:
            if getattr(self, field.name) < 0:
                raise ValueError(f"the weight {field.name} is {getattr(self, field.name)}; it must not be negative")


# As published, for one level each: RetinaNet and FCOS have five, two-stage detectors four.
FGD_RETINANET = FGDSettings()
FGD_FCOS = FGDSettings(temperature=0.8, foreground=1.6e-3, background=8e-4, attention=8e-4, relation=8e-6)
FGD_TWO_STAGE = FGDSettings(temperature=0.5, foreground=5e-5, background=2.5e-5, attention=5e-5, relation=5e-7)


class FGD(Distiller):
    """FGD's loss.

    Summed over levels,

        L = alpha sum N_fg S C (F_t - F_s)^2 / N + beta sum N_bg S C (F_t - F_s)^2 / N
            + gamma (sum |S_s - S_t| + sum |C_s - C_t|) / N + lambda sum (R_s(F_s) - R_t(F_t))^2 / N,

    with the teacher's spatial and channel attention S and C, the masks N_fg and N_bg of
    :func:`odam_d2.distill.terms.foreground_mask` and :func:`odam_d2.distill.terms.background_mask`, and a context block
    R for each network (:class:`odam_d2.distill.context.GcBlock`); as published, the teacher's block is learned too.
    Where the widths differ a 1x1 convolution adapts the student's maps first.

    Args:
        strides: network-input pixels per cell of every level.
        student_channels: width of the student's maps.
        teacher_channels: width of the teacher's; None: the same.
        settings: :data:`FGD_RETINANET`, :data:`FGD_FCOS`, :data:`FGD_TWO_STAGE` or your own.

    Raises:
        ValueError: as in :class:`odam_d2.distill.Distiller`.
    """

    def __init__(
        self,
        strides: Sequence[int],
        student_channels: int,
        teacher_channels: int | None = None,
        settings: FGDSettings = FGD_RETINANET,
    ) -> None:
        super().__init__(strides, student_channels, teacher_channels)
        self.settings = settings
        blocks = len(self.strides) if settings.relation else 0
        self.student_blocks = nn.ModuleList(GcBlock(self.teacher_channels) for _ in range(blocks))
        self.teacher_blocks = nn.ModuleList(GcBlock(self.teacher_channels) for _ in range(blocks))

    def terms(self, student: Sequence[Tensor], teacher: Sequence[Tensor], objects: Objects) -> dict[str, Tensor]:
        """Implements :meth:`odam_d2.distill.Distiller.terms`: foreground, background, attention, relation."""
        levels = enumerate(zip(student, teacher))
        return add_up(self._terms_of_level(level, s, t, objects) for level, (s, t) in levels)

    def foreground(self, level: int, mask: Tensor, bottom_up: Tensor, objects: Objects) -> tuple[Tensor, Tensor]:
        """Mask and attention of the foreground on a level, (N,Hl,Wl) each: of all objects, and bottom-up.

        Args:
            level: number of the level.
            mask: foreground mask of all objects, (N,Hl,Wl).
            bottom_up: the teacher's spatial attention, (N,Hl,Wl).
            objects: of the batch.
        """
        return mask, bottom_up

    def _mask(self, level: int, boxes: Sequence[Tensor], objects: Objects, like: Tensor) -> Tensor:
        return foreground_mask(boxes, objects.image_sizes, self.strides[level], tuple(like.shape[1:]))

    def _channel_weight(self, attention: Tensor) -> Tensor | None:
        """What weights the channels of the squared error: their attention (N,C)."""
        return attention

    def _terms_of_level(self, level: int, student: Tensor, teacher: Tensor, objects: Objects) -> dict[str, Tensor]:
        weight, temperature = self.settings, self.settings.temperature
        spatial, channel = spatial_attention(teacher, temperature), channel_attention(teacher, temperature)
        terms = {}
        if weight.foreground or weight.background:
            error = squared_error(student, teacher, self._channel_weight(channel))
            everything = self._mask(level, objects.boxes, objects, spatial)
        if weight.foreground:
            mask, attention = self.foreground(level, everything, spatial, objects)
            terms["foreground"] = weight.foreground * masked_term(error, attention, mask)
        if weight.background:
            terms["background"] = weight.background * masked_term(error, spatial, background_mask(everything))
        if weight.attention:
            own = spatial_attention(student, temperature), channel_attention(student, temperature)
            terms["attention"] = weight.attention * attention_term(own, (spatial, channel))
        if weight.relation:
            seen = self.student_blocks[level](student), self.teacher_blocks[level](teacher)
            terms["relation"] = weight.relation * relation_term(*seen)
        return terms


# By the kind of detector that learns.
FGD_PRESETS = {"retinanet": FGD_RETINANET, "fcos": FGD_FCOS, "two_stage": FGD_TWO_STAGE}
