"""``odam://NAME`` wherever Detectron2 takes a path: predictors, hashes, training and going on with it."""

import hashlib
from pathlib import Path

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.utils.file_io import PathManager

from helpers import small_cfg
from odam_d2.config import load_config
from odam_d2.engine import ODAMTrainer
from odam_d2.model_zoo import files, list_configs
from odam_d2.modeling.checkpoint import load_weights, weights_sha256

WEIGHTS = Path("projects/ODAM/weights").resolve()
NAMES = ", ".join(
    f"{name}.pth"
    for name in (
        "conditional_detr_nanodet_g_bccd",
        "faster_rcnn_nanodet_g",
        "faster_rcnn_nanodet_g_synthetic",
        "fcos_nanodet_g",
        "fcos_nanodet_g_synthetic",
        "fcos_nanodet_g_synthetic_odam_train",
        "retinanet_nanodet_g",
        "rt_detr_nanodet_g_bccd",
    )
)


def test_detectron2_finds_and_reads_the_file_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert PathManager.get_local_path("odam://fcos_nanodet_g.pth") == str(WEIGHTS / "fcos_nanodet_g.pth")
    content = (WEIGHTS / "fcos_nanodet_g.pth").read_bytes()
    with PathManager.open("odam://fcos_nanodet_g.pth", "rb") as file:
        assert file.read() == content
    assert weights_sha256("odam://fcos_nanodet_g.pth") == hashlib.sha256(content).hexdigest()


def test_nothing_is_written_there():
    for mode in ("w", "ab", "r+b", "x"):
        with pytest.raises(ValueError, match=f"odam://new.pth.*read only.*{mode!r}".replace("+", r"\+")):
            PathManager.open("odam://new.pth", mode)
    assert not (WEIGHTS / "new.pth").exists()


def test_missing_weights_are_answered_by_those_that_exist():
    message = f"^odam_d2 has no weights 'fcos.pth'; those that exist are {NAMES}$"
    for read in (PathManager.get_local_path, PathManager.open, weights_sha256):
        with pytest.raises(FileNotFoundError, match=message):
            read("odam://fcos.pth")
    model = build_model(small_cfg("fcos"))
    with pytest.raises(FileNotFoundError, match=message):
        load_weights(model, "odam://fcos.pth")
    with pytest.raises(FileNotFoundError, match="there is no weights file absent.pth"):
        load_weights(model, "absent.pth")
    with pytest.raises(FileNotFoundError, match="has no weights"):
        load_weights(model, "odam://../weights/fcos_nanodet_g.pth")


@pytest.mark.parametrize("name", [name for name in list_configs() if "nanodet" in name])
def test_bundled_configs_name_weights_that_exist_from_any_folder(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    weights = load_config(name).MODEL.WEIGHTS
    if weights != "output/nanodet_g.pth" or not name.endswith("_train.yaml"):  # of odam prepare-backbone
        assert weights.startswith("odam://") and Path(PathManager.get_local_path(weights)).is_file()


def test_a_training_begins_with_them_and_goes_on_with_its_own(tmp_path, monkeypatch, quick_weights):
    source = Path(quick_weights("fcos"))
    monkeypatch.setattr(files, "WEIGHTS_FOLDERS", (source.parent,))
    cfg = small_cfg("fcos", ["MODEL.WEIGHTS", "odam://fcos.pth", "OUTPUT_DIR", str(tmp_path)])
    monkeypatch.setattr(ODAMTrainer, "build_train_loader", lambda self, cfg: [])
    expected = torch.load(source, weights_only=True)["model"]
    trainer = ODAMTrainer(cfg)
    trainer.resume_or_load(resume=True)  # there is nothing yet to go on with
    assert trainer.start_iter == 0
    assert all(torch.equal(x, expected[name]) for name, x in trainer.model.state_dict().items())
    with torch.no_grad():
        trainer.model.head.ctrness.bias.fill_(7.0)
    trainer.iter = 4
    trainer.checkpointer.save("model_0000004")
    again = ODAMTrainer(cfg)
    again.resume_or_load(resume=True)
    assert again.start_iter == 5 and again.model.head.ctrness.bias.item() == 7.0
    again.resume_or_load(resume=False)
    assert torch.equal(again.model.head.ctrness.bias, expected["head.ctrness.bias"])
