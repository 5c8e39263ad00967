"""The predictor a user holds: Detectron2's contract, explanations, and clear refusals."""

import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from detectron2.engine import DefaultPredictor

from helpers import random_photo, small_cfg, tiny_fcos
from odam_d2.explain import DRISE, GRADIENT_METHODS, TARGETS, ExplainSettings, GradientExplainer
from odam_d2.explain.masks.black_box import proposal_function
from odam_d2.explain.masks.drise import Proposals, find_class_vectors
from odam_d2.modeling.checkpoint import weights_sha256
from odam_d2.nms import FeatureNMS, GreedyNMS, SoftNMS
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
    with pytest.raises(ValueError, match="the image is 20000x8 pixels, too narrow .*at most 200 times as long as wide"):
        predictor.explain(np.zeros((8, 20000, 3), np.uint8))
    with pytest.raises(ValueError, match="the image is 40x7 pixels; a detector needs 8 a side"):
        predictor.observe([image, image[:7, :40]])
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


# ---- any class, any function, any choice -------------------------------------------------------------------------


def test_any_class_can_be_asked_about_by_its_name(quick_weights):
    predictor = ODAMPredictor(cfg_for("fcos", quick_weights))
    image = random_photo(75, 133)
    explanation = predictor.explain(image, ["class_score[dog]", "class_score"])
    assert list(explanation.maps) == ["class_score[dog]", "class_score"]
    assert predictor.class_names[16] == "dog" and 16 not in explanation.instances.pred_classes.tolist()
    # What the detector says of dogs at the same places.
    _, trace = predictor.trace(image)
    assert torch.equal(explanation.values["class_score[dog]"], trace.scores_of(torch.full((5,), 16)).detach())
    assert torch.equal(explanation.values["class_score"], trace.scores.detach())
    assert not explanation.values["class_score"].requires_grad
    expected = GradientExplainer()(trace, "class_score[16]").maps
    assert torch.allclose(explanation.heat_maps["class_score[dog]"].maps, expected, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_the_map_of_a_detections_own_class_is_the_plain_one(kind, quick_weights):
    predictor = ODAMPredictor(cfg_for(kind, quick_weights))
    image = random_photo(75, 133)
    own = predictor.explain(image, instances=0).names[0]
    explanation = predictor.explain(image, ["class_score", f"class_score[{own}]"], instances=0)
    maps = explanation.heat_maps
    assert torch.equal(maps["class_score"].maps, maps[f"class_score[{own}]"].maps)
    assert explanation.values["class_score"].tolist() == explanation.values[f"class_score[{own}]"].tolist()


def width(trace):
    return trace.boxes[:, 2] - trace.boxes[:, 0]


def test_a_function_can_be_explained_and_has_its_own_name(quick_weights):
    predictor = ODAMPredictor(cfg_for("fcos", quick_weights))
    image = random_photo(75, 133)
    explanation = predictor.explain(image, width)
    assert list(explanation.maps) == ["width"] and explanation.meanings == {"width": ""}
    _, trace = predictor.trace(image)
    assert torch.allclose(explanation.values["width"], width(trace).detach())
    assert explanation.captions["width"][0] == f"width {explanation.values['width'][0]:.2f}"


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        ("class_score[dgo]", "'class_score.dgo.' names no class.*the closest of its 80 classes are dog"),
        ([], "no target was named; valid targets are class_score, "),
        ([lambda trace: trace.scores, lambda trace: -trace.scores], "two targets are called <lambda>"),
        (["class_score", 1], "unknown target 1"),
    ],
)
def test_targets_that_make_no_sense_are_refused_before_the_detector_runs(targets, message, quick_weights, monkeypatch):
    predictor = ODAMPredictor(cfg_for("fcos", quick_weights))
    monkeypatch.setattr(predictor.model, "observe", None)
    with pytest.raises(ValueError, match=message):
        predictor.explain(random_photo(75, 133), targets)


def test_detections_are_chosen_by_mask_class_and_number(quick_weights):
    predictor = ODAMPredictor(cfg_for("fcos", quick_weights))
    image = random_photo(75, 133)
    every = predictor(image)["instances"]
    middle = float(every.scores[2])
    # Detections come in descending score: above the third are two.
    for mask in (every.scores > middle, (every.scores > middle).tolist(), every.scores.numpy() > middle):
        chosen = predictor.explain(image, instances=mask)
        assert torch.equal(chosen.instances.scores, every.scores[:2])
    label = int(every.pred_classes[1])
    same = predictor.explain(image, instances=predictor.class_names[label])
    assert torch.equal(same.instances.scores, every.scores[every.pred_classes == label])
    assert torch.equal(predictor.explain(image, instances=3).instances.scores, every.scores[3:4])
    with pytest.raises(ValueError, match="no class 'persn'; the closest of its 80 classes are person"):
        predictor.explain(image, instances="persn")


# ---- several images ----------------------------------------------------------------------------------------------


def test_a_batch_is_explained_as_its_images_are_one_by_one(quick_weights):
    predictor = ODAMPredictor(cfg_for("fcos", quick_weights))
    # Scaled to 96 x 160 and 96 x 96: both are padded to the first one's size.
    large, small = random_photo(72, 120, seed=1), random_photo(60, 60, seed=2)
    targets = ("class_score", "x2")
    first, second = predictor.explain_batch([large, small], targets)
    alone = predictor.explain(large, targets)
    assert torch.equal(first.instances.pred_classes, alone.instances.pred_classes)
    assert torch.allclose(first.instances.pred_boxes.tensor, alone.instances.pred_boxes.tensor, atol=1e-3)
    for target in targets:
        assert torch.allclose(first.maps[target], alone.maps[target], atol=1e-4)
        assert first.maps[target].shape == (5, 72, 120) and second.maps[target].shape == (5, 60, 60)
    assert first.heat_maps["x2"].padded_size == second.heat_maps["x2"].padded_size == alone.heat_maps["x2"].padded_size
    assert second.heat_maps["x2"].image_size == (96, 96) and second.instances.image_size == (60, 60)
    assert np.array_equal(second.image, small)
    boxes = second.instances.pred_boxes.tensor
    assert boxes.min() >= 0 and boxes.max() <= 60


def test_a_batch_runs_the_backbone_once_and_may_be_empty():
    model = tiny_fcos()
    predictor = ODAMPredictor.from_model(model, min_size=96, max_size=160)
    assert len(predictor.explain_batch([random_photo(72, 120), random_photo(60, 60)])) == 2
    assert model.backbone.bottom_up.calls == 1
    assert predictor.explain_batch([]) == []


# ---- a model that is already there -------------------------------------------------------------------------------


def test_a_model_of_ones_own_is_explained_with_its_names_and_settings():
    model = tiny_fcos().train()
    settings = ExplainSettings("gradcam", "res4")
    predictor = ODAMPredictor.from_model(model, ["ant", "bee", "cow"], settings, min_size=96, max_size=160)
    assert predictor.model is model and not model.training
    image = random_photo(72, 120)
    explanation = predictor.explain(image, ["class_score", "class_score[bee]"])
    assert explanation.settings == settings and explanation.method == "gradcam" and explanation.layer == "res4"
    assert set(explanation.names) <= {"ant", "bee", "cow"} and len(explanation) == 8
    # The same by hand: scaled by 96 / 72.
    _, trace = predictor.trace(image, ("res4",))
    assert trace.image_size == (96, 160) and trace.features["res4"].shape[2:] == (6, 10)
    expected = GradientExplainer("gradcam", "res4")(trace, "class_score[1]").maps
    assert torch.allclose(explanation.heat_maps["class_score[bee]"].maps, expected, atol=1e-6)


def test_a_model_of_ones_own_detects_as_it_does_without_the_predictor():
    model = tiny_fcos()
    predictor = ODAMPredictor.from_model(model, min_size=72, max_size=160)
    image = random_photo(72, 120)
    with torch.no_grad():
        given = {"image": torch.from_numpy(image).permute(2, 0, 1).float(), "height": 72, "width": 120}
        expected = model([given])[0]["instances"]
    found = predictor(image)["instances"]
    assert len(found) > 1 and torch.equal(found.scores, expected.scores)
    assert torch.equal(found.pred_boxes.tensor, expected.pred_boxes.tensor)
    assert predictor.class_names == ["0", "1", "2"] and predictor.settings == ExplainSettings()
    done = predictor.explain_nms(image)
    assert torch.equal(done[0].scores, expected.scores)


def test_the_channels_are_in_the_models_order():
    model, image = tiny_fcos(), random_photo(72, 120)
    bgr, rgb = (
        ODAMPredictor.from_model(model, min_size=72, max_size=160, input_format=order) for order in ("BGR", "RGB")
    )
    # Not scaled: blue, green, red as they are, and the other way round.
    assert torch.equal(bgr.network_input(image), torch.from_numpy(image).permute(2, 0, 1).float())
    assert torch.equal(rgb.network_input(image), bgr.network_input(image).flip(0))
    mirrored = np.ascontiguousarray(image[:, :, ::-1])
    assert torch.equal(rgb(image)["instances"].scores, bgr(mirrored)["instances"].scores)
    assert not torch.equal(rgb(image)["instances"].scores, bgr(image)["instances"].scores)
    shown, same = rgb.explain(image), bgr.explain(mirrored)
    assert torch.equal(shown.maps["class_score"], same.maps["class_score"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"class_names": ["ant", "bee"]}, "there are 2 class names for a model of 3 classes"),
        ({"input_format": "GBR"}, "input_format is 'GBR'; valid values are BGR, RGB"),
        ({"model": torch.nn.Linear(1, 1)}, "Linear cannot be explained; set MODEL.META_ARCHITECTURE to ODAMFCOS"),
    ],
)
def test_a_model_that_does_not_fit_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        ODAMPredictor.from_model(**{"model": tiny_fcos(), **arguments})


# ---- on a screen -------------------------------------------------------------------------------------------------


def public_objects(kind, quick_weights):
    """One of everything a user gets to hold, with as much inside as a test can afford."""
    cfg = cfg_for(kind, quick_weights, "TEST.DETECTIONS_PER_IMAGE", "100", "ODAM.NMS.NAME", "odam")
    predictor = ODAMPredictor(cfg)
    image = random_photo(75, 133)
    observation = predictor.observe([image] * 6, (predictor.model.batched_layer,))
    explanation = predictor.explain(image, [*TARGETS, "class_score[dog]"])
    maps = explanation.heat_maps["class_score"]
    _, trace = predictor.trace(image)
    yield from (predictor, observation, observation.candidates(0), observation.suppression(0))
    yield from (observation.predictions(0), trace, explanation, explanation.maps, maps, *maps.grids)
    yield from (*([] if trace.regions is None else [trace.regions]), *trace.subnets, predictor.settings)
    yield from (predictor.make_explainer(), predictor.make_explainer("drise"))
    yield from (GreedyNMS(), SoftNMS(), FeatureNMS(), predictor.model.nms)


@pytest.mark.parametrize("kind", KINDS)
def test_every_public_object_fits_on_a_screen(kind, quick_weights):
    seen = set()
    for one in public_objects(kind, quick_weights):
        text = repr(one)
        assert len(text) <= 5 * 120 and text.count("\n") < 5, text
        # Says what it is, and is no address in memory.
        assert text.startswith(type(one).__name__) and " at 0x" not in text, text
        seen.add(type(one).__name__)
    assert len(seen) >= 18
