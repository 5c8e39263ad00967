"""Every option of a distiller is a key; negative numbers are the published ones of the student's kind."""

import pytest
import torch
from detectron2.modeling import build_model
from torchvision.ops import box_iou

from helpers import small_cfg
from odam_d2.distill import DISTILLERS, FGD_FCOS, FGD_RETINANET, FGD_TWO_STAGE, FKD_ONE_STAGE, FKD_TWO_STAGE
from odam_d2.teaching import distiller_from_config, distilling, levels_of

STUDENTS = {}


def distiller(kind, name, *opts):
    if kind not in STUDENTS:
        STUDENTS[kind] = build_model(small_cfg(kind))
    cfg = small_cfg(kind, ["ODAM.KD.DISTILLER", name, *opts])
    return distiller_from_config(cfg, STUDENTS[kind], levels_of(STUDENTS[kind]), 48)


@pytest.mark.parametrize("name", DISTILLERS)
@pytest.mark.parametrize("kind", ["fcos", "faster_rcnn"])
def test_every_distiller_can_be_had_with_its_levels_and_widths(name, kind):
    found = distiller(kind, name)
    assert type(found) is DISTILLERS[name]
    assert found.strides == levels_of(STUDENTS[kind]).strides
    assert (found.student_channels, found.teacher_channels) == (32, 48) and len(found.adapters) > 0


def test_published_numbers_of_the_students_kind():
    presets = {"retinanet": FGD_RETINANET, "fcos": FGD_FCOS, "faster_rcnn": FGD_TWO_STAGE}
    for kind, settings in presets.items():
        assert distiller(kind, "fgd").settings == distiller(kind, "odam_kd").settings == settings
        assert distiller(kind, "pkd").weight == (6 if kind == "faster_rcnn" else 10)
        assert distiller(kind, "fkd").settings == (FKD_TWO_STAGE if kind == "faster_rcnn" else FKD_ONE_STAGE)
    assert distiller("retinanet", "fgd", "ODAM.KD.FGD.PRESET", "fcos").settings == FGD_FCOS


def test_single_numbers_count_before_a_preset():
    keys = {"TEMPERATURE": 0.7, "ALPHA": 1.0, "BETA": 2.0, "GAMMA": 3.0, "LAMBDA": 4.0}
    opts = [part for key, value in keys.items() for part in (f"ODAM.KD.FGD.{key}", value)]
    found = distiller("fcos", "odam_kd", *opts).settings
    fields = (found.temperature, found.foreground, found.background, found.attention, found.relation)
    assert fields == (0.7, 1.0, 2.0, 3.0, 4.0)
    assert distiller("fcos", "fgd", "ODAM.KD.FGD.LAMBDA", 0.0).settings.relation == 0
    assert distiller("fcos", "pkd", "ODAM.KD.PKD.WEIGHT", 3.0).weight == 3
    assert distiller("fcos", "cwd", "ODAM.KD.CWD.WEIGHT", 5.0, "ODAM.KD.CWD.TEMPERATURE", 4.0).temperature == 4
    assert distiller("fcos", "fgfi", "ODAM.KD.FGFI.RATIO", 0.3).ratio == 0.3
    assert distiller("fcos", "gid", "ODAM.KD.GID.RELATION", 7.0).settings.relation == 7
    assert distiller("fcos", "fkd", "ODAM.KD.FKD.FEATURE", 7.0).settings.feature == 7


def test_gids_places_are_those_that_the_student_assigns():
    maps = [torch.zeros(1, 1, 64 // stride, 64 // stride) for stride in (8, 16, 32, 64)]
    maps.append(torch.zeros(1, 1, 1, 1))
    # A small box, a long one, and one like an anchor: the first two have no anchor with an IoU of .5.
    boxes = torch.tensor([[30.0, 30.0, 42.0, 42.0], [2.0, 20.0, 62.0, 26.0], [4.0, 4.0, 36.0, 36.0]])
    gid = distiller("retinanet", "gid")
    anchors = torch.cat([level.tensor for level in STUDENTS["retinanet"].anchor_generator(maps)])
    overlaps = box_iou(boxes, anchors)
    best = overlaps == overlaps.amax(dim=1, keepdim=True)
    assert (overlaps[:2] < 0.5).all()
    assert torch.equal(gid.assign(anchors, boxes), ((overlaps >= 0.5) | best).any(dim=0))
    assert not gid.assign(anchors, boxes[:0]).any()
    gid = distiller("fcos", "gid")
    levels = STUDENTS["fcos"].anchor_generator(maps)
    # Its points of the finest level that lie in the box and within 1.5 strides of its middle: 36 - 12 to 36 + 12.
    found = gid.assign(torch.cat([level.tensor for level in levels]), boxes[:1]).nonzero()[:, 0]
    centres = levels[0].get_centers()[found]
    assert len(found) > 0 and ((centres >= 30) & (centres <= 42)).all()


@pytest.mark.parametrize(
    ("row", "keys", "expected"),
    [
        (1, ["unfocused", False, "bottom_up"], ("unfocused", 0.0, "bottom_up")),
        (2, ["focused", False, "bottom_up"], ("focused", 0.0, "bottom_up")),
        (3, ["together", False, "bottom_up"], ("together", 0.0, "bottom_up")),
        (4, ["focused", False, "odam"], ("focused", 0.0, "odam")),
        (5, ["together", True, "bottom_up"], ("together", 5e-4, "bottom_up")),
        (6, ["focused", True, "odam"], ("focused", 5e-4, "odam")),
        (7, ["focused", True, "gradcam"], ("focused", 5e-4, "gradcam")),
    ],
)
def test_every_row_of_table_7_is_three_keys(row, keys, expected):
    names = ("FOREGROUND", "BACKGROUND", "ATTENTION")
    found = distiller("retinanet", "odam_kd", *(x for n, v in zip(names, keys) for x in (f"ODAM.KD.{n}", v)))
    assert (found.foreground_objects, found.settings.background, found.attention) == expected
    assert found.needs == (() if row in (3, 5) else ("focus",))
    assert found.weigh_channels


def test_what_cannot_be_used_names_the_key():
    for name, opts, words in (
        ("best", [], "ODAM.KD.DISTILLER is 'best'; valid values are odam_kd, fgd, fgfi, gid, fkd, cwd, pkd"),
        ("fgd", ["FGD.PRESET", "detr"], "FGD.PRESET is 'detr'; valid values are auto, retinanet, fcos, two_stage"),
        ("fgd", ["FGD.TEMPERATURE", 0.0], "ODAM.KD does not describe a distiller fgd: temperature is 0.0"),
        ("odam_kd", ["ATTENTION", "drise"], "attention is 'drise'; valid values are bottom_up, odam, gradcam"),
        ("fgfi", ["FGFI.RATIO", 1.0], r"ratio is 1.0; it must be in \[0,1\)"),
    ):
        opts = [f"ODAM.KD.{word}" if i % 2 == 0 else word for i, word in enumerate(opts)]
        with pytest.raises(ValueError, match=words):
            distiller("fcos", name, *opts)


def test_without_a_distiller_nothing_is_there_but_the_student():
    cfg = small_cfg("fcos")
    student = build_model(cfg)
    assert distilling(cfg, student) is student
