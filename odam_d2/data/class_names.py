"""What the classes of a detector are called."""

from collections.abc import Sequence
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES

from odam_d2.data.coco_json import read_coco

_COCO_NAMES = [category["name"] for category in COCO_CATEGORIES if category["isthing"]]


def class_names(cfg: CfgNode, num_classes: int, own: Sequence[str] = ()) -> list[str]:
    """Names of the classes of the config's datasets, else the detector's own, else COCO's where there are as many.

    Without any, classes are called by their numbers.

    Args:
        cfg: of the detector; what ``DATASETS.TEST`` names counts before ``DATASETS.TRAIN``.
        num_classes: of the detector, without background.
        own: names that the detector itself has for its classes.

    Returns:
        ``num_classes`` names.

    Raises:
        ValueError: a dataset names more or fewer classes than the detector has, or its COCO file has a fault.
    """
    for dataset in (*cfg.DATASETS.TEST, *cfg.DATASETS.TRAIN):
        names = _names_of(dataset)
        if not names:
            continue
        if len(names) != num_classes:
            raise ValueError(
                f"the dataset {dataset} names {len(names)} classes and the detector has {num_classes}; let "
                "DATASETS.TEST name a dataset with the detector's classes"
            )
        return list(names)
    if own:
        return list(own)
    return list(_COCO_NAMES) if num_classes == len(_COCO_NAMES) else [str(i) for i in range(num_classes)]


def _names_of(dataset: str) -> Sequence[str]:
    """The classes that a dataset names; none for one that is not registered."""
    # Detectron2 would make metadata for a name that it does not know.
    if dataset not in MetadataCatalog:
        return ()
    metadata = MetadataCatalog.get(dataset)
    json_file = metadata.get("json_file")
    # Of a user's COCO file Detectron2 knows the names only once it has read the whole dataset.
    if not metadata.get("thing_classes") and json_file and Path(json_file).is_file():
        return [category["name"] for category in sorted(read_coco(json_file)["categories"], key=lambda one: one["id"])]
    return metadata.get("thing_classes", ())
