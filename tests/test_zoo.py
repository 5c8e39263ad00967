"""Detectron2's model zoo: the same parameters, the same detections and the same configs under odam_d2's names."""

import pickle
from pathlib import Path

import pytest
import torch
from detectron2 import model_zoo
from detectron2.config import CfgNode, get_cfg, instantiate
from detectron2.model_zoo.model_zoo import _ModelZooUrls
from detectron2.modeling import build_model
from torch import Tensor, nn

from helpers import random_input
from odam_d2.config import add_odam_config, load_config
from odam_d2.modeling.checkpoint import load_weights
from odam_d2.modeling.explainable import without_place

ZOO = Path(model_zoo.get_config_file("COCO-Detection/retinanet_R_50_FPN_1x.yaml")).parents[1]
FOLDERS = ("COCO-Detection", "COCO-InstanceSegmentation", "COCO-Keypoints", "Misc")
# Every detector on disk; fast_rcnn_* (proposals from a file), rpn_*, semantic_* and panoptic_* are other models.
YAMLS = sorted(
    path.relative_to(ZOO).as_posix()
    for folder in FOLDERS
    for pattern in ("retinanet_*.yaml", "faster_rcnn_*.yaml", "*mask_rcnn_*.yaml", "keypoint_rcnn_*.yaml")
    for path in (ZOO / folder).glob(pattern)
)
EXPLAIN = sorted(path.stem for path in Path("configs/explain").glob("[!B]*.yaml"))
FCOS = "fcos_R_50_FPN_1x"
# Not in Detectron2's zoo, and the same on another backbone.
PVT = "fcos_pvt_v2_b0_FPN_1x"
META_ARCHITECTURES = {"RetinaNet": "ODAMRetinaNet", "GeneralizedRCNN": "ODAMRCNN"}
ROI_HEADS = {
    "StandardROIHeads": "ODAMROIHeads",
    "CascadeROIHeads": "ODAMCascadeROIHeads",
    "Res5ROIHeads": "ODAMRes5ROIHeads",
}


def zoo_cfg(name: str) -> CfgNode:
    cfg = get_cfg()
    add_odam_config(cfg)
    cfg.merge_from_file(str(ZOO / name))
    return cfg


def renamed(cfg: CfgNode) -> CfgNode:
    """What a user does to a config of theirs: nothing but names."""
    cfg = cfg.clone()
    cfg.MODEL.META_ARCHITECTURE = META_ARCHITECTURES[cfg.MODEL.META_ARCHITECTURE]
    if cfg.MODEL.META_ARCHITECTURE == "ODAMRCNN":
        cfg.MODEL.ROI_HEADS.NAME = ROI_HEADS[cfg.MODEL.ROI_HEADS.NAME]
    return cfg


def without_memory(cfg: CfgNode) -> nn.Module:
    cfg = cfg.clone()
    cfg.MODEL.DEVICE = "meta"
    with torch.device("meta"):
        return build_model(cfg)


def layout(model: nn.Module) -> list[tuple]:
    """Names, shapes and types of everything a checkpoint holds, in order."""
    return [(name, tuple(x.shape), x.dtype) for name, x in model.state_dict().items()]


@pytest.mark.parametrize("name", YAMLS)
def test_a_zoo_model_keeps_its_parameters_when_only_names_change(name):
    cfg = zoo_cfg(name)
    try:
        theirs = without_memory(cfg)
    except ImportError as error:
        pytest.skip(f"Detectron2 itself cannot build it: {error}")
    ours = without_memory(renamed(cfg))
    assert type(ours).__name__ in META_ARCHITECTURES.values()
    if hasattr(ours, "roi_heads"):
        assert type(ours.roi_heads).__name__ in ROI_HEADS.values()
    assert layout(ours) == layout(theirs)


def test_every_family_of_the_zoo_is_among_the_tested_ones():
    families = {Path(name).stem.split("_R_")[0].split("_X_")[0] for name in YAMLS}
    assert families >= {"retinanet", "faster_rcnn", "mask_rcnn", "cascade_mask_rcnn", "keypoint_rcnn"}
    assert {kind for kind in ("FPN", "C4", "DC5") if any(f"_{kind}_" in name for name in YAMLS)} == {"FPN", "C4", "DC5"}


def lazy_fcos():
    return model_zoo.get_config(f"COCO-Detection/{FCOS}.py")


def test_fcos_is_the_zoos_lazy_config_model():
    cfg = load_config(f"configs/explain/{FCOS}.yaml")
    ours = without_memory(cfg)
    lazy = lazy_fcos()
    with torch.device("meta"):
        theirs = instantiate(lazy.model)
    assert layout(ours) == layout(theirs)
    for name in ("num_classes", "head_in_features", "center_sampling_radius", "focal_loss_alpha", "focal_loss_gamma"):
        assert getattr(ours, name) == getattr(theirs, name), name
    for name in ("test_score_thresh", "test_topk_candidates", "test_nms_thresh", "max_detections_per_image"):
        assert getattr(ours, name) == getattr(theirs, name), name
    assert cfg.MODEL.PIXEL_MEAN == list(lazy.model.pixel_mean) and cfg.MODEL.PIXEL_STD == list(lazy.model.pixel_std)
    # The convolutions' strides and what is frozen do not show in the shapes.
    strides = [
        [(n, m.stride) for n, m in model.named_modules() if isinstance(m, nn.Conv2d)] for model in (ours, theirs)
    ]
    assert strides[0] == strides[1]
    trained = [[n for n, p in model.named_parameters() if p.requires_grad] for model in (ours, theirs)]
    assert trained[0] == trained[1] and len(trained[0]) < len(list(ours.parameters()))


def test_fcos_trains_on_the_zoos_schedule():
    cfg = load_config(f"configs/explain/{FCOS}.yaml")
    lazy = lazy_fcos()
    train, optimizer, schedule = lazy.dataloader.train, lazy.optimizer, lazy.lr_multiplier
    resize, flip = train.mapper.augmentations
    assert cfg.MODEL.WEIGHTS == lazy.train.init_checkpoint
    assert cfg.DATASETS.TRAIN == (train.dataset.names,)
    assert cfg.DATASETS.TEST == (lazy.dataloader.test.dataset.names,)
    assert cfg.INPUT.FORMAT == train.mapper.image_format
    assert cfg.INPUT.MIN_SIZE_TRAIN == tuple(resize.short_edge_length)
    assert cfg.INPUT.MAX_SIZE_TRAIN == resize.max_size
    assert (cfg.INPUT.RANDOM_FLIP == "horizontal") == flip.horizontal
    assert cfg.SOLVER.IMS_PER_BATCH == train.total_batch_size
    assert cfg.SOLVER.BASE_LR == optimizer.lr
    assert cfg.SOLVER.MOMENTUM == optimizer.momentum
    assert cfg.SOLVER.WEIGHT_DECAY == optimizer.weight_decay
    assert cfg.SOLVER.WEIGHT_DECAY_NORM == optimizer.params.weight_decay_norm
    assert cfg.SOLVER.MAX_ITER == lazy.train.max_iter
    assert [*cfg.SOLVER.STEPS, cfg.SOLVER.MAX_ITER] == list(schedule.scheduler.milestones)
    assert cfg.SOLVER.WARMUP_ITERS == round(schedule.warmup_length * cfg.SOLVER.MAX_ITER)
    assert cfg.SOLVER.WARMUP_FACTOR == schedule.warmup_factor


def flat(cfg: CfgNode, prefix: str = "") -> dict:
    values = {}
    for key, value in cfg.items():
        values |= flat(value, f"{prefix}{key}.") if isinstance(value, CfgNode) else {prefix + key: value}
    return values


@pytest.mark.parametrize("name", [name for name in EXPLAIN if name not in (FCOS, PVT)])
def test_a_config_for_explaining_is_the_zoos_but_for_names_and_weights(name):
    (source,) = [yaml for yaml in YAMLS if Path(yaml).stem == name]
    ours, theirs = flat(load_config(f"configs/explain/{name}.yaml")), flat(model_zoo.get_config(source))
    expected = flat(renamed(zoo_cfg(source)))
    for key in ("MODEL.META_ARCHITECTURE", "MODEL.ROI_HEADS.NAME"):
        # A RetinaNet has no ROI heads, and the zoo's yaml leaves their name at the default.
        assert ours.pop(key) == expected[key]
        theirs.pop(key)
    suffix = _ModelZooUrls.CONFIG_PATH_TO_URL_SUFFIX[source.removesuffix(".yaml")]
    assert ours.pop("MODEL.WEIGHTS") == f"detectron2://{source.removesuffix('.yaml')}/{suffix}"
    assert ours.pop("OUTPUT_DIR") == f"output/explain/{name}"
    # add_odam_config puts "cpu" where there is no GPU.
    ours.pop("MODEL.DEVICE")
    for key in ("MODEL.WEIGHTS", "OUTPUT_DIR", "MODEL.DEVICE"):
        theirs.pop(key)
    added = [key for key in ours if key.startswith(("ODAM.", "MODEL.FCOS.", "MODEL.TIMM.", "MODEL.TRANSFORMERS."))]
    assert {key: value for key, value in ours.items() if key not in added} == theirs
    # What odam_d2 adds stays at its defaults.
    assert {key: ours[key] for key in added} == {key: expected[key] for key in added}


def test_the_agreed_configs_for_explaining_exist():
    assert set(EXPLAIN) == {
        "retinanet_R_50_FPN_1x",
        "retinanet_R_50_FPN_3x",
        "retinanet_R_101_FPN_3x",
        FCOS,
        PVT,
        "faster_rcnn_R_50_FPN_1x",
        "faster_rcnn_R_50_FPN_3x",
        "faster_rcnn_R_101_FPN_3x",
        "faster_rcnn_X_101_32x8d_FPN_3x",
        "faster_rcnn_R_50_C4_3x",
        "faster_rcnn_R_50_DC5_3x",
        "mask_rcnn_R_50_FPN_3x",
        "cascade_mask_rcnn_R_50_FPN_3x",
    }


DETECTIONS = 4
# Everything is a detection, but of few candidates.
EAGER = {
    "TEST.DETECTIONS_PER_IMAGE": DETECTIONS,
    "MODEL.RETINANET.SCORE_THRESH_TEST": 0.0,
    "MODEL.RETINANET.TOPK_CANDIDATES_TEST": 10,
    "MODEL.FCOS.SCORE_THRESH_TEST": 0.0,
    "MODEL.FCOS.TOPK_CANDIDATES_TEST": 10,
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST": 0.0,
    "MODEL.RPN.PRE_NMS_TOPK_TEST": 10,
    "MODEL.RPN.POST_NMS_TOPK_TEST": 10,
    "MODEL.DEVICE": "cpu",
}


def eager(cfg: CfgNode) -> CfgNode:
    cfg = cfg.clone()
    cfg.merge_from_list([word for pair in EAGER.items() for word in pair])
    return cfg


def eager_zoo_fcos() -> nn.Module:
    """The zoo's FCOS by its lazy config, with EAGER's settings."""
    lazy = lazy_fcos()
    lazy.model.test_score_thresh = 0.0
    lazy.model.test_topk_candidates = 10
    lazy.model.max_detections_per_image = DETECTIONS
    return instantiate(lazy.model)


@torch.no_grad()
def excite(model: nn.Module) -> None:
    """Change random weights so that detections differ from each other.

    Without training, frozen batch statistics let a ResNet's activations grow until every score saturates, and the
    last layers of a head hardly react to them.
    """
    for name, module in model.named_modules():
        if name.endswith("stem.conv1.norm"):
            module.weight.fill_(1 / 64)
        elif name.endswith("conv3.norm"):
            module.weight.fill_(0.2)
        elif name.split(".")[-1] in ("cls_score", "bbox_pred", "ctrness", "predictor", "objectness_logits"):
            if hasattr(module, "weight"):
                nn.init.normal_(module.weight, std=3 * module.weight[0].numel() ** -0.5)
    if model.__class__.__name__ == "FCOS":
        # FCOS cuts negative distances to 0, and a box without a size is no detection.
        nn.init.constant_(model.head.bbox_pred.bias, 2.0)


def assert_identical(found, expected) -> None:
    assert found.image_size == expected.image_size
    assert list(found.get_fields()) == list(expected.get_fields())
    for field, value in expected.get_fields().items():
        mine = found.get(field)
        if not isinstance(value, Tensor):
            mine, value = mine.tensor, value.tensor
        assert torch.equal(mine, value), field


@pytest.mark.parametrize(
    "name, extra",
    [
        ("COCO-Detection/retinanet_R_50_FPN_3x.yaml", None),
        (FCOS, None),
        ("COCO-Detection/faster_rcnn_R_50_FPN_3x.yaml", None),
        ("COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x.yaml", "pred_masks"),
        ("COCO-Keypoints/keypoint_rcnn_R_50_FPN_3x.yaml", "pred_keypoints"),
        ("Misc/cascade_mask_rcnn_R_50_FPN_3x.yaml", "pred_masks"),
        ("COCO-InstanceSegmentation/mask_rcnn_R_50_C4_3x.yaml", "pred_masks"),
    ],
)
def test_detections_are_bit_identical_traced_or_not(name, extra):
    torch.manual_seed(0)
    if name == FCOS:
        theirs = eager_zoo_fcos()
        ours = build_model(eager(load_config(f"configs/explain/{FCOS}.yaml")))
    else:
        cfg = eager(zoo_cfg(name))
        theirs, ours = build_model(cfg), build_model(renamed(cfg))
    excite(theirs)
    ours.load_state_dict(theirs.state_dict())
    theirs.eval(), ours.eval()
    # Not a multiple of the stride, and asked for at another size.
    batch = random_input(60, 90) | {"height": 100, "width": 160}
    (traced,) = ours.observe([batch]).detections()
    with torch.no_grad():
        expected = theirs([batch])[0]["instances"]
        untraced = ours([batch])[0]["instances"]
    assert 1 < len(expected) <= DETECTIONS and len(expected.scores.unique()) > 1
    assert expected.image_size == (100, 160)
    assert extra is None or expected.has(extra)
    assert_identical(untraced, expected)
    assert len(traced.place) == len(expected)
    assert_identical(without_place(traced), expected)


def test_a_checkpoint_in_the_zoos_file_format_loads(tmp_path):
    cfg = zoo_cfg("COCO-Detection/retinanet_R_50_FPN_1x.yaml")
    cfg.merge_from_list(["MODEL.RESNETS.DEPTH", 18, "MODEL.RESNETS.RES2_OUT_CHANNELS", 64, "MODEL.DEVICE", "cpu"])
    cfg.MODEL.FPN.OUT_CHANNELS = 8
    theirs, ours = build_model(cfg), build_model(renamed(cfg))
    state = {name: x.numpy() for name, x in theirs.state_dict().items()}
    # Files of that age hold buffers that Detectron2 no longer saves.
    state |= {"pixel_mean": theirs.pixel_mean.numpy(), "pixel_std": theirs.pixel_std.numpy()}
    state |= {"anchor_generator.cell_anchors.0": next(theirs.anchor_generator.buffers()).numpy()}
    path = tmp_path / "model_final_bfca0b.pkl"
    path.write_bytes(pickle.dumps({"model": state, "__author__": "Detectron2 Model Zoo"}))
    name = "head.cls_score.weight"
    assert not torch.equal(ours.state_dict()[name], theirs.state_dict()[name])
    load_weights(ours, str(path))
    for name, x in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[name], x), name
