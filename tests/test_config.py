"""Reading configs: what is wrong is named."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from detectron2.config import get_cfg

from odam_d2.config import add_odam_config, load_config


def test_options_override_the_file():
    cfg = load_config("configs/quick/fcos.yaml", ["MODEL.FCOS.NUM_CLASSES", "3"])
    assert cfg.MODEL.FCOS.NUM_CLASSES == 3
    assert cfg.MODEL.META_ARCHITECTURE == "ODAMFCOS"


def test_what_is_wrong_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="absent.yaml"):
        load_config(str(tmp_path / "absent.yaml"))
    for text, culprit in {
        "MODEL: {NO_SUCH_KEY: 1}": "NO_SUCH_KEY",
        "MODEL: [": "cannot be used",
        "MODEL: {FCOS: {NUM_CLASSES: many}}": "NUM_CLASSES",
        "just words": "cannot be used",
        "_BASE_: nowhere.yaml": "nowhere.yaml",
    }.items():
        (tmp_path / "wrong.yaml").write_text(text)
        with pytest.raises(ValueError, match=f"(?s)wrong.yaml.*{culprit}"):
            load_config(str(tmp_path / "wrong.yaml"))
    with pytest.raises(ValueError, match="NO.SUCH"):
        load_config("configs/quick/fcos.yaml", ["NO.SUCH", "1"])
    with pytest.raises(ValueError, match="pairs.*MODEL.DEVICE"):
        load_config("configs/quick/fcos.yaml", ["MODEL.DEVICE"])


def write(folder, **texts):
    for name, text in texts.items():
        (folder / f"{name}.yaml").write_text(text)
    return str(folder / f"{next(iter(texts))}.yaml")


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        ({"own": ""}, "own.yaml cannot be used: it is empty"),
        ({"own": "# nothing\n---\n"}, "own.yaml cannot be used: it is empty"),
        ({"own": "_BASE_: base.yaml", "base": ""}, "own.yaml .*its _BASE_ .*base.yaml is empty"),
        ({"own": "_BASE_: own.yaml"}, "it includes itself by _BASE_: .*own.yaml -> .*own.yaml"),
        ({"own": "_BASE_: b.yaml", "b": "_BASE_: [own.yaml]"}, "includes itself.*own.yaml -> .*b.yaml -> .*own.yaml"),
        ({"own": "_BASE_: 3"}, "its _BASE_ is 3"),
        ({"own": "- a"}, "no keys and sections"),
        ({"own": "3: 4"}, "no keys and sections"),
        ({"own": "MODEL:"}, "it has MODEL: , where a section should be"),
        ({"own": "MODEL: {FCOS: 3}"}, "it has MODEL.FCOS: 3, where a section should be"),
        ({"own": "VERSION: two"}, "own.yaml cannot be used"),
        ({"own": "VERSION: 2\nMODEL: {DEVICE: {A: 1}}"}, "Type mismatch"),
    ],
)
def test_files_that_are_no_config_give_one_sentence(texts, words, tmp_path):
    with pytest.raises(ValueError, match=f"config file .*{words}") as caught:
        load_config(write(tmp_path, **texts))
    assert "\n" not in str(caught.value)


def test_one_base_of_two_files_is_no_circle(tmp_path):
    texts = {"own": "_BASE_: [left.yaml, right.yaml]", "left": "_BASE_: base.yaml", "right": "_BASE_: base.yaml"}
    cfg = load_config(write(tmp_path, **texts, base="VERSION: 2\nOUTPUT_DIR: shared"))
    assert cfg.OUTPUT_DIR == "shared"


def test_a_python_config_is_sent_to_python(tmp_path):
    (tmp_path / "own.py").write_text("model = 1\n")
    with pytest.raises(ValueError, match="own.py cannot be used: it is a Python config.*instantiate.*from_model"):
        load_config(str(tmp_path / "own.py"))


@pytest.mark.parametrize(
    ("opts", "words"),
    [
        (["MODEL", "x"], "option MODEL x cannot be used: MODEL is a section"),
        (["MODEL.DEVICE.X", "1"], "option MODEL.DEVICE.X 1 .*Non-existent key"),
        (["OUTPUT_DIR", "a", "OUTPUT_DIR.o", "1"], "option OUTPUT_DIR.o 1 cannot be used"),
        (["DATASETS.TEST", "coco"], "option DATASETS.TEST coco cannot be used: Type mismatch"),
    ],
)
def test_options_that_cannot_be_used_are_named(opts, words):
    with pytest.raises(ValueError, match=words):
        load_config("configs/quick/fcos.yaml", opts)


def test_yaml_cannot_run_code(tmp_path):
    (tmp_path / "evil.yaml").write_text("OUTPUT_DIR: !!python/object/apply:os.getcwd []")
    with pytest.raises(ValueError, match="evil.yaml"):
        load_config(str(tmp_path / "evil.yaml"))


def test_a_name_of_the_zoo_will_do_from_any_folder(tmp_path, monkeypatch):
    expected = load_config("configs/demo/faster_rcnn_nanodet_g.yaml", ["TEST.DETECTIONS_PER_IMAGE", "3"])
    monkeypatch.chdir(tmp_path)
    assert load_config("demo/faster_rcnn_nanodet_g.yaml", ["TEST.DETECTIONS_PER_IMAGE", "3"]) == expected
    with pytest.raises(
        FileNotFoundError, match="no config file demo/faster_rcnn_lite.yaml.*demo/faster_rcnn_nanodet_g.yaml"
    ):
        load_config("demo/faster_rcnn_lite.yaml")
    # A file of that name counts before.
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "faster_rcnn_nanodet_g.yaml").write_text("OUTPUT_DIR: mine\n")
    assert load_config("demo/faster_rcnn_nanodet_g.yaml").OUTPUT_DIR == "mine"


def test_a_second_call_changes_no_key():
    cfg = get_cfg()
    add_odam_config(cfg)
    cfg.merge_from_list(["ODAM.NMS.NAME", "odam", "MODEL.FCOS.NUM_CLASSES", "3", "MODEL.DEVICE", "cuda:1"])
    before = cfg.clone()
    add_odam_config(cfg)
    assert cfg == before
    cfg.freeze()
    add_odam_config(cfg)
    assert cfg == before


# What a user's own training script does, and nothing more of odam_d2.
OWN_SCRIPT = """
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import build_model
from detectron2.utils.file_io import PathManager

from odam_d2 import add_odam_config

mine = lambda: []
DatasetCatalog.register("coco_mini_val", mine)
MetadataCatalog.get("coco_mini_val").thing_classes = ["mine"]
cfg = get_cfg()
for _ in range(2):
    add_odam_config(cfg)
cfg.MODEL.DEVICE = "cpu"
cfg.MODEL.META_ARCHITECTURE = "ODAMRetinaNet"
cfg.MODEL.BACKBONE.NAME = "build_retinanet_resnet_fpn_backbone"
cfg.MODEL.RESNETS.DEPTH, cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 18, 64
cfg.MODEL.RESNETS.OUT_FEATURES = cfg.MODEL.FPN.IN_FEATURES = ["res3", "res4", "res5"]
cfg.MODEL.RETINANET.IN_FEATURES = ["p3", "p4", "p5", "p6", "p7"]
cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[s, s * 1.26, s * 1.59] for s in (32, 64, 128, 256, 512)]
print(type(build_model(cfg)).__name__)
for name in ("coco_mini_train", "crowdhuman_val", "synthetic_crowd_train", "synthetic_crowd_val2_coco"):
    print(name in DatasetCatalog, len(MetadataCatalog.get(name).thing_classes))
print(DatasetCatalog.data["coco_mini_val"] is mine, MetadataCatalog.get("coco_mini_val").thing_classes)
print(PathManager.get_local_path("odam://fcos_nanodet_g.pth"))
"""


def test_a_users_own_script_needs_add_odam_config_alone(tmp_path):
    root = Path.cwd()
    environment = {**os.environ, "PYTHONPATH": str(root), "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(
        [sys.executable, "-c", OWN_SCRIPT], capture_output=True, text=True, cwd=tmp_path, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        *("ODAMRetinaNet", "True 80", "True 1", "True 1", "True 1", "True ['mine']"),
        str(root / "projects" / "ODAM" / "weights" / "fcos_nanodet_g.pth"),
    ]


@pytest.mark.slow
@pytest.mark.parametrize("module", ["odam_d2.config", "odam_d2.model_zoo", "odam_d2.modeling", "odam_d2.data.builtin"])
def test_every_order_of_imports_works(module):
    code = (
        f"import {module}, odam_d2; odam_d2.load_config('quick/fcos.yaml'); import odam_d2.model_zoo, odam_d2.predictor"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
