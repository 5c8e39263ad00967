"""Configs, weights and detectors by name, as ``detectron2.model_zoo`` has them."""

import inspect

import pytest
import torch
from detectron2 import model_zoo as theirs

from odam_d2 import ODAMFCOS, ODAMRCNN, ODAMRetinaNet, load_config, model_zoo


def test_the_interface_is_detectron2s():
    for name in theirs.__all__:
        # Ours has trained weights by default: random networks have nothing to explain.
        here, there = (list(inspect.signature(getattr(zoo, name)).parameters) for zoo in (model_zoo, theirs))
        assert here[1:] == there[1:] and len(here) == len(there), name


def test_a_config_is_the_files_from_any_folder(tmp_path, monkeypatch):
    expected = load_config("configs/odam_nms/fcos_nanodet_g_synthetic.yaml")
    monkeypatch.chdir(tmp_path)
    for trained in (False, True):
        assert model_zoo.get_config("odam_nms/fcos_nanodet_g_synthetic.yaml", trained) == expected
    # The name counts, whatever lies in the working folder.
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "fcos_nanodet_g.yaml").write_text("MODEL: {META_ARCHITECTURE: ODAMRetinaNet}\n")
    assert model_zoo.get_config("demo/fcos_nanodet_g.yaml").MODEL.META_ARCHITECTURE == "ODAMFCOS"


def test_trained_weights_replace_those_to_begin_with():
    name = "odam_nms/faster_rcnn_nanodet_g_synthetic_train.yaml"
    assert model_zoo.get_config(name).MODEL.WEIGHTS == "odam://faster_rcnn_nanodet_g.pth"
    assert model_zoo.get_config(name, trained=True).MODEL.WEIGHTS == "odam://faster_rcnn_nanodet_g_synthetic.pth"


TRAINED = {
    "demo/fcos_nanodet_g.yaml": "odam://fcos_nanodet_g.pth",
    "demo/fcos_nanodet_g_train.yaml": "odam://fcos_nanodet_g.pth",
    "demo/faster_rcnn_nanodet_g.yaml": "odam://faster_rcnn_nanodet_g.pth",
    "odam_nms/fcos_nanodet_g_synthetic.yaml": "odam://fcos_nanodet_g_synthetic.pth",
    "odam_nms/fcos_nanodet_g_synthetic_train.yaml": "odam://fcos_nanodet_g_synthetic.pth",
}


@pytest.mark.parametrize("name", TRAINED)
def test_checkpoint_urls_of_what_is_in_the_box(name):
    assert model_zoo.get_checkpoint_url(name) == TRAINED[name]


def test_checkpoint_urls_of_detectron2s_zoo_are_detectron2s():
    url = theirs.get_checkpoint_url("COCO-Detection/retinanet_R_50_FPN_3x.yaml")
    ours = model_zoo.get_checkpoint_url("explain/retinanet_R_50_FPN_3x.yaml")
    assert ours.replace("detectron2://", "https://dl.fbaipublicfiles.com/detectron2/") == url


@pytest.mark.parametrize(
    "name",
    [
        "quick/fcos.yaml",
        "explain/fcos_R_50_FPN_1x.yaml",
        "odam_nms/fcos_R_50_FPN_crowdhuman.yaml",
        "odam_nms/faster_rcnn_R_50_FPN_crowdhuman_odam.yaml",
    ],
)
def test_what_nobody_has_trained_is_said(name):
    for ask in (model_zoo.get_checkpoint_url, lambda name: model_zoo.get_config(name, trained=True), model_zoo.get):
        with pytest.raises(ValueError, match=f"no trained weights of {name}; train it with odam train"):
            ask(name)


def test_unknown_names_are_answered_by_every_function():
    for ask in (model_zoo.get, model_zoo.get_config, model_zoo.get_checkpoint_url, model_zoo.get_config_file):
        with pytest.raises(FileNotFoundError, match="'quick/fco.yaml'; the closest names are quick/fcos.yaml"):
            ask("quick/fco.yaml")


DETECTORS = {"fcos": ODAMFCOS, "faster_rcnn": ODAMRCNN, "retinanet": ODAMRetinaNet}


@pytest.mark.parametrize(("name", "kind"), [(f"demo/{name}_nanodet_g.yaml", kind) for name, kind in DETECTORS.items()])
def test_a_detector_comes_with_its_trained_weights(name, kind, tmp_path, monkeypatch):
    state = torch.load(f"projects/ODAM/weights/{name[5:-5]}.pth", weights_only=True)["model"]
    monkeypatch.chdir(tmp_path)
    model = model_zoo.get(name, device="cpu")
    assert type(model) is kind and model.training and model.device.type == "cpu"
    assert all(torch.equal(x, state[key].to(x.dtype)) for key, x in model.state_dict().items())


def test_untrained_means_random_on_the_device_asked_for():
    torch.manual_seed(0)
    first, second = (model_zoo.get("quick/fcos.yaml", trained=False, device="cpu") for _ in range(2))
    assert not torch.equal(first.head.cls_score.weight, second.head.cls_score.weight)
    with torch.device("meta"):
        assert model_zoo.get("quick/fcos.yaml", trained=False, device="meta").device.type == "meta"
