"""How a trainer calls any feature distiller: :class:`Distiller`.

Shapes: N images, Cs and Ct channels of student and teacher, (Hl,Wl) level.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from odam_d2.distill.objects import Objects
from odam_d2.structures import full_precision

# Losses are called so in a trainer's record, before the name of the term.
PREFIX = "loss_distill_"


class Distiller(nn.Module, ABC):
    """A loss between the feature maps of two networks, with the parameters it learns beside the student's.

    ``distiller(student_levels, teacher_levels, objects)`` returns weighted scalars by name, ``loss_distill_...``, ready
    to be added to a detector's losses. They are taken in full precision, under autocast and of half-precision maps
    too (float64 maps stay float64, then the module's parameters have to be of it as well), and no gradient reaches the
    teacher.

    A subclass says how one batch is compared in :meth:`terms`.

    Args:
        strides: network-input pixels per cell of every level, fine to coarse.
        student_channels: Cs.
        teacher_channels: Ct; None: the same.
        kernel_size: of the convolution that adapts the student's maps to the teacher's channels.
        always_adapt: there is such a convolution also where the widths agree.
        share_adapter: one convolution serves all levels.

    Raises:
        ValueError: no level, or a stride that is not positive.
    """

    needs: tuple[str, ...] = ()
    """The optional fields of :class:`odam_d2.distill.Objects` that this distiller reads."""

    def __init__(
        self,
        strides: Sequence[int],
        student_channels: int,
        teacher_channels: int | None = None,
        kernel_size: int = 1,
        always_adapt: bool = False,
        share_adapter: bool = False,
    ) -> None:
        super().__init__()
        if not strides or min(strides) <= 0:
            raise ValueError(f"strides are {tuple(strides)}; name the positive stride of every level")
        self.strides = tuple(strides)
        self.student_channels = student_channels
        self.teacher_channels = student_channels if teacher_channels is None else teacher_channels
        self.adapters = nn.ModuleList()
        if always_adapt or self.student_channels != self.teacher_channels:
            count = 1 if share_adapter else len(self.strides)
            shape = (self.student_channels, self.teacher_channels, kernel_size)
            self.adapters.extend(nn.Conv2d(*shape, padding=kernel_size // 2) for _ in range(count))

    def forward(
        self, student_levels: Sequence[Tensor], teacher_levels: Sequence[Tensor], objects: Objects
    ) -> dict[str, Tensor]:
        """The losses of one batch.

        Args:
            student_levels: one map a level, (N,Cs,Hl,Wl).
            teacher_levels: likewise, (N,Ct,Hl,Wl).
            objects: of the same images; it has the fields that :attr:`needs` names.

        Returns:
            scalars by name, each already multiplied by its weight; connected to the student's maps also where an image
            has no object.

        Raises:
            ValueError: levels or objects that do not fit, or a field that is missing.
        """
        self._check(student_levels, teacher_levels, objects)
        with torch.autocast(student_levels[0].device.type, enabled=False):
            student = [self._adapt(level, full_precision(maps)) for level, maps in enumerate(student_levels)]
            teacher = [full_precision(maps.detach()) for maps in teacher_levels]
            terms = self.terms(student, teacher, objects)
        return {PREFIX + name: value for name, value in terms.items()}

    @abstractmethod
    def terms(self, student: Sequence[Tensor], teacher: Sequence[Tensor], objects: Objects) -> dict[str, Tensor]:
        """The weighted terms of one batch.

        Args:
            student: adapted maps of the student, (N,Ct,Hl,Wl), full precision.
            teacher: maps of the teacher, the same shapes, without graph.
            objects: as in :meth:`forward`.
        """

    def _adapt(self, level: int, maps: Tensor) -> Tensor:
        if not self.adapters:
            return maps
        return self.adapters[level if len(self.adapters) > 1 else 0](maps)

    def _check(self, student_levels: Sequence[Tensor], teacher_levels: Sequence[Tensor], objects: Objects) -> None:
        if not len(student_levels) == len(teacher_levels) == len(self.strides):
            raise ValueError(
                f"{len(student_levels)} levels of the student and {len(teacher_levels)} of the teacher; "
                f"this {type(self).__name__} was made for {len(self.strides)}"
            )
        for stride, student, teacher in zip(self.strides, student_levels, teacher_levels):
            rest = (len(objects), *student.shape[2:])
            expected = tuple(
                (rest[0], channels, *rest[1:]) for channels in (self.student_channels, self.teacher_channels)
            )
            found = tuple(student.shape), tuple(teacher.shape)
            if student.dim() != 4 or found != expected:
                raise ValueError(
                    f"maps {found[0]} of the student and {found[1]} of the teacher at stride {stride} do not fit "
                    f"{len(objects)} images, {self.student_channels} and {self.teacher_channels} channels on one grid"
                )
            extent = tuple(stride * side for side in rest[1:])
            for size in objects.image_sizes:
                if size[0] > extent[0] or size[1] > extent[1]:
                    raise ValueError(
                        f"an image of {size[0]} x {size[1]} pixels reaches beyond a level of {rest[1]} x {rest[2]} "
                        f"cells of {stride} pixels; check the strides"
                    )
        for name in self.needs:
            if getattr(objects, name) is None:
                raise ValueError(f"{type(self).__name__} needs Objects({name}=...), and it is None")


def add_up(parts: Iterable[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Sums of what has the same name, in the order in which names appear."""
    total: dict[str, Tensor] = {}
    for part in parts:
        for name, value in part.items():
            total[name] = total[name] + value if name in total else value
    return total


def check_positive(name: str, value: float) -> None:
    """Refuse a setting that has to be more than 0.

    Raises:
        ValueError: it is not.
    """
    if not value > 0:
        raise ValueError(f"{name} is {value}; it must be more than 0")
