"""Everything that works for other detectors works for transformers: predictor, methods, commands, NMS."""

import json

import pytest
from PIL import Image

from cli.conftest import call
from evaluation.explained import register, unregister, write_dataset
from helpers import random_photo, small_cfg
from odam_d2 import ODAMPredictor
from odam_d2.cli import evaluate, explain, sanity
from transformer_networks import quick_checkpoint

pytest.importorskip("transformers", reason="the extra 'transformers' is not installed")

__all__ = ["call"]
NAME = "odam_queried"


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """kind -> a checkpoint of the quick config whose queries differ."""
    folder = tmp_path_factory.mktemp("weights")
    return {kind: quick_checkpoint(kind, folder) for kind in ("detr", "rt_detr")}


@pytest.fixture(scope="module")
def dataset(weights, tmp_path_factory):
    predictor = ODAMPredictor(small_cfg("detr", ["MODEL.WEIGHTS", weights["detr"]]))
    register(NAME, write_dataset(tmp_path_factory.mktemp("data") / "queried", predictor))
    yield
    unregister(NAME)


@pytest.mark.parametrize("kind", ["detr", "rt_detr"])
def test_a_predictor_explains_with_every_target_and_method(kind, weights):
    cfg = small_cfg(kind, ["MODEL.WEIGHTS", weights[kind], "ODAM.EXPLAIN.DRISE_MASKS", 4])
    predictor, photo = ODAMPredictor(cfg), random_photo(96, 128)
    found = predictor(photo)["instances"]
    assert len(found) == 5 and len(predictor.class_names) == 80
    targets = ["class_score", "class_logit[dog]", "x1", "y1", "x2", "y2", "combined"]
    explanation = predictor.explain(photo, targets, instances=[0, 1])
    assert list(explanation.maps) == targets and explanation.levels == ["res5", "res5"]
    assert all(maps.shape == (2, 96, 128) for maps in explanation.maps.values())
    for method in ("gradcam", "layercam", "drise"):
        assert predictor.explain(photo, instances=[0], method=method).maps["class_score"].shape == (1, 96, 128)
    encoder = "encoder" if kind == "detr" else "encoder3"
    assert predictor.explain(photo, layer=encoder, instances=[0]).layer == encoder
    with pytest.raises(ValueError, match="unknown layer 'roi_pool'"):
        predictor.explain(photo, layer="roi_pool")
    if kind == "detr":
        assert predictor.explain(photo, ["class_score", "x1"], method="game", instances=[0]).layer is None
        with pytest.raises(ValueError, match="game looks at attention: it has no layers"):
            predictor.explain(photo, method="game", layer="res5")
    else:
        with pytest.raises(ValueError, match="rollout needs a transformer"):
            predictor.explain(photo, method="rollout")


@pytest.mark.parametrize("kind", ["detr", "rt_detr"])
def test_nms_that_compares_maps_works_on_queries(kind, weights):
    options = ["ODAM.NMS.NAME", "odam", "MODEL.TRANSFORMERS.NMS_THRESH_TEST", 0.5]
    predictor = ODAMPredictor(small_cfg(kind, ["MODEL.WEIGHTS", weights[kind], *options]))
    instances, done = predictor.explain_nms(random_photo(96, 128))
    plain = ODAMPredictor(small_cfg(kind, ["MODEL.WEIGHTS", weights[kind]]))
    assert done.maps.shape[0] == len(done.boxes) >= len(instances) > 0
    assert len(plain.explain_nms(random_photo(96, 128))[1].removed) == 0


def test_odam_explain_writes_a_page(weights, tmp_path, call):
    Image.fromarray(random_photo(96, 128)).save(tmp_path / "photo.png")
    for method, targets in (("odam", 6), ("game", 6), ("attention", 1)):
        words = ["--config-file", "configs/quick/detr.yaml", "--input", tmp_path / "photo.png", "--method", method]
        done = call(explain.main, *words, "--output", tmp_path / method, "--opts", "MODEL.WEIGHTS", weights["detr"])
        assert done.code == 0, done.err
        run = json.loads((tmp_path / method / "run.json").read_text())["run"]
        assert run["method"] == method and len(run["targets"]) == targets
        assert ("layer" in run) == (method == "odam")
        assert (tmp_path / method / "index.html").is_file()


def test_odam_evaluate_measures_attention_beside_gradients(weights, dataset, tmp_path, call):
    words = ["--config-file", "configs/quick/detr.yaml", "--dataset", NAME, "--output", tmp_path / "out"]
    words += ["--score-threshold", "0", "--iou-threshold", "0.5", "--methods", "odam,attention,rollout,game"]
    done = call(evaluate.main, *words, "--opts", "MODEL.WEIGHTS", weights["detr"])
    assert done.code == 0, done.err
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["counts"]["objects"] > 0 and {"odam", "attention", "rollout", "game"} < set(summary)
    # Attention sums to 1 over the image and cannot vanish.
    assert summary["attention"]["enpg_box"] > 0 and summary["rollout"]["enpg_box"] > 0


def test_odam_sanity_randomises_from_the_predictors_down(weights, dataset, tmp_path, call):
    words = ["--config-file", "configs/quick/detr.yaml", "--dataset", NAME, "--output", tmp_path / "out"]
    words += [
        "--score-threshold",
        "0",
        "--max-images",
        "1",
        "--max-detections",
        "1",
        "--methods",
        "odam,game,attention",
    ]
    done = call(sanity.main, *words, "--opts", "MODEL.WEIGHTS", weights["detr"])
    assert done.code == 0, done.err
    content = json.loads((tmp_path / "out" / "sanity.json").read_text())
    own = content["methods"]["attention"]["spearman"]
    assert list(own)[0] == "predictors" and list(own)[-1] == "backbone.0"
    # Attention knows nothing of the predictors, and its map stays the same when they are shuffled.
    assert own["predictors"] == pytest.approx(1.0) and own["decoder.0"] < 0.999
    assert content["explained by"]["game"] == {"method": "game"}
