"""All datasets that odam_d2 knows, beside Detectron2's own."""

from odam_d2.data.bccd import register_bccd
from odam_d2.data.coco_mini import register_coco_mini
from odam_d2.data.crowdhuman import register_crowdhuman
from odam_d2.data.osie import register_osie
from odam_d2.data.synthetic.splits import register_synthetic_crowds


def register_all() -> None:
    """Register them under ``$DETECTRON2_DATASETS``, but for names that are taken; files are read later."""
    for register in (register_coco_mini, register_crowdhuman, register_synthetic_crowds, register_bccd, register_osie):
        register()
