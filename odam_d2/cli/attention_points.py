"""What places of an image attend to, for people who click on the page: ``odam explain --attention-points``."""

import torch
from torch import Tensor, nn

from odam_d2.explain import location_attention
from odam_d2.show.page import MAP_SIDE, PlaceMaps, fit
from odam_d2.structures import Size, Trace

# Along the image's longer side. More would make a page of megabytes, and the encoder has hardly more cells.
MOST_POINTS = 64


def check_count(count: int) -> None:
    """Refuse numbers of points that no page has room for.

    Raises:
        ValueError: names the number.
    """
    if not 0 <= count <= MOST_POINTS:
        raise ValueError(f"--attention-points is {count}; it must lie between 0, for none, and {MOST_POINTS}")


def check_attends(detector: nn.Module) -> None:
    """Refuse detectors without attention among all cells, before any image is looked at.

    Raises:
        ValueError: names the detector.
    """
    family = getattr(detector, "family", None)
    if family is None or not family.dense:
        name = type(detector).__name__ if family is None else family.title
        raise ValueError(
            "--attention-points needs a transformer in which every cell of the encoder attends to every other, such as "
            f"DETR and Conditional DETR; {name} is none"
        )


def place_maps(trace: Trace, count: int) -> PlaceMaps:
    """Attention of a grid of places in the encoder's last layer.

    Args:
        trace: of a transformer whose cells attend to each other; it may hold no prediction.
        count: places along the image's longer side.

    Returns:
        maps of about the encoder's own resolution, each scaled to its maximum.
    """
    cells, points = place_grid(trace.output_size, count)
    size = tuple(max(1, round(side / trace.attention.stride)) for side in trace.image_size)
    maps = location_attention(trace, points).to_picture(fit(size, MAP_SIDE))
    return PlaceMaps(cells, maps.cpu().numpy())


def place_grid(size: Size, count: int) -> tuple[tuple[int, int], Tensor]:
    """Centres of equal parts of an image, as square as may be.

    Args:
        size: (h,w) of the image.
        count: parts along its longer side.

    Returns:
        (rows, columns), and (x,y) in pixels of the image, row by row, (rows * columns,2) float64.
    """
    rows, columns = (max(1, round(count * side / max(size))) for side in size)
    y, x = (
        (torch.arange(parts, dtype=torch.float64) + 0.5) * (side / parts) for parts, side in zip((rows, columns), size)
    )
    grid = torch.meshgrid(y, x, indexing="ij")
    return (rows, columns), torch.stack(grid[::-1], dim=-1).flatten(0, 1)
