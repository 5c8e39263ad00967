"""What a detector remembers and what an explanation is; needs torch alone."""

from odam_d2.structures.attention import Attention
from odam_d2.structures.heat_maps import (
    CHUNK_ELEMENTS,
    SMOOTHING_FRACTION,
    Grid,
    HeatMaps,
    box_sides_in_cells,
    gaussian_blur,
    normalize_maps,
)
from odam_d2.structures.precision import full_precision
from odam_d2.structures.predictions import Predictions
from odam_d2.structures.trace import Paste, RankBy, Regions, Size, Subnet, Trace, by_probability

__all__ = [
    "CHUNK_ELEMENTS",
    "SMOOTHING_FRACTION",
    "Attention",
    "Grid",
    "HeatMaps",
    "Paste",
    "Predictions",
    "RankBy",
    "Regions",
    "Size",
    "Subnet",
    "Trace",
    "box_sides_in_cells",
    "by_probability",
    "full_precision",
    "gaussian_blur",
    "normalize_maps",
]
