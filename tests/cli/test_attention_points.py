"""``odam explain --attention-points``: the places, their maps, and which detectors have none."""

import base64
import io
import json
import re

import numpy as np
import pytest
import torch
from PIL import Image

from helpers import random_photo, small_cfg
from odam_d2 import ODAMPredictor
from odam_d2.cli import explain
from odam_d2.cli.attention_points import place_grid, place_maps
from odam_d2.explain import location_attention
from transformer_networks import quick_checkpoint

pytest.importorskip("transformers", reason="the extra 'transformers' is not installed")


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return quick_checkpoint("detr", tmp_path_factory.mktemp("weights"))


def test_places_are_the_centres_of_equal_parts():
    # 20 x 40 pixels, four along the longer side: parts of 10 x 10.
    cells, points = place_grid((20, 40), 4)
    assert cells == (2, 4)
    assert points.tolist() == [[5, 5], [15, 5], [25, 5], [35, 5], [5, 15], [15, 15], [25, 15], [35, 15]]
    assert place_grid((3, 400), 4)[0] == (1, 4) and place_grid((1, 1), 1)[1].tolist() == [[0.5, 0.5]]


@pytest.mark.parametrize("instances", [[0], []])
def test_each_place_has_the_attention_of_its_location(weights, instances):
    predictor = ODAMPredictor(small_cfg("detr", ["MODEL.WEIGHTS", weights]))
    _, trace = predictor.trace(random_photo(96, 128), instances=instances)
    found = place_maps(trace, 4)
    assert found.cells == (3, 4)
    # Parts of 32 x 32 pixels: place (2,3) is at (112,80).
    height, width = found.maps.shape[1:]
    assert (height, width) == tuple(round(side / trace.attention.stride) for side in trace.image_size)
    expected = location_attention(trace, torch.tensor([[112.0, 80.0]])).to_picture((height, width))
    np.testing.assert_allclose(found.maps[11], expected[0], atol=1e-6)
    assert found.maps.max() == pytest.approx(1, abs=1e-6)


def test_the_page_has_the_maps_and_the_record_says_so(weights, tmp_path, call):
    Image.fromarray(random_photo(96, 128)).save(tmp_path / "photo.png")
    words = ["--config-file", "configs/quick/detr.yaml", "--input", tmp_path / "photo.png", "--targets", "class_score"]
    words += ["--output", tmp_path / "out", "--attention-points", "4"]
    done = call(explain.main, *words, "--opts", "MODEL.WEIGHTS", weights)
    assert done.code == 0, done.err
    assert json.loads((tmp_path / "out" / "run.json").read_text())["run"]["attention_points"] == 4
    page = (tmp_path / "out" / "index.html").read_text()
    summary, lazy = (json.loads(re.search(rf'id="{name}-0">(.*?)</script>', page)[1]) for name in ("summary", "image"))
    (height, width), cells = summary["places"]["map_size"], summary["places"]["cells"]
    tiles = Image.open(io.BytesIO(base64.b64decode(lazy["place_maps"])))
    assert cells == [3, 4] and tiles.size == (4 * width, 3 * height)


@pytest.mark.parametrize(
    ("kind", "count", "message"),
    [
        ("rt_detr", "4", "RT-DETR is none"),
        ("fcos", "4", "ODAMFCOS is none"),
        ("detr", "-1", "--attention-points is -1; it must lie between 0, for none, and 64"),
        ("detr", "65", "--attention-points is 65"),
    ],
)
def test_what_has_no_such_attention_says_so_before_it_begins(kind, count, message, tmp_path, call, quick_weights):
    Image.fromarray(random_photo(96, 128)).save(tmp_path / "photo.png")
    words = ["--config-file", f"configs/quick/{kind}.yaml", "--input", tmp_path / "photo.png"]
    words += ["--output", tmp_path / "out", "--attention-points", count]
    done = call(explain.main, *words, "--opts", "MODEL.WEIGHTS", quick_weights(kind) if kind != "detr" else "")
    assert done.code == 1 and message in done.err and done.err.count("\n") == 1, done.err
    assert not (tmp_path / "out").exists()
