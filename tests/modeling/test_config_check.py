"""What a config says wrong is said in one sentence, before weights and images are read."""

import pytest
import torch

from helpers import small_cfg
from odam_d2 import model_zoo
from odam_d2.engine import ODAMTrainer
from odam_d2.modeling.config_check import building, check_config
from odam_d2.predictor import ODAMPredictor

NO_DEVICE = "PyTorch has no such device on this machine; set it to cpu"
# (kind, key, value) -> what is said.
WRONG = {
    ("fcos", "MODEL.DEVICE", "cuda:99"): f"MODEL.DEVICE is 'cuda:99', and {NO_DEVICE}",
    ("fcos", "MODEL.DEVICE", "gpu"): f"MODEL.DEVICE is 'gpu', and {NO_DEVICE}",
    ("fcos", "MODEL.DEVICE", ""): f"MODEL.DEVICE is '', and {NO_DEVICE}",
    ("fcos", "INPUT.FORMAT", "L"): "INPUT.FORMAT is 'L'; valid values are BGR, RGB",
    ("fcos", "INPUT.FORMAT", "rgb"): "INPUT.FORMAT is 'rgb'; valid values are BGR, RGB",
    ("fcos", "INPUT.MIN_SIZE_TEST", "-3"): "INPUT.MIN_SIZE_TEST -3",
    ("fcos", "MODEL.PIXEL_MEAN", "[1.0]"): r"MODEL.PIXEL_MEAN is \[1.0\]; .*each of three channels",
    ("fcos", "TEST.AUG.ENABLED", "True"): "TEST.AUG.ENABLED is True, .*one forward pass: set it to False",
    ("fcos", "MODEL.META_ARCHITECTURE", "ODAMFcos"): "META_ARCHITECTURE is 'ODAMFcos', .*the closest are ODAMFCOS",
    ("fcos", "MODEL.BACKBONE.NAME", "build_timm"): "BACKBONE.NAME is 'build_timm', .*build_timm_fpn_backbone",
    ("fcos", "MODEL.BACKBONE.NAME", ""): "MODEL.BACKBONE.NAME is ''",
    ("fcos", "MODEL.FCOS.IN_FEATURES", "['p9']"): "no detector .*nothing is called 'p9'; see MODEL.FCOS.IN_FEATURES",
    ("fcos", "MODEL.FCOS.NORM", "XX"): "no detector .*nothing is called 'XX'; see MODEL.FCOS.NORM",
    ("retinanet", "MODEL.ANCHOR_GENERATOR.NAME", "Anchors"): "ANCHOR_GENERATOR.NAME is 'Anchors', .*DefaultAnchor",
    ("faster_rcnn", "MODEL.ROI_HEADS.NAME", "ROIHead"): "ROI_HEADS.NAME is 'ROIHead', .*ROIHeads",
    ("faster_rcnn", "MODEL.ROI_BOX_HEAD.NAME", "Head"): "ROI_BOX_HEAD.NAME is 'Head', .*FastRCNNConvFCHead",
    ("faster_rcnn", "MODEL.RPN.HEAD_NAME", "Head"): "RPN.HEAD_NAME is 'Head', .*StandardRPNHead",
    ("faster_rcnn", "MODEL.PROPOSAL_GENERATOR.NAME", "rpn"): "PROPOSAL_GENERATOR.NAME is 'rpn', .*RPN",
    ("faster_rcnn", "MODEL.PROPOSAL_GENERATOR.NAME", "PrecomputedProposals"): "images are read .*to RPN",
    ("faster_rcnn", "MODEL.ROI_HEADS.NAME", "StandardROIHeads"): "StandardROIHeads cannot be explained; .*ODAMROIHeads",
}


@pytest.mark.parametrize(("kind", "key", "value"), WRONG)
def test_the_predictor_names_key_value_and_remedy(kind, key, value, tmp_path):
    # The weights do not exist, which would be said next.
    cfg = small_cfg(kind, ["MODEL.WEIGHTS", str(tmp_path / "absent.pth"), key, value])
    with pytest.raises(ValueError, match=WRONG[kind, key, value]) as caught:
        ODAMPredictor(cfg)
    assert "\n" not in str(caught.value)


def test_a_machine_without_cuda_says_so(monkeypatch):
    def no_driver(*args, device=None, **kwargs):
        raise RuntimeError("Found no NVIDIA driver on your system.")

    monkeypatch.setattr(torch, "empty", no_driver)
    with pytest.raises(ValueError, match=f"MODEL.DEVICE is 'cuda', and {NO_DEVICE}"):
        check_config(small_cfg("fcos", ["MODEL.DEVICE", "cuda"]))


@pytest.mark.parametrize("name", ["tpu", "hpu", "mtia", "fpga", "cuda:x"])
def test_devices_that_do_not_exist_are_said_in_one_way(name):
    with pytest.raises(ValueError, match=f"MODEL.DEVICE is '{name}', and {NO_DEVICE}"):
        check_config(small_cfg("fcos", ["MODEL.DEVICE", name]))


@pytest.mark.parametrize("kind", ["fcos", "retinanet", "faster_rcnn"])
def test_sound_configs_pass(kind):
    cfg = small_cfg(kind)
    before = cfg.clone()
    check_config(cfg)
    with building(cfg):
        pass
    assert cfg == before


@pytest.mark.parametrize("name", model_zoo.list_configs())
def test_every_config_of_the_zoo_passes(name):
    check_config(model_zoo.get_config(name))


@pytest.mark.parametrize("norm", ["BN", "SyncBN"])
def test_odam_train_is_refused_where_regions_share_statistics(norm):
    opts = ["ODAM.TRAIN.ENABLED", "True", "MODEL.ROI_BOX_HEAD.NORM", norm]
    with pytest.raises(ValueError, match=f"MODEL.ROI_BOX_HEAD.NORM is {norm}, .*: set it to GN or FrozenBN"):
        check_config(small_cfg("faster_rcnn", opts))
    for fine in (opts[:2], opts[2:], [*opts[:3], "GN"], [*opts[:3], "FrozenBN"]):
        check_config(small_cfg("faster_rcnn", fine))


def test_training_and_the_zoo_say_the_same():
    with pytest.raises(ValueError, match="TEST.AUG.ENABLED is True"):
        ODAMTrainer.build_model(small_cfg("fcos", ["TEST.AUG.ENABLED", "True"]))
    with pytest.raises(ValueError, match="BACKBONE.NAME is 'nope'"):
        ODAMTrainer.build_model(small_cfg("fcos", ["MODEL.BACKBONE.NAME", "nope"]))
    cfg = model_zoo.get_config("explain/retinanet_R_50_FPN_1x.yaml")
    cfg.MODEL.RESNETS.DEPTH = 19
    with pytest.raises(ValueError, match="no detector .*nothing is called 19; see MODEL.RESNETS.DEPTH"):
        ODAMTrainer.build_model(cfg)
    with pytest.raises(ValueError, match="MODEL.DEVICE is 'gpu'"):
        model_zoo.get("demo/fcos_nanodet_g.yaml", device="gpu")
