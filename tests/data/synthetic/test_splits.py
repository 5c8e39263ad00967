"""The synthetic crowds as Detectron2 finds them by name."""

import subprocess
import sys

import pytest
from detectron2.data import DatasetCatalog, DatasetMapper, MetadataCatalog
from detectron2.data import transforms as T

from odam_d2.data.odgt import read_odgt
from odam_d2.data.synthetic.dataset import write_dataset
from odam_d2.data.synthetic.splits import register_synthetic_crowds

SMALL = (200, 300)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A folder with synthetic_crowd/val0 of three images."""
    folder = tmp_path_factory.mktemp("root")
    write_dataset(folder / "synthetic_crowd" / "val0", 1, 3, size=SMALL)
    return folder


def test_registered_datasets_load_in_detectron2(root, empty_catalogs):
    register_synthetic_crowds(root)
    register_synthetic_crowds("elsewhere")  # the names are taken
    images = read_odgt(root / "synthetic_crowd" / "val0" / "annotation.odgt")
    for name in ("synthetic_crowd_val0", "synthetic_crowd_val0_coco"):
        dicts = DatasetCatalog.get(name)
        assert MetadataCatalog.get(name).thing_classes == ["person"]
        assert [len(d["annotations"]) for d in dicts] == [len(image.boxes) for image in images]
        assert [[a["iscrowd"] for a in d["annotations"]] for d in dicts] == [i.ignored.tolist() for i in images]
        mapper = DatasetMapper(
            True, augmentations=[T.NoOpTransform()], image_format="BGR", use_instance_mask="coco" in name,
            instance_mask_format="bitmask",
        )  # fmt: skip
        sample = mapper(dicts[0])
        assert sample["image"].shape == (3, *SMALL)
        assert len(sample["instances"]) == (~images[0].ignored).sum()
    assert MetadataCatalog.get("synthetic_crowd_val0").evaluator_type == "crowdhuman"
    assert MetadataCatalog.get("synthetic_crowd_val0").odgt_file == str(root / "synthetic_crowd/val0/annotation.odgt")
    assert MetadataCatalog.get("synthetic_crowd_val0_coco").thing_dataset_id_to_contiguous_id == {1: 0}


def test_missing_dataset_names_the_command_that_makes_it(tmp_path, empty_catalogs, monkeypatch):
    register_synthetic_crowds(tmp_path)
    for kind in ("", "_coco"):
        with pytest.raises(FileNotFoundError, match=f"make_synthetic_crowd.py --root {tmp_path}/synthetic_crowd$"):
            DatasetCatalog.get(f"synthetic_crowd_train{kind}")
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"train.*: python scripts/make_synthetic_crowd.py$"):
        DatasetCatalog.get("synthetic_crowd_train")


@pytest.mark.slow
def test_registering_needs_nothing_that_draws():
    code = (
        "import sys, odam_d2.data.builtin\n"
        "print([name for name in sys.modules if name.startswith('odam_d2.data.synthetic.')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "['odam_d2.data.synthetic.splits']\n", done.stderr
