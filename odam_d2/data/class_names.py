"""What the classes of a detector are called."""

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES

_COCO_NAMES = [category["name"] for category in COCO_CATEGORIES if category["isthing"]]


def class_names(cfg: CfgNode, num_classes: int) -> list[str]:
    """Names from the metadata of the config's datasets, else COCO's where there are as many, else numbers.

    Args:
        cfg: of the detector; ``thing_classes`` of ``DATASETS.TEST`` counts before that of ``DATASETS.TRAIN``.
        num_classes: of the detector, without background.

    Returns:
        ``num_classes`` names.

    Raises:
        ValueError: a dataset names more or fewer classes than the detector has.
    """
    for dataset in (*cfg.DATASETS.TEST, *cfg.DATASETS.TRAIN):
        # Detectron2 would make metadata for a name that it does not know.
        names = MetadataCatalog.get(dataset).get("thing_classes") if dataset in MetadataCatalog else None
        if not names:
            continue
        if len(names) != num_classes:
            raise ValueError(
                f"the dataset {dataset} names {len(names)} classes and the detector has {num_classes}; let "
                "DATASETS.TEST name a dataset with the detector's classes"
            )
        return list(names)
    return list(_COCO_NAMES) if num_classes == len(_COCO_NAMES) else [str(i) for i in range(num_classes)]
