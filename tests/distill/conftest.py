"""A small batch with all that any distiller wants to know."""

import pytest
import torch

from odam_d2.distill import LevelFocus, Objects, Responses

STRIDES = (8, 16)
SIZES = ((6, 8), (3, 4))


def anchors_of(stride, size):
    """Two square anchors a cell, of two and three strides."""
    y, x = torch.meshgrid(*(stride * (torch.arange(side) + 0.5) for side in size), indexing="ij")
    centre = torch.stack([x, y, x, y], dim=-1).reshape(-1, 1, 4)
    half = stride * torch.tensor([2.0, 3.0])[:, None] / 2
    return (centre + half * torch.tensor([-1.0, -1.0, 1.0, 1.0])).reshape(-1, 4)


@pytest.fixture
def make_batch():
    """(student levels, teacher levels, objects) of two images on two levels; their numbers of objects can be chosen."""

    def make(seed=0, student_channels=4, teacher_channels=4, first=3, second=1, dtype=torch.float32):
        generator = torch.Generator().manual_seed(seed)

        def draw(*shape):
            return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

        student, teacher = (
            [draw(2, channels, *size) for size in SIZES] for channels in (student_channels, teacher_channels)
        )
        corners = [40 * torch.rand(count, 2, generator=generator) - 5 for count in (first, second)]
        sides = [8 + 30 * torch.rand(len(x), 2, generator=generator) for x in corners]
        boxes = [torch.cat([corner, corner + side], dim=1) for corner, side in zip(corners, sides)]
        anchors = [anchors_of(*level) for level in zip(STRIDES, SIZES)]
        places = torch.cat(anchors).to(dtype)
        focus = [
            LevelFocus([torch.arange(min(2, first)), torch.arange(0)], draw(2, *size).relu(), draw(2, *size).relu())
            for size in SIZES
        ]
        responses = [
            Responses(draw(2, len(places), 3), places + 2 * draw(2, len(places), 4), draw(2, len(places), 4))
            for _ in range(2)
        ]
        objects = Objects(boxes, [(40, 60), (48, 64)], anchors, focus, *responses)
        return student, teacher, objects

    return make
