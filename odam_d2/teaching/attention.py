"""What ODAM-KD's attention is in one image, outside training, to be looked at as in Figure 16.

Shapes: (Hl,Wl) level, G objects, n levels.
"""

from dataclasses import dataclass
from typing import Any

import torch
from detectron2.structures import Instances
from torch import Tensor, nn

from odam_d2.distill.odam_kd import top_down_attention
from odam_d2.distill.terms import spatial_attention
from odam_d2.structures import Grid, HeatMaps
from odam_d2.teaching.fit import Levels
from odam_d2.teaching.focus import key_focus
from odam_d2.teaching.teacher import Teacher
from odam_d2.teaching.training_pass import match_places


@dataclass(frozen=True, eq=False)
class ImageAttention:
    """The attention of one image.

    Args:
        levels: which.
        focused: of each level the objects with a key prediction there, int64.
        maps: ``M_bu``, ``M_td`` and ``M_att``, each of every level, (Hl,Wl).
        image_size: (h,w) of the network input.
        padded_size: (H,W).
        output_size: (ho,wo) of the image.
    """

    levels: Levels
    focused: list[Tensor]
    maps: dict[str, list[Tensor]]
    image_size: tuple[int, int]
    padded_size: tuple[int, int]
    output_size: tuple[int, int]

    def heat_maps(self, name: str) -> HeatMaps:
        """One of the maps, of all levels, registered to the image; pictures show it from its smallest value on.

        Args:
            name: of :attr:`maps`.
        """
        own = self.maps[name]
        device = own[0].device
        grids = tuple(
            Grid(level[None], torch.tensor([row], device=device), stride)
            for row, (level, stride) in enumerate(zip(own, self.levels.strides))
        )
        lowest = torch.stack([level.min() for level in own])
        boxes = torch.zeros(len(own), 4, device=device)
        sizes = self.image_size, self.padded_size, self.output_size
        return HeatMaps(grids, boxes, *sizes, background=lowest)


def image_attention(
    student: nn.Module,
    teacher: Teacher,
    levels: Levels,
    batched_input: dict[str, Any],
    objects: Instances,
    temperature: float,
    attention: str = "odam",
) -> ImageAttention:
    """Equations (3) to (6) for one image.

    Args:
        student: a detector with weights.
        teacher: that fits it.
        levels: the student's.
        batched_input: the image as Detectron2's models take it.
        objects: ``gt_boxes`` in network-input pixels and ``gt_classes``; a two-stage student's regions are those that
            its first stage proposes.
        temperature: T of the bottom-up attention.
        attention: ``odam`` or ``gradcam``.
    """
    own = student.observe([batched_input])
    seen = teacher.observe([batched_input], places_of=own)
    boxes = objects.gt_boxes.tensor
    focus = key_focus(seen, own, match_places(own, [objects]), [boxes], levels.names, attention)
    maps: dict[str, list[Tensor]] = {"M_bu": [], "M_td": [], "M_att": []}
    for level, features in zip(focus, seen.feature_maps(levels.names)):
        bottom_up = spatial_attention(features.detach().float(), temperature)[0]
        top_down = top_down_attention(level.teacher_attention, level.student_attention)[0]
        for name, one in zip(maps, (bottom_up, top_down, bottom_up * top_down)):
            maps[name].append(one)
    focused = [level.focused[0] for level in focus]
    return ImageAttention(levels, focused, maps, own.image_sizes[0], own.padded_size, own.output_size(0))
