"""A LazyConfig user builds a detector from explicit arguments, without any yacs config."""

import pytest
import torch
from detectron2.config import LazyCall as L
from detectron2.config import instantiate
from detectron2.layers import ShapeSpec
from detectron2.modeling import FPN
from detectron2.modeling.backbone.fpn import LastLevelP6P7
from detectron2.modeling.meta_arch.fcos import FCOSHead

from helpers import TinyBottomUp, random_input, random_photo, tiny_fcos
from odam_d2 import ODAMPredictor
from odam_d2.modeling import ODAMFCOS


@pytest.fixture
def config():
    """What :func:`helpers.tiny_fcos` builds, as a LazyConfig."""
    return L(ODAMFCOS)(
        backbone=L(FPN)(
            bottom_up=L(TinyBottomUp)(),
            in_features=["res3", "res4", "res5"],
            out_channels=4,
            top_block=L(LastLevelP6P7)(in_channels=4, out_channels=4, in_feature="p5"),
        ),
        head=L(FCOSHead)(
            input_shape=[L(ShapeSpec)(channels=4, stride=8)] * 5,
            num_classes="${..num_classes}",
            conv_dims=[4, 4],
            norm="",
        ),
        head_in_features=["p3", "p4", "p5", "p6", "p7"],
        num_classes=3,
        test_score_thresh=0.0,
        test_topk_candidates=4,
        test_nms_thresh=1.0,
        max_detections_per_image=8,
        pixel_mean=[0.0, 0.0, 0.0],
        pixel_std=[64.0, 64.0, 64.0],
    )


def test_a_lazy_config_builds_the_detector_that_the_constructor_builds(config):
    model = instantiate(config).eval()
    assert type(model) is ODAMFCOS and model.num_classes == 3
    same = tiny_fcos()
    model.load_state_dict(same.state_dict())
    with torch.no_grad():
        found, expected = (m([random_input()])[0]["instances"] for m in (model, same))
    assert len(found) == 8
    assert torch.equal(found.pred_boxes.tensor, expected.pred_boxes.tensor)
    assert torch.equal(found.scores, expected.scores) and found.scores.unique().numel() > 1


def test_a_change_to_the_lazy_config_changes_the_detector(config):
    config.num_classes = 5
    config.max_detections_per_image = 2
    model = instantiate(config).eval()
    assert model.num_classes == 5 and model.head.cls_score.out_channels == 5
    torch.nn.init.constant_(model.head.bbox_pred.bias, 2.0)
    with torch.no_grad():
        assert len(model([random_input()])[0]["instances"]) == 2


def test_a_lazily_built_detector_says_why(config):
    model = instantiate(config)
    torch.nn.init.constant_(model.head.bbox_pred.bias, 2.0)
    predictor = ODAMPredictor.from_model(model, ["cat", "cup", "dog"], min_size=96, max_size=160)
    explanation = predictor.explain(random_photo(96, 128), ["class_score", "class_score[cup]", "x2"], instances=[0, 1])
    assert list(explanation.maps) == ["class_score", "class_score[cup]", "x2"] and len(explanation) == 2
    assert all(maps.shape == (2, 96, 128) for maps in explanation.maps.values())
    assert explanation.maps["class_score"].amax() == 1
