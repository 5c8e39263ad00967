"""Strong augmentation for training a detector on few images: scale jitter, square crops, colour jitter, mosaics.

Shapes: S side of the training crop in pixels.
"""

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetMapper
from detectron2.data import detection_utils as utils
from detectron2.data import transforms as T
from detectron2.structures import Boxes, Instances

from odam_d2.data.crowd_mapper import CrowdMapper

# Remainders of objects that a crop has cut down to fewer pixels than this a side teach nothing.
MIN_BOX_SIDE = 4


def build_augmentations(size: int, scale_range: Sequence[float], color_jitter: float) -> list[T.Augmentation]:
    """Augmentations that yield a ``size`` x ``size`` image.

    Args:
        size: side of the crop in pixels.
        scale_range: the image, fitted into the crop, is scaled by a random factor from this range before cropping.
        color_jitter: brightness, contrast and saturation vary within 1 +- this value.
    """
    low, high = 1 - color_jitter, 1 + color_jitter
    color = [T.RandomBrightness(low, high), T.RandomContrast(low, high), T.RandomSaturation(low, high)]
    return [
        T.ResizeScale(scale_range[0], scale_range[1], size, size),
        T.FixedSizeCrop((size, size)),
        T.RandomFlip(),
        *(color if color_jitter > 0 else []),
    ]


class CropMapper(DatasetMapper):
    """Detectron2's mapper, dropping objects that the crop leaves smaller than ``MIN_BOX_SIDE``."""

    def _transform_annotations(self, dataset_dict: dict[str, Any], transforms: Any, image_shape: Any) -> None:
        super()._transform_annotations(dataset_dict, transforms, image_shape)
        dataset_dict["instances"] = utils.filter_empty_instances(dataset_dict["instances"], box_threshold=MIN_BOX_SIDE)


class CrowdCropMapper(CropMapper, CrowdMapper):
    """The same, keeping regions to ignore, marked by ``gt_ignore``."""


class MosaicMapper:
    """Maps a dataset dict to one augmented crop or to a 2x2 mosaic of four.

    With ``ODAM.INPUT.IGNORE_REGIONS`` the instances carry ``gt_ignore`` as those of :class:`CrowdMapper`.

    Args:
        cfg: the experiment; reads ``INPUT.FORMAT`` and ``ODAM.INPUT``.
        dataset_dicts: where the other three images of a mosaic are drawn from.

    Raises:
        ValueError: an odd crop, or a detector that learns masks, which are not cropped here.
    """

    def __init__(self, cfg: CfgNode, dataset_dicts: list[dict[str, Any]]):
        options = cfg.ODAM.INPUT
        if options.CROP_SIZE % 2:
            raise ValueError(f"ODAM.INPUT.CROP_SIZE is {options.CROP_SIZE}; a mosaic needs an even number")
        if cfg.MODEL.MASK_ON:
            raise ValueError(
                f"MODEL.MASK_ON is True and ODAM.INPUT.CROP_SIZE {options.CROP_SIZE}: crops and mosaics have no masks; "
                "set one to False or the other to 0"
            )
        self.dataset_dicts = dataset_dicts
        self.probability = options.MOSAIC_PROB

        kind = CrowdCropMapper if options.IGNORE_REGIONS else CropMapper

        def mapper(size: int) -> CropMapper:
            augmentations = build_augmentations(size, options.SCALE_RANGE, options.COLOR_JITTER)
            return kind(True, augmentations=augmentations, image_format=cfg.INPUT.FORMAT)

        self.single, self.tile = mapper(options.CROP_SIZE), mapper(options.CROP_SIZE // 2)

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any]:
        """Return the mapped dict with ``image`` (3,S,S) and ``instances``."""
        if np.random.rand() >= self.probability:
            return self.single(dataset_dict)
        others = np.random.randint(len(self.dataset_dicts), size=3)
        tiles = [self.tile(d) for d in (dataset_dict, *(copy.deepcopy(self.dataset_dicts[i]) for i in others))]
        return {**tiles[0], "image": _tile_images(tiles), "instances": _tile_instances(tiles)}


def _tile_images(tiles: Sequence[dict[str, Any]]) -> torch.Tensor:
    a, b, c, d = (t["image"] for t in tiles)
    return torch.cat([torch.cat([a, b], dim=2), torch.cat([c, d], dim=2)], dim=1)


def _tile_instances(tiles: Sequence[dict[str, Any]]) -> Instances:
    side = tiles[0]["image"].shape[1]
    moved = []
    for tile, (column, row) in zip(tiles, ((0, 0), (1, 0), (0, 1), (1, 1))):
        shift = torch.tensor([column, row, column, row]) * side
        instances = tile["instances"]
        fields = {name: instances.get(name) for name in ("gt_classes", "gt_ignore") if instances.has(name)}
        boxes = Boxes(instances.gt_boxes.tensor + shift)
        moved.append(Instances((2 * side, 2 * side), gt_boxes=boxes, **fields))
    return Instances.cat(moved)
