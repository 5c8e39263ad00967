"""Whether datasets and the detector mean the same classes, asked before anything is trained or detected."""

import operator
from collections.abc import Sequence
from functools import reduce

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog

from odam_d2.data.catalog import check_registered

# Where a config says how many classes the detector has.
NUM_CLASSES_KEYS = {
    "ODAMFCOS": "MODEL.FCOS.NUM_CLASSES",
    "RetinaNet": "MODEL.RETINANET.NUM_CLASSES",
    "ODAMRetinaNet": "MODEL.RETINANET.NUM_CLASSES",
    "GeneralizedRCNN": "MODEL.ROI_HEADS.NUM_CLASSES",
    "ODAMRCNN": "MODEL.ROI_HEADS.NUM_CLASSES",
    # 0 where the network's own config says it.
    "ODAMDETR": "MODEL.TRANSFORMERS.NUM_CLASSES",
}
# Names that a message lists.
_SHOWN = 5


def check_same_classes(cfg: CfgNode, names: Sequence[str]) -> None:
    """Refuse datasets of other classes than the detector's, or than each other's.

    Datasets whose metadata has no ``thing_classes``, and the numbers of architectures that :data:`NUM_CLASSES_KEYS`
    does not know, are not looked at.

    Args:
        cfg: of the detector.
        names: of registered datasets.

    Raises:
        ValueError: an unknown dataset; another number of classes (the message has both, and the key to change); the
            same number with other names, or in another order.
        FileNotFoundError: the annotations are missing from which the names are to be read.
    """
    for name in names:
        check_registered(name)
    known = {name: list(MetadataCatalog.get(name).get("thing_classes") or ()) for name in names}
    known = {name: classes for name, classes in known.items() if classes}
    key = NUM_CLASSES_KEYS.get(cfg.MODEL.META_ARCHITECTURE)
    for name, classes in known.items():
        count = reduce(operator.getitem, key.split("."), cfg) if key else 0
        count = count or len(classes)
        if len(classes) != count:
            raise ValueError(
                f"the dataset {name} has {describe_classes(classes)}, and the detector has {count}; set {key} to "
                f"{len(classes)}, or choose a dataset with the detector's classes"
            )
        first, expected = next(iter(known.items()))
        if classes != expected:
            raise ValueError(
                f"the dataset {name} has {describe_classes(classes)}, and {first} has {describe_classes(expected)}; "
                "they must have the same ones in the same order"
            )


def describe_classes(names: Sequence[str]) -> str:
    """How many classes there are, and the first of them, for a message.

    Args:
        names: of the classes.
    """
    more = ", ..." if len(names) > _SHOWN else ""
    return f"{len(names)} {'class' if len(names) == 1 else 'classes'} ({', '.join(names[:_SHOWN])}{more})"
