"""``odam figures 7``: what it shows of one detection of a transformer, and what it says when something is wrong."""

import numpy as np
import pytest
import torch
from PIL import Image

from helpers import random_photo, small_cfg
from odam_d2 import ODAMPredictor
from odam_d2.cli.figures import main
from odam_d2.cli.paper_figures import queries
from odam_d2.explain import location_attention
from transformer_networks import quick_checkpoint

pytest.importorskip("transformers", reason="the extra 'transformers' is not installed")


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    for kind in ("detr", "rt_detr"):
        quick_checkpoint(kind, folder)
    return folder


@pytest.fixture
def run(weights, tmp_path, call):
    Image.fromarray(random_photo(96, 128)).save(tmp_path / "photo.png")

    def call_main(*words, kind="detr"):
        base = ["7", "--config-file", f"configs/quick/{kind}.yaml", "--input", tmp_path / "photo.png"]
        base += ["--output", tmp_path / "out" / "figure.png", *words]
        return call(main, *base, "--opts", "MODEL.WEIGHTS", weights / f"{kind}.pth")

    return call_main


@pytest.fixture
def drawn(monkeypatch):
    """What each figure was drawn of."""
    seen = []
    draw = queries.query_figure
    monkeypatch.setattr(queries, "query_figure", lambda *words: seen.append(words) or draw(*words))
    return seen


def test_one_command_writes_the_figure(run, tmp_path, drawn, weights):
    done = run("--instance", "1", "--point", "40", "60", "--point", "127.5", "0")
    assert done.code == 0, done.err
    predictor = ODAMPredictor(small_cfg("detr", ["MODEL.WEIGHTS", str(weights / "detr.pth")]))
    image = random_photo(96, 128)[:, :, ::-1].copy()
    found = predictor(image)["instances"]
    ((photo, points, point_maps, box, label, attention, game, maps),) = drawn
    np.testing.assert_array_equal(photo, random_photo(96, 128))
    assert label == f"{predictor.class_names[found.pred_classes[1]]} {found.scores[1]:.2f}" in done.out
    np.testing.assert_allclose(box, found.pred_boxes.tensor[1], atol=1e-3)
    # Images of less than 320 pixels are shown as they are.
    size = (96, 128)
    _, trace = predictor.trace(image, instances=[1])
    looked = location_attention(trace, torch.tensor([[40.0, 60.0], [127.5, 0.0]]))
    np.testing.assert_allclose(point_maps, looked.to_picture(size), atol=1e-6)
    assert points.tolist() == [[40, 60], [127.5, 0]]
    for method, own in (("attention", attention), ("game", game)):
        expected = predictor.explain(image, instances=[1], method=method).maps["class_score"][0]
        np.testing.assert_allclose(own, expected, atol=1e-5)
    assert list(maps) == ["class_score", "x1", "y1", "x2", "y2", "combined"]
    expected = predictor.explain(image, list(maps), instances=[1])
    for target, own in maps.items():
        np.testing.assert_allclose(own, expected.maps[target][0], atol=1e-5)
    # Six columns of 220 pixels, and gaps of 10.
    assert np.asarray(Image.open(tmp_path / "out" / "figure.png")).shape[1] == 6 * 230 + 10


def test_without_a_point_the_middle_of_the_detection_is_asked_about(run, drawn):
    assert run("--class", "N/A").code == 1
    assert run().code == 0
    ((_, points, point_maps, box, *_),) = drawn
    np.testing.assert_allclose(points, [[(box[0] + box[2]) / 2, (box[1] + box[3]) / 2]])
    assert len(point_maps) == 1


@pytest.mark.parametrize(
    ("words", "kind", "message"),
    [
        (["--instance", "99"], "detr", "there is no detection 99; "),
        (["--class", "dgo"], "detr", "'dgo' is no class of this detector; the closest"),
        (["--point", "128", "0"], "detr", "the point (128.0, 0.0) lies outside the image of 128 x 96 pixels"),
        (["--output", "figure.txt"], "detr", "figure.txt is no image file"),
        ([], "rt_detr", "this detector looks at a few points of its maps"),
    ],
)
def test_what_cannot_be_shown_is_said_in_one_line(run, words, kind, message):
    done = run(*words, kind=kind)
    assert done.code == 1 and message in done.err and done.err.count("\n") == 1, done.err
