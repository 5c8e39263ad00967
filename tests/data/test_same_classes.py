"""Datasets and a detector that do not mean the same classes are told apart before any work."""

import pytest
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog

from odam_d2.config import add_odam_config
from odam_d2.data.same_classes import NUM_CLASSES_KEYS, check_same_classes

CLASSES = {
    "odam_pets": ["cat", "dog"],
    "odam_more_pets": ["cat", "dog"],
    "odam_others": ["dog", "cat"],
    "odam_people": ["person"],
    "odam_letters": list("abcdef"),
    "odam_nameless": None,
}


@pytest.fixture(autouse=True)
def datasets():
    for name, classes in CLASSES.items():
        DatasetCatalog.register(name, list)
        if classes:
            MetadataCatalog.get(name).thing_classes = classes
    yield
    for name in CLASSES:
        DatasetCatalog.remove(name)
        MetadataCatalog.data.pop(name, None)


def cfg_for(architecture, count):
    cfg = get_cfg()
    add_odam_config(cfg)
    cfg.MODEL.META_ARCHITECTURE = architecture
    if architecture in NUM_CLASSES_KEYS:
        cfg.merge_from_list([NUM_CLASSES_KEYS[architecture], count])
    return cfg


@pytest.mark.parametrize(
    ("architecture", "key"),
    [
        ("ODAMFCOS", "MODEL.FCOS.NUM_CLASSES"),
        ("ODAMRetinaNet", "MODEL.RETINANET.NUM_CLASSES"),
        ("RetinaNet", "MODEL.RETINANET.NUM_CLASSES"),
        ("ODAMRCNN", "MODEL.ROI_HEADS.NUM_CLASSES"),
        ("GeneralizedRCNN", "MODEL.ROI_HEADS.NUM_CLASSES"),
    ],
)
def test_another_number_of_classes_names_both_and_the_key(architecture, key):
    check_same_classes(cfg_for(architecture, 2), ("odam_pets", "odam_nameless", "odam_more_pets"))
    said = (
        f"^the dataset odam_pets has 2 classes .cat, dog., and the detector has 3; set {key} to 2, or choose a dataset "
        "with the detector's classes$"
    )
    with pytest.raises(ValueError, match=said):
        check_same_classes(cfg_for(architecture, 3), ("odam_nameless", "odam_pets"))


def test_a_list_of_names_is_short():
    with pytest.raises(ValueError, match=r"odam_people has 1 class \(person\), and the detector has 80"):
        check_same_classes(cfg_for("ODAMFCOS", 80), ("odam_people",))
    with pytest.raises(ValueError, match=r"odam_letters has 6 classes \(a, b, c, d, e, \.\.\.\), and"):
        check_same_classes(cfg_for("ODAMFCOS", 80), ("odam_letters",))


@pytest.mark.parametrize("architecture", ["ODAMFCOS", "SomebodysOwn"])
def test_datasets_with_the_same_number_must_mean_the_same(architecture):
    said = (
        r"^the dataset odam_others has 2 classes \(dog, cat\), and odam_pets has 2 classes \(cat, dog\); they must have"
    )
    with pytest.raises(ValueError, match=said):
        check_same_classes(cfg_for(architecture, 2), ("odam_pets", "odam_more_pets", "odam_others"))


def test_an_unknown_dataset_is_answered_by_those_there_are():
    with pytest.raises(ValueError, match="^unknown dataset 'odam_absent'; "):
        check_same_classes(cfg_for("ODAMFCOS", 2), ("odam_pets", "odam_absent"))
    assert "odam_absent" not in MetadataCatalog.list()
