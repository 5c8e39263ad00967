"""The shipped configs of distillation: each names a teacher that fits its student."""

from pathlib import Path

import pytest
from detectron2.modeling import build_model

from odam_d2.config import load_config
from odam_d2.teaching import check_fit, distiller_from_config

FILES = sorted(Path("configs/odam_kd").glob("[!B]*.yaml")) + sorted(Path("configs/quick").glob("*_odam_kd.yaml"))
NAMES = [path.relative_to("configs").as_posix() for path in FILES]
STUDENTS = [name for name in NAMES if load_config(name).ODAM.KD.DISTILLER]


def test_there_are_students_and_teachers():
    assert len(STUDENTS) == 9 and len(NAMES) == 12
    for name in NAMES:
        assert load_config(name).OUTPUT_DIR == f"output/{name.removesuffix('.yaml')}"


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if "R_50" in name else []) for name in STUDENTS]
)
def test_the_teacher_fits(name):
    cfg = load_config(name, ["MODEL.DEVICE", "cpu"])
    options = cfg.ODAM.KD.TEACHER
    own = load_config(options.CONFIG_FILE, ["MODEL.DEVICE", "cpu"])
    assert not own.ODAM.KD.DISTILLER
    # Weights are the teacher's own output, or come with its config: bundled, or of Detectron2's model zoo.
    if options.WEIGHTS:
        assert options.WEIGHTS == f"{own.OUTPUT_DIR}/model_final.pth"
    else:
        assert own.MODEL.WEIGHTS.startswith(("odam://", "detectron2://COCO-Detection/"))
    assert own.DATASETS.TRAIN == cfg.DATASETS.TRAIN
    student, teacher = build_model(cfg), build_model(own)
    levels, theirs = check_fit(student, teacher)
    distiller = distiller_from_config(cfg, student, levels, theirs.channels)
    assert distiller.needs == ("focus",)
    check_fit(student, teacher, distiller.needs)
    sizes = [sum(p.numel() for p in one.backbone.bottom_up.parameters()) for one in (student, teacher)]
    assert sizes[1] > sizes[0] or name.startswith("quick/")
