"""The predictor a user holds: Detectron2's contract, explanations, and clear refusals."""

import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from detectron2.engine import DefaultPredictor

from helpers import random_photo, small_cfg
from odam_d2.explain import DRISE, GRADIENT_METHODS, TARGETS
from odam_d2.explain.masks.black_box import proposal_function
from odam_d2.explain.masks.drise import Proposals, find_class_vectors
from odam_d2.modeling.checkpoint import weights_sha256
from odam_d2.predictor import ODAMPredictor

KINDS = ["fcos", "retinanet", "faster_rcnn"]


def cfg_for(kind, quick_weights, *opts):
    return small_cfg(kind, ["MODEL.WEIGHTS", quick_weights(kind), *opts])


@pytest.mark.parametrize("kind", KINDS)
def test_calling_it_is_detectron2s_default_predictor(kind, quick_weights):
    cfg = cfg_for(kind, quick_weights)
    image = random_photo(75, 133)
    expected = DefaultPredictor(cfg)(image)["instances"]
    found = ODAMPredictor(cfg)(image)["instances"]
    assert len(expected) > 1
    assert torch.equal(found.scores, expected.scores)
    assert torch.equal(found.pred_boxes.tensor, expected.pred_boxes.tensor)
    assert set(found.get_fields()) == set(expected.get_fields())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", GRADIENT_METHODS)
def test_every_target_and_layer_gives_maps_of_the_image(kind, method, quick_weights):
    predictor = ODAMPredictor(cfg_for(kind, quick_weights))
    image = random_photo(75, 133)
    before = image.copy()
    for layer in predictor.model.layers:
        explanation = predictor.explain(image, TARGETS, method=method, layer=layer)
        assert list(explanation.maps) == list(TARGETS) and len(explanation.maps) == len(TARGETS)
        for maps in explanation.maps.values():
            assert tuple(maps.shape) == (len(explanation.instances), 75, 133)
            assert maps.dtype == torch.float32
            assert 0 <= maps.min() and maps.max() <= 1
    assert np.array_equal(image, before)


@pytest.mark.parametrize("kind", KINDS)
def test_drise_has_the_call_of_every_method(kind, quick_weights):
    predictor = ODAMPredictor(
        cfg_for(kind, quick_weights, "ODAM.EXPLAIN.DRISE_MASKS", "5", "ODAM.EXPLAIN.DRISE_BATCH", "2")
    )
    image, told = random_photo(75, 133), []
    explanation = predictor.explain(image, instances=[1, 0], method="drise", progress=lambda *done: told.append(done))
    assert told == [(2, 5), (4, 5), (5, 5)] and list(explanation.maps) == ["class_score"]
    maps = explanation.maps["class_score"]
    assert tuple(maps.shape) == (2, 75, 133)
    # From the lowest pixel of the network's input, but for interpolation, to the highest of the image.
    assert (maps.flatten(1).amin(1) >= 0).all() and (maps.flatten(1).amin(1) < 0.05).all()
    assert torch.allclose(maps.flatten(1).amax(1), torch.ones(2))
    # The same by hand.
    instances, trace = predictor.trace(image, instances=[1, 0])
    pixels = predictor.network_input(image)
    assert torch.equal(trace.pixels, pixels) and torch.equal(explanation.instances.scores, instances.scores)
    (every,) = proposal_function(predictor.model, 10**6, 0.0, 1.0)(pixels[None])
    vectors = find_class_vectors(Proposals(*every), trace.clipped_boxes, trace.classes)
    raw = DRISE(5, batch=2)(proposal_function(predictor.model), pixels, trace.clipped_boxes, vectors)
    assert torch.allclose(explanation.heat_maps["class_score"].maps, raw, atol=1e-6)
    nothing = predictor.explain(image, instances=[], method="drise")
    assert tuple(nothing.maps["class_score"].shape) == (0, 75, 133)


def test_drise_refuses_what_it_does_not_have(quick_weights):
    predictor = ODAMPredictor(cfg_for("fcos", quick_weights))
    image = random_photo(75, 133)
    for targets in (["x1"], ["class_score", "combined"]):
        with pytest.raises(ValueError, match=f"drise.*class_score, not '{targets[-1]}'"):
            predictor.explain(image, targets, method="drise")
    for options in ({"layer": "res4"}, {"path": "batched"}, {"smoothing": "gaussian"}):
        with pytest.raises(ValueError, match="drise.*no layers, smoothing and paths"):
            predictor.explain(image, method="drise", **options)
    _, trace = predictor.trace(image)
    with pytest.raises(ValueError, match="drise needs the trace's pixels"):
        predictor.make_explainer("drise")(replace(trace, pixels=None))


def test_chosen_instances_are_explained_in_the_order_given(quick_weights):
    predictor = ODAMPredictor(cfg_for("fcos", quick_weights))
    image = random_photo(75, 133)
    everything = predictor.explain(image)
    chosen = predictor.explain(image, instances=[2, 0])
    assert torch.equal(chosen.instances.scores, everything.instances.scores[[2, 0]])
    assert torch.allclose(chosen.maps["class_score"], everything.maps["class_score"][[2, 0]], atol=1e-5)
    confident = predictor.explain(image, instances=lambda found: (found.scores > found.scores[1]).nonzero()[:, 0])
    assert len(confident.instances) == 1


def test_class_names_come_from_the_dataset_or_are_cocos(quick_weights):
    from detectron2.data import MetadataCatalog

    predictor = ODAMPredictor(cfg_for("fcos", quick_weights))
    assert predictor.class_names[0] == "person" and len(predictor.class_names) == 80
    MetadataCatalog.get("odam_test_names").thing_classes = [f"c{i}" for i in range(80)]
    predictor = ODAMPredictor(cfg_for("fcos", quick_weights, "DATASETS.TEST", "('odam_test_names',)"))
    assert predictor.class_names[3] == "c3"


def test_what_cannot_be_explained_is_refused_by_name(quick_weights):
    predictor = ODAMPredictor(cfg_for("fcos", quick_weights))
    image = random_photo(75, 133)
    with pytest.raises(ValueError, match="'score'.*class_score"):
        predictor.explain(image, ["score"])
    with pytest.raises(ValueError, match="'roi_pool'.*fpn"):
        predictor.explain(image, layer="roi_pool")
    with pytest.raises(ValueError, match="'cam'.*odam.*drise"):
        predictor.explain(image, method="cam")
    with pytest.raises(ValueError, match="no detection 99"):
        predictor.explain(image, instances=[99])
    with pytest.raises(ValueError, match=r"\(75, 133\)"):
        predictor.explain(image[:, :, 0])
    with pytest.raises(ValueError, match="RetinaNet.*ODAMRetinaNet"):
        ODAMPredictor(cfg_for("retinanet", quick_weights, "MODEL.META_ARCHITECTURE", "RetinaNet"))


def test_weights_that_do_not_fill_the_model_are_refused(quick_weights, tmp_path):
    with pytest.raises(ValueError, match="empty"):
        ODAMPredictor(small_cfg("fcos"))
    with pytest.raises(FileNotFoundError, match="absent.pth"):
        ODAMPredictor(small_cfg("fcos", ["MODEL.WEIGHTS", str(tmp_path / "absent.pth")]))
    with pytest.raises(ValueError, match="retinanet.pth.*do not fit.*head.*more"):
        ODAMPredictor(small_cfg("fcos", ["MODEL.WEIGHTS", quick_weights("retinanet")]))
    with pytest.raises(ValueError, match=r"cls_score.*\(80,.*in the file, \(7,"):
        ODAMPredictor(cfg_for("fcos", quick_weights, "MODEL.FCOS.NUM_CLASSES", "7"))
    (tmp_path / "garbage.pth").write_bytes(b"no weights")
    with pytest.raises(ValueError, match="garbage.pth cannot be used"):
        ODAMPredictor(small_cfg("fcos", ["MODEL.WEIGHTS", str(tmp_path / "garbage.pth")]))


class Evil:
    def __reduce__(self):
        return (print, ("code in a checkpoint ran",))


def test_checkpoints_cannot_run_code(tmp_path, capfd):
    (tmp_path / "evil.pth").write_bytes(pickle.dumps({"model": Evil()}))
    torch.save({"model": Evil()}, tmp_path / "evil2.pth")
    for name in ("evil.pth", "evil2.pth"):
        with pytest.raises(ValueError, match=name):
            ODAMPredictor(small_cfg("fcos", ["MODEL.WEIGHTS", str(tmp_path / name)]))
    assert "ran" not in capfd.readouterr().out


def test_half_precision_weights_fill_a_float_model(quick_weights, tmp_path):
    state = torch.load(quick_weights("fcos"), weights_only=True)["model"]
    half = {name: x.half() if x.is_floating_point() else x for name, x in state.items()}
    torch.save({"model": half}, tmp_path / "half.pth")
    predictor = ODAMPredictor(small_cfg("fcos", ["MODEL.WEIGHTS", str(tmp_path / "half.pth")]))
    weight = predictor.model.head.cls_score.weight
    assert weight.dtype == torch.float32
    assert torch.equal(weight, state["head.cls_score.weight"].half().float())


def test_weights_hash_is_sha256(tmp_path):
    (tmp_path / "w.pth").write_bytes(b"abc")
    # The published test vector of SHA-256 for "abc".
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert weights_sha256(str(tmp_path / "w.pth")) == expected
