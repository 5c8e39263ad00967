"""FGFI: Distilling Object Detectors with Fine-grained Feature Imitation (Wang et al., CVPR 2019).

Shapes: N images, C channels of the teacher, (Hl,Wl) level, A anchors a cell, G objects of an image.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.ops import box_iou

from odam_d2.distill.distiller import Distiller
from odam_d2.distill.objects import Objects
from odam_d2.distill.terms import squared_error
from odam_d2.structures import Size, full_precision


def near_object_masks(
    anchors: Sequence[Tensor], boxes: Tensor, level_sizes: Sequence[Size], ratio: float = 0.5
) -> list[Tensor]:
    """The cells of an image with an anchor near an object: ``IoU > psi max IoU`` for one object at least.

    The maximum is taken for each object over all its anchors. Our reading for a feature pyramid, which the paper does
    not have: over those of all levels, so that an object is imitated where the detector finds objects of its size.

    Args:
        anchors: of each level, (Hl * Wl * A,4), XYXY, row by row with a cell's anchors together.
        boxes: of the objects, (G,4).
        level_sizes: (Hl,Wl) of each level.
        ratio: psi.

    Returns:
        for each level (Hl,Wl) bool; without objects all False.

    Raises:
        ValueError: a number of anchors that no number of anchors a cell explains.
    """
    for found, (height, width) in zip(anchors, level_sizes):
        if len(found) == 0 or len(found) % (height * width):
            raise ValueError(
                f"{len(found)} anchors for a level of {height} x {width} cells; give the same number to each"
            )
    if len(boxes) == 0:
        return [found.new_zeros(size, dtype=torch.bool) for found, size in zip(anchors, level_sizes)]
    iou = box_iou(full_precision(boxes), full_precision(torch.cat(list(anchors))))
    near = (iou > ratio * iou.amax(dim=1, keepdim=True)).any(dim=0)
    of_level = near.split([len(found) for found in anchors])
    return [x.reshape(*size, -1).any(dim=2) for x, size in zip(of_level, level_sizes)]


def imitation_term(errors: Sequence[Tensor], masks: Sequence[Tensor]) -> Tensor:
    """``1 / (2 N_p) sum_ij I_ij sum_c (f(S) - T)_ijc^2`` with N_p the number of cells in the masks I.

    Our reading for a pyramid and a batch: N_p counts the cells of all levels and images.

    Args:
        errors: squared difference of each level, summed over channels, (N,Hl,Wl).
        masks: I, (N,Hl,Wl) bool.

    Returns:
        scalar; 0 where all masks are empty.
    """
    cells = sum(int(mask.sum()) for mask in masks)
    total = torch.stack([(error * mask).sum() for error, mask in zip(errors, masks)]).sum()
    return total / (2 * max(cells, 1))


class FGFI(Distiller):
    """The student imitates the teacher's features at anchors near objects.

    :func:`near_object_masks` says where, :func:`imitation_term` how. A 3x3 convolution, also where the widths agree,
    adapts the student's maps.

    Needs anchors. Published: psi 0.5, weight 0.01 (the authors' code).

    Args:
        strides: network-input pixels per cell of every level.
        student_channels: width of the student's maps.
        teacher_channels: width of the teacher's; None: the same.
        ratio: psi, in [0,1).
        weight: lambda, of the loss.

    Raises:
        ValueError: a ratio out of its range, or as in :class:`odam_d2.distill.Distiller`.
    """

    needs = ("anchors",)

    def __init__(
        self,
        strides: Sequence[int],
        student_channels: int,
        teacher_channels: int | None = None,
        ratio: float = 0.5,
        weight: float = 0.01,
    ) -> None:
        if not 0 <= ratio < 1:
            raise ValueError(f"ratio is {ratio}; it must be in [0,1)")
        super().__init__(strides, student_channels, teacher_channels, kernel_size=3, always_adapt=True)
        self.ratio, self.weight = ratio, weight

    def terms(self, student: Sequence[Tensor], teacher: Sequence[Tensor], objects: Objects) -> dict[str, Tensor]:
        """Implements :meth:`odam_d2.distill.Distiller.terms`: imitation."""
        sizes = [tuple(maps.shape[2:]) for maps in student]
        if len(objects.anchors) != len(sizes):
            raise ValueError(f"anchors of {len(objects.anchors)} levels; this FGFI has {len(sizes)}")
        of_images = [near_object_masks(objects.anchors, boxes, sizes, self.ratio) for boxes in objects.boxes]
        masks = [torch.stack(of_level) for of_level in zip(*of_images)]
        errors = [squared_error(s, t) for s, t in zip(student, teacher)]
        return {"imitation": self.weight * imitation_term(errors, masks)}
