"""The teacher is really there: frozen, loaded whole, in its own colours; and does not fit whom it cannot teach."""

import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.modeling import build_model

from helpers import random_input, small_cfg
from odam_d2.modeling.checkpoint import load_weights
from odam_d2.teaching import build_teacher, check_fit, check_same_names, distilling, levels_of
from teaching.conftest import CLASSES, KINDS


@pytest.mark.parametrize("kind", KINDS)
def test_a_teacher_is_frozen_and_has_the_weights_of_its_file(kind, kd_cfg):
    cfg = kd_cfg(kind)
    teacher = build_teacher(cfg)
    saved = torch.load(cfg.ODAM.KD.TEACHER.WEIGHTS)["model"]
    found = teacher.detector.state_dict()
    assert set(found) == set(saved) and all(torch.equal(found[name], saved[name]) for name in saved)
    assert not teacher.detector.training and not any(p.requires_grad for p in teacher.detector.parameters())


@pytest.mark.parametrize("own", ["RGB", "BGR"])
def test_the_same_image_reaches_a_teacher_of_either_order_of_colours(own, kd_cfg):
    image = random_input()
    before = image["image"].clone()
    maps = {}
    for order in ("RGB", "BGR"):
        cfg = kd_cfg("fcos", "INPUT.FORMAT", own)
        cfg.ODAM.KD.TEACHER.OPTS = [*cfg.ODAM.KD.TEACHER.OPTS, "INPUT.FORMAT", order]
        teacher = build_teacher(cfg)
        (maps[order],) = teacher.feature_maps([image], ["p3"])
        (seen,) = teacher.observe([image], ()).feature_maps(["p3"])
        assert torch.equal(seen, maps[order]) and not maps[order].requires_grad
        given = {**image, "image": image["image"] if order == own else image["image"].flip(0)}
        expected = teacher.detector.backbone(teacher.detector.preprocess_image([given]).tensor)["p3"]
        assert torch.equal(maps[order], expected)
    assert not torch.allclose(maps["RGB"], maps["BGR"])
    assert torch.equal(image["image"], before)


def test_pixels_are_normalised_by_the_teachers_own_numbers(kd_cfg):
    cfg = kd_cfg("fcos", "MODEL.PIXEL_MEAN", [1.0, 2.0, 3.0], "MODEL.PIXEL_STD", [2.0, 2.0, 2.0])
    teacher = build_teacher(cfg)
    assert teacher.detector.pixel_mean.flatten().tolist() == [127.0] * 3


def test_what_is_not_named_is_refused(kd_cfg, tmp_path):
    cfg = kd_cfg("fcos", "ODAM.KD.TEACHER.CONFIG_FILE", "")
    with pytest.raises(ValueError, match="DISTILLER is 'odam_kd' and ODAM.KD.TEACHER.CONFIG_FILE is empty; name"):
        build_teacher(cfg)
    with pytest.raises(ValueError, match="TEACHER.WEIGHTS is empty, and so is MODEL.WEIGHTS of quick/fcos.yaml"):
        build_teacher(kd_cfg("fcos", "ODAM.KD.TEACHER.WEIGHTS", ""))
    with pytest.raises(FileNotFoundError, match="there is no weights file .*absent.pth"):
        build_teacher(kd_cfg("fcos", "ODAM.KD.TEACHER.WEIGHTS", str(tmp_path / "absent.pth")))
    with pytest.raises(FileNotFoundError, match="absent.yaml"):
        build_teacher(kd_cfg("fcos", "ODAM.KD.TEACHER.CONFIG_FILE", "absent.yaml"))


def test_weights_that_fit_partly_are_named_with_keys_and_shapes(kd_cfg, tmp_path):
    cfg = kd_cfg("fcos")
    state = torch.load(cfg.ODAM.KD.TEACHER.WEIGHTS)["model"]
    state["head.cls_score.weight"] = state["head.cls_score.weight"][:2]
    state["head.mystery.weight"] = state.pop("head.bbox_pred.bias")
    torch.save({"model": state}, tmp_path / "part.pth")
    cfg.ODAM.KD.TEACHER.WEIGHTS = str(tmp_path / "part.pth")
    message = (
        r"the teacher quick/fcos.yaml was not loaded: .*part.pth.*head.cls_score.weight is \(2, 32, 3, 3\) in the "
        r"file, \(3, 32, 3, 3\) in the model; .*head.bbox_pred.bias is missing in the file; head.mystery.weight of the "
        r"file is not in the model"
    )
    with pytest.raises(ValueError, match=message):
        build_teacher(cfg)


def test_weights_of_a_larger_network_do_not_pass_for_a_smaller_ones(kd_cfg, tmp_path):
    """As a ResNet-101's for a ResNet-50: nothing is missing, all shapes agree."""
    deep = build_model(small_cfg("fcos", [*CLASSES, "MODEL.FCOS.NUM_CONVS", 2]))
    state = {f"{name}": value for name, value in deep.state_dict().items() if not name.startswith("head.bbox_subnet.2")}
    state |= build_model(small_cfg("fcos", CLASSES)).state_dict()
    torch.save({"model": state}, tmp_path / "deep.pth")
    shallow = build_model(small_cfg("fcos", CLASSES))
    load_weights(shallow, str(tmp_path / "deep.pth"))
    cfg = kd_cfg("fcos", "ODAM.KD.TEACHER.WEIGHTS", str(tmp_path / "deep.pth"))
    with pytest.raises(ValueError, match="was not loaded: .*head.cls_subnet.2.weight of the file is not in the model"):
        build_teacher(cfg)


def test_constants_of_older_checkpoints_are_no_fault(kd_cfg, tmp_path):
    cfg = kd_cfg("retinanet")
    state = torch.load(cfg.ODAM.KD.TEACHER.WEIGHTS)["model"]
    state |= {"pixel_mean": torch.zeros(3, 1, 1), "anchor_generator.cell_anchors.0": torch.zeros(3, 4)}
    torch.save({"model": state}, tmp_path / "old.pth")
    cfg.ODAM.KD.TEACHER.WEIGHTS = str(tmp_path / "old.pth")
    assert build_teacher(cfg).detector.pixel_mean.flatten().tolist() == [127.0] * 3


def test_levels_are_what_the_last_stage_reads():
    fcos, two_stage = (build_model(small_cfg(kind)) for kind in ("fcos", "faster_rcnn"))
    assert levels_of(fcos) == (("p3", "p4", "p5", "p6", "p7"), (8, 16, 32, 64, 128), 32)
    assert levels_of(two_stage) == (("p3", "p4", "p5"), (8, 16, 32), 32)


def test_another_width_and_another_backbone_fit():
    narrow = build_model(small_cfg("fcos"))
    wide = build_model(small_cfg("fcos", ["MODEL.FPN.OUT_CHANNELS", 48, "MODEL.TIMM.NAME", "test_resnet"]))
    own, theirs = check_fit(narrow, wide, ("focus",))
    assert (own.channels, theirs.channels) == (32, 48) and own.names == theirs.names


def test_a_teacher_that_does_not_fit_is_refused():
    student = build_model(small_cfg("retinanet", CLASSES))
    with pytest.raises(ValueError, match="the student has 3 classes and the teacher 80"):
        check_fit(student, build_model(small_cfg("retinanet")))
    fewer = build_model(small_cfg("faster_rcnn", CLASSES))
    with pytest.raises(
        ValueError, match="the student's level p7 has stride 128, and the teacher has p3 at stride 8, p4"
    ):
        check_fit(student, fewer)
    # Res2 under the same names: every stride is half.
    finer = ["MODEL.FPN.IN_FEATURES", ["res3", "res4"], "MODEL.FCOS.IN_FEATURES", ["p3", "p4"]]
    short = build_model(small_cfg("fcos", [*CLASSES, *finer, "MODEL.TIMM.TOP_BLOCK", "none"]))
    with pytest.raises(
        ValueError, match="level p5 has stride 32, and the teacher has p3 at stride 8, p4 at stride 16;"
    ):
        check_fit(student, short)
    other = build_model(small_cfg("retinanet", CLASSES))
    other.backbone._out_feature_strides["p4"] = 12
    with pytest.raises(ValueError, match="level p4 has stride 16, and the teacher has p3 at stride 8, p4 at stride 12"):
        check_fit(student, other)


def test_maps_alone_need_less_in_common_than_predictions():
    retinanet, fcos = (build_model(small_cfg(kind, CLASSES)) for kind in ("retinanet", "fcos"))
    assert check_fit(retinanet, fcos)[1].names == ("p3", "p4", "p5", "p6", "p7")
    with pytest.raises(
        ValueError, match=r"student \(ODAMRetinaNet\) and the teacher \(ODAMFCOS\) have different anchors"
    ):
        check_fit(retinanet, fcos, ("focus",))
    larger = ["MODEL.ANCHOR_GENERATOR.SIZES", [[20], [40], [80], [160], [320]]]
    with pytest.raises(ValueError, match="different anchors; set MODEL.ANCHOR_GENERATOR"):
        check_fit(retinanet, build_model(small_cfg("retinanet", [*CLASSES, *larger])), ("focus",))
    two_stage = build_model(small_cfg("faster_rcnn", CLASSES))
    assert check_fit(two_stage, fcos)[1].names == ("p3", "p4", "p5")
    with pytest.raises(ValueError, match="is ODAMRCNN and the teacher ODAMFCOS, which predict at different places"):
        check_fit(two_stage, fcos, ("focus",))
    with pytest.raises(ValueError, match="compares responses at anchors, of which ODAMRCNN has none"):
        check_fit(two_stage, two_stage, ("student_responses",))
    res5 = build_model(
        small_cfg("faster_rcnn", ["MODEL.ROI_HEADS.NAME", "ODAMRes5ROIHeads", "MODEL.ROI_HEADS.IN_FEATURES", ["p4"]])
    )
    with pytest.raises(ValueError, match="ODAMRes5ROIHeads does not say which regions it sampled"):
        check_fit(res5, res5, ("focus",))


def test_classes_in_another_order_are_refused(catalogs):
    for name, classes in {"kd_a": ["cat", "dog"], "kd_b": ["dog", "cat"], "kd_c": ["dog"]}.items():
        MetadataCatalog.get(name).thing_classes = classes
    cfgs = {name: small_cfg("fcos", ["DATASETS.TRAIN", (name,)]) for name in ("kd_a", "kd_b", "kd_c", "kd_unknown")}
    with pytest.raises(ValueError, match="class 0 is 'cat' in the student's datasets and 'dog' in the teacher's"):
        check_same_names(cfgs["kd_a"], cfgs["kd_b"])
    for other in ("kd_a", "kd_c", "kd_unknown"):
        check_same_names(cfgs["kd_a"], cfgs[other])
    assert "kd_unknown" not in MetadataCatalog


def test_a_student_that_cannot_be_explained_is_refused(kd_cfg):
    cfg = kd_cfg("retinanet", "MODEL.META_ARCHITECTURE", "RetinaNet")
    with pytest.raises(ValueError, match="RetinaNet cannot be explained; set MODEL.META_ARCHITECTURE"):
        distilling(cfg, build_model(cfg))
