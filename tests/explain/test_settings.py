"""One object says how to explain: what it takes from a config, what it refuses, and that it is obeyed."""

import pytest
import torch

from helpers import make_trace, random_photo, small_cfg
from odam_d2.explain import DRISE, BlackBoxExplainer, ExplainSettings, GradientExplainer, make_explainer
from odam_d2.predictor import ODAMPredictor


def test_a_config_without_a_word_gives_the_defaults():
    assert ExplainSettings.from_options(small_cfg("fcos").ODAM.EXPLAIN) == ExplainSettings()
    assert ExplainSettings() == ExplainSettings("odam", "fpn", "none", "exact", 1.0, 5000, 8, 0, False)


def test_every_key_of_a_config_arrives():
    keys = {"METHOD": "drise", "LAYER": "res4", "SMOOTHING": "gaussian", "PATH": "auto", "MEMORY": 0.5}
    keys |= {"DRISE_MASKS": 7, "DRISE_BATCH": 3, "AMP": True}
    options = small_cfg("fcos", [word for key, value in keys.items() for word in (f"ODAM.EXPLAIN.{key}", value)])
    expected = ExplainSettings("drise", "res4", "gaussian", "auto", 0.5, 7, 3, 0, True)
    assert ExplainSettings.from_options(options.ODAM.EXPLAIN) == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "cam"}, "unknown method 'cam'; valid methods are odam, .*, drise"),
        ({"smoothing": "mean"}, "unknown smoothing 'mean'; valid values are none, gaussian"),
        ({"path": "fast"}, "unknown path 'fast'; valid paths are exact, batched, auto"),
        ({"memory": 0.0}, r"memory is 0\.0 GiB; it must be more than 0"),
        ({"memory": float("nan")}, "memory is nan GiB"),
        ({"drise_masks": 0}, "drise_masks is 0; at least 1"),
        ({"drise_batch": 0}, "drise_batch is 0; at least 1"),
        ({"drise_seed": -1}, "drise_seed is -1; at least 0"),
    ],
)
def test_what_makes_no_sense_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        ExplainSettings(**options)


def test_the_record_of_a_run_tells_what_had_an_influence():
    gradients = ExplainSettings(layer="res4", smoothing="gaussian", drise_masks=7).describe()
    assert gradients == {"method": "odam", "layer": "res4", "smoothing": "gaussian", "path": "exact"}
    masks = ExplainSettings("drise", layer="res4", drise_masks=7, drise_seed=2).describe()
    assert masks == {"method": "drise", "masks": 7, "seed": 2, "amp": False}


def test_an_explainer_is_made_as_the_settings_say():
    settings = ExplainSettings("gradcam", "res4", path="auto", memory=0.25)
    explainer = make_explainer(settings)
    assert isinstance(explainer, GradientExplainer) and explainer.settings == settings
    assert explainer.layer == "res4" and explainer.path == "auto" and explainer.memory == 2**28
    with pytest.raises(ValueError, match="drise asks the detector about masked images; it needs the detector"):
        make_explainer(ExplainSettings("drise"))


class Blind:
    """A detector that sees nothing."""

    def observe(self, batched_inputs, layers):
        raise AssertionError("nobody asked for a map")


def test_drise_is_made_as_the_settings_say():
    explainer = make_explainer(ExplainSettings("drise", drise_masks=7, drise_batch=3, drise_seed=2), Blind())
    assert isinstance(explainer, BlackBoxExplainer) and isinstance(explainer.drise, DRISE)
    assert (explainer.drise.masks, explainer.drise.batch, explainer.drise.seed) == (7, 3, 2)


def test_smoothing_of_the_settings_smooths():
    # Two cells of side 8, a box of 16: a standard deviation of .1 * 16 / 8 = .2 cells, of which the neighbour gets
    # exp(-.5 / .04) = 3.7e-6 of a weight.
    features = torch.ones(1, 1, 1, 2, requires_grad=True)
    output = (torch.tensor([1.0, 0.0]) * features).sum().reshape(1)
    trace = make_trace(features, {"class_score": output}, torch.tensor([[0.0, 0.0, 16.0, 8.0]]))
    assert make_explainer(ExplainSettings())(trace).maps.tolist() == [[[1.0, 0.0]]]
    smooth = make_explainer(ExplainSettings(smoothing="gaussian"))(trace).maps[0, 0]
    assert smooth.tolist() == pytest.approx([1.0, 3.7e-6], abs=1e-5) and smooth[1] > 0


# ---- the predictor obeys the config ------------------------------------------------------------------------------


def maps_of(quick_weights, opts=(), kind="fcos", **said):
    predictor = ODAMPredictor(small_cfg(kind, ["MODEL.WEIGHTS", quick_weights(kind), *opts]))
    explanation = predictor.explain(random_photo(75, 133), **said)
    return explanation.heat_maps["class_score"].maps, explanation.settings


@pytest.mark.parametrize(
    ("key", "value"), [("METHOD", "gradcam"), ("LAYER", "res4"), ("SMOOTHING", "gaussian"), ("METHOD", "layercam")]
)
def test_the_config_governs_the_predictor_as_its_arguments_do(key, value, quick_weights):
    configured, settings = maps_of(quick_weights, [f"ODAM.EXPLAIN.{key}", value])
    asked, same = maps_of(quick_weights, **{key.lower(): value})
    usual, _ = maps_of(quick_weights)
    assert getattr(settings, key.lower()) == value and settings == same
    assert torch.equal(configured, asked)
    assert configured.shape != usual.shape or not torch.allclose(configured, usual)


def test_the_path_of_the_config_governs_the_predictor(quick_weights):
    options = ["ODAM.EXPLAIN.LAYER", "roi_pool", "ODAM.EXPLAIN.PATH"]
    batched, settings = maps_of(quick_weights, [*options, "batched"], "faster_rcnn")
    exact, _ = maps_of(quick_weights, [*options, "exact"], "faster_rcnn")
    assert settings.path == "batched" and torch.allclose(batched, exact, atol=1e-6)
    # Where that path does not lead it is refused: nothing else was taken.
    with pytest.raises(ValueError, match="path='batched' explains this detector at 'fpn', not at 'res4'"):
        maps_of(quick_weights, ["ODAM.EXPLAIN.LAYER", "res4", "ODAM.EXPLAIN.PATH", "batched"])


def test_an_argument_comes_before_the_config(quick_weights):
    maps, settings = maps_of(quick_weights, ["ODAM.EXPLAIN.METHOD", "gradcam"], method="odam")
    assert settings == ExplainSettings() and torch.equal(maps, maps_of(quick_weights)[0])
