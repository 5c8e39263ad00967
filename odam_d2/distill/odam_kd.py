"""ODAM-KD, section 5.2: FGD whose foreground is where the detectors look for the objects that matter on a level.

Shapes: N images, C channels of the teacher, (Hl,Wl) level, G objects of an image.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from odam_d2.distill.fgd import FGD, FGD_RETINANET, FGDSettings
from odam_d2.distill.objects import LevelFocus, Objects
from odam_d2.distill.terms import spatial_softmax
from odam_d2.structures import full_precision

FOREGROUNDS = ("focused", "unfocused", "together")
ATTENTIONS = ("bottom_up", "odam", "gradcam")


def top_down_attention(teacher: Tensor, student: Tensor) -> Tensor:
    """M_td of equation (5): ``Hl Wl softmax(max(M_td^T, M_td^S))``, the softmax over all cells of a map.

    There is no temperature. Of two zero maps, as in an image without a key prediction on the level, comes 1
    everywhere: nothing is then stressed.

    Args:
        teacher: its weighted sum of gradients times features, equation (3), (N,Hl,Wl), non-negative.
        student: likewise, equation (4).

    Returns:
        (N,Hl,Wl), without graph: gradients are constants of the loss.

    Raises:
        ValueError: shapes that differ, or negative values.
    """
    if teacher.shape != student.shape or teacher.dim() != 3:
        raise ValueError(f"maps {tuple(teacher.shape)} and {tuple(student.shape)} do not fit; both must be (N,Hl,Wl)")
    combined = torch.maximum(full_precision(teacher.detach()), full_precision(student.detach()))
    lowest = torch.minimum(teacher.detach(), student.detach()).amin()
    if lowest < 0:
        raise ValueError(f"top-down attention has the value {lowest.item():g}; equations (3) and (4) end with a ReLU")
    return spatial_softmax(combined)


class ODAMKD(FGD):
    """ODAM-KD, section 5.2.

    The foreground term of FGD becomes equation (7) on the focused objects of each level,

        sum_ij N (M_bu M_td) sum_k L2(A_k^T, A_k^S),

    with M_bu FGD's spatial attention, M_td :func:`top_down_attention` and N the foreground mask of the objects that
    have a key prediction on the level (:mod:`odam_d2.distill.key_predictions`). L2 is the squared difference, weighted
    by FGD's channel attention.

    The background is where no object is, focused or not, with M_bu; unfocused objects are neither foreground nor
    background. A level without key predictions has M_td = 1, and no focused object either. Attention and relation
    terms are FGD's.

    Rows of Table 7:

    | row | foreground | background | attention |
    |---|---|---|---|
    | (1) | unfocused | no | bottom_up |
    | (2) | focused | no | bottom_up |
    | (3) | together | no | bottom_up |
    | (4) | focused | no | odam |
    | (5), which is FGD | together | yes | bottom_up |
    | (6), the default | focused | yes | odam |
    | (7) | focused | yes | gradcam |

    ``odam`` and ``gradcam`` are one loss: they only tell whoever calls how to make the maps of
    :class:`odam_d2.distill.LevelFocus`.

    Args:
        strides: network-input pixels per cell of every level.
        student_channels: width of the student's maps.
        teacher_channels: width of the teacher's; None: the same.
        settings: FGD's, whose weights stay.
        foreground: the objects whose places are foreground: ``focused``, ``unfocused`` or ``together`` (all).
        background: whether there is a background term.
        attention: of the foreground: ``bottom_up``, M_bu alone, or ``odam`` and ``gradcam``, equation (6).
        weigh_channels: False leaves out the channel attention, which FGD has and equation (7) does not.

    Raises:
        ValueError: an unknown name, or as in :class:`odam_d2.distill.Distiller`.
    """

    def __init__(
        self,
        strides: Sequence[int],
        student_channels: int,
        teacher_channels: int | None = None,
        settings: FGDSettings = FGD_RETINANET,
        foreground: str = "focused",
        background: bool = True,
        attention: str = "odam",
        weigh_channels: bool = True,
    ) -> None:
        for name, value, valid in (("foreground", foreground, FOREGROUNDS), ("attention", attention, ATTENTIONS)):
            if value not in valid:
                raise ValueError(f"{name} is {value!r}; valid values are {', '.join(valid)}")
        if not background:
            settings = replace(settings, background=0.0)
        super().__init__(strides, student_channels, teacher_channels, settings)
        self.foreground_objects, self.attention, self.weigh_channels = foreground, attention, weigh_channels
        # All objects under bottom-up attention are FGD's foreground.
        self.needs = () if (foreground, attention) == ("together", "bottom_up") else ("focus",)

    def foreground(self, level: int, mask: Tensor, bottom_up: Tensor, objects: Objects) -> tuple[Tensor, Tensor]:
        """Mask and attention of the foreground, (N,Hl,Wl) each: N and M_att of equations (6) and (7).

        Args:
            level: number of the level.
            mask: foreground mask of all objects, (N,Hl,Wl).
            bottom_up: M_bu, (N,Hl,Wl).
            objects: of the batch, with their focus.

        Raises:
            ValueError: a focus that does not fit the batch, or maps that are missing.
        """
        if not self.needs:
            return super().foreground(level, mask, bottom_up, objects)
        focus = self._focus(level, objects)
        if self.foreground_objects != "together":
            mask = self._mask(level, self._boxes(focus, objects), objects, bottom_up)
        if self.attention == "bottom_up":
            return mask, bottom_up
        maps = focus.teacher_attention, focus.student_attention
        if any(x is None or x.shape != bottom_up.shape for x in maps):
            found = " and ".join("None" if x is None else str(tuple(x.shape)) for x in maps)
            raise ValueError(
                f"attention={self.attention!r} needs maps {tuple(bottom_up.shape)} of teacher and student on level "
                f"{level}, not {found}; the focus of a level has to hold them"
            )
        return mask, bottom_up * top_down_attention(*maps)

    def _channel_weight(self, attention: Tensor) -> Tensor | None:
        return attention if self.weigh_channels else None

    def _focus(self, level: int, objects: Objects) -> LevelFocus:
        if len(objects.focus) != len(self.strides):
            raise ValueError(f"a focus for {len(objects.focus)} levels; this ODAMKD has {len(self.strides)}")
        focus = objects.focus[level]
        if len(focus.focused) != len(objects):
            raise ValueError(f"focused objects of {len(focus.focused)} images on level {level}, of {len(objects)}")
        return focus

    def _boxes(self, focus: LevelFocus, objects: Objects) -> list[Tensor]:
        """The boxes of the focused objects, or of the others, image by image."""
        chosen = []
        for boxes, focused in zip(objects.boxes, focus.focused):
            is_focused = torch.zeros(len(boxes), dtype=torch.bool, device=boxes.device)
            is_focused[focused] = True
            chosen.append(boxes[is_focused if self.foreground_objects == "focused" else ~is_focused])
        return chosen
