"""The bundled transformers: what they find in a drawing, and that their maps lie there."""

import pytest
import torch

from drawn_cells import CENTRES, draw_cells
from helpers import DEVICES
from odam_d2 import ODAMPredictor, load_config, read_image

pytest.importorskip("transformers", reason="the extra 'transformers' is not installed")
RED = 1


@pytest.fixture
def image(tmp_path):
    return read_image(draw_cells(tmp_path / "cells.png"))


def explain(name, device, image, method="odam"):
    """The explanation of what is surer than one half."""
    cfg = load_config(f"transformers/{name}_nanodet_g_bccd.yaml", ["MODEL.DEVICE", device])
    predictor = ODAMPredictor(cfg)
    sure = (predictor(image)["instances"].scores > 0.5).nonzero()[:, 0].tolist()
    return predictor.explain(image, ["class_score"], instances=sure, method=method)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", ["conditional_detr", "rt_detr"])
def test_every_drawn_cell_is_found_and_odam_peaks_on_its_own(name, device, image):
    explanation = explain(name, device, image)
    found, maps = explanation.instances, torch.as_tensor(explanation.maps["class_score"])
    assert (found.pred_classes == RED).all() and len(found) <= len(CENTRES) + 1
    boxes = found.pred_boxes.tensor.tolist()
    for x, y in CENTRES:
        assert any(x1 < x < x2 and y1 < y < y2 for x1, y1, x2, y2 in boxes)
    for own, (x1, y1, x2, y2) in zip(maps, boxes):
        row, column = divmod(int(own.argmax()), own.shape[1])
        assert x1 <= column <= x2 and y1 <= row <= y2


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("method", ["attention", "rollout", "game"])
def test_the_one_with_dense_attention_is_asked_what_it_looked_at(method, device, image):
    explanation = explain("conditional_detr", device, image, method)
    maps = torch.as_tensor(explanation.maps["class_score"])
    assert len(maps) >= len(CENTRES) and torch.isfinite(maps).all() and (maps.amax(dim=(1, 2)) > 0).all()
