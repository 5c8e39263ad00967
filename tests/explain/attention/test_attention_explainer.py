"""Attention as heat maps: by hand on a trace, and on networks of the library against its own attention outputs."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from explain.attention.test_flow import naive_relevance
from helpers import make_trace, random_input, tiny_fcos
from odam_d2.explain import METHODS, ExplainSettings, explain, location_attention, make_explainer
from odam_d2.structures import Attention
from transformer_networks import tiny_detr, tiny_network


def explainer(method):
    return make_explainer(ExplainSettings(method=method))


@pytest.fixture
def by_hand():
    """Two queries, two cells side by side of 8 pixels, one layer, one head; Y = 3 of the second query's first cell."""
    cross = torch.tensor([[[[0.25, 0.75], [0.5, 0.5]]]], requires_grad=True)
    own = torch.tensor([[[[1.0, 0.0], [0.5, 0.5]]]], requires_grad=True)
    among = torch.tensor([[[[0.5, 0.5], [0.0, 1.0]]]], requires_grad=True)
    score = 3 * cross[0, 0, 1, 0][None] + 0.0 * (own.sum() + among.sum())
    sides = {name: 0.0 * score for name in ("x1", "y1", "x2", "y2")}
    box = torch.tensor([[0.0, 0.0, 8.0, 8.0]])
    trace = make_trace(torch.rand(1, 1, 1, 2), {"class_score": score, **sides}, box)
    return replace(
        trace, places=torch.tensor([1]), attends=True, attention=Attention([among], [own], [cross], (1, 2), 8)
    )


def test_maps_of_each_method_by_hand(by_hand):
    assert torch.equal(explainer("attention")(by_hand).maps, torch.tensor([[[0.5, 0.5]]]))
    # R_ii = [[.75,.25],[0,1]]; half of C R_ii = [.375,.625].
    assert torch.allclose(explainer("rollout")(by_hand).maps, torch.tensor([[[0.1875, 0.3125]]]))
    # Gradients elsewhere are 0: R_ii = R_qq = I, and of C (3 * .5, 0) stays.
    assert torch.allclose(explainer("game")(by_hand).maps, torch.tensor([[[1.5, 0.0]]]))


def test_attention_of_a_location_by_hand(by_hand):
    trace = replace(by_hand, output_size=(16, 32))
    # 32 x 16 pixels are twice the network's: the first cell reaches to x = 16.
    maps = location_attention(trace, torch.tensor([[15.9, 0.0], [16.1, 15.0]]))
    assert torch.equal(maps.maps, torch.tensor([[[0.5, 0.5]], [[0.0, 1.0]]]))
    assert maps.to_image().shape == (2, 16, 32)
    assert torch.allclose(maps.boxes[0], torch.tensor([7.95, 0.0, 7.95, 0.0]))
    assert len(location_attention(trace, torch.zeros(0, 2))) == 0
    for points, message in (
        (torch.tensor([[32.0, 0.0]]), r"\(32.0, 0.0\) lies outside the image of 32 x 16"),
        (torch.tensor([1.0, 2.0]), r"shape \(n,2\), not \(2,\)"),
    ):
        with pytest.raises(ValueError, match=message):
            location_attention(trace, points)
    with pytest.raises(ValueError, match="no layer 1 of the encoder; it has 1"):
        location_attention(trace, torch.zeros(1, 2), layer=1)


def test_targets_are_those_of_the_method(by_hand):
    for method in ("attention", "rollout"):
        with pytest.raises(ValueError, match=f"{method} explains.*only target is class_score, not 'x1'"):
            explainer(method)(by_hand, "x1")
    with pytest.raises(ValueError, match="unknown target 'x3'"):
        explainer("game")(by_hand, "x3")
    assert explainer("game").settings.describe() == {"method": "game"}
    # A side that no attention acts on has a map of zeros; combined is the maximum of all.
    assert explainer("game")(by_hand, "x1").maps.max() == 0
    assert torch.equal(explainer("game")(by_hand, "combined").maps, torch.tensor([[[1.0, 0.0]]]))


def test_detectors_without_it_say_why():
    dense = tiny_fcos()
    observation = dense.observe([random_input()])
    trace = observation.trace_detections(0, observation.detections()[0])
    for method in ("attention", "rollout", "game"):
        with pytest.raises(
            ValueError, match=f"{method} needs a transformer.*DETR and Conditional DETR.*is no transformer"
        ):
            explainer(method)(trace)


class TestNetworks:
    @pytest.fixture(autouse=True)
    def extra(self):
        pytest.importorskip("transformers", reason="the extra 'transformers' is not installed")

    @pytest.mark.parametrize("kind", ["deformable_detr", "rt_detr"])
    def test_those_that_look_at_points_say_so(self, kind):
        detector = tiny_detr(kind)
        trace = detector.observe([random_input()]).trace(0, torch.tensor([0]), torch.tensor([0]))
        with pytest.raises(ValueError, match="this detector looks at a few points of its maps"):
            explainer("game")(trace)
        with pytest.raises(ValueError, match="attention of a location needs.*a few points"):
            location_attention(trace, torch.zeros(1, 2))

    @pytest.mark.parametrize("kind", ["detr", "conditional_detr"])
    def test_maps_equal_a_naive_implementation_on_the_librarys_own_attention(self, kind):
        detector = tiny_detr(kind).double()
        batch = random_input(100, 150)
        batch["image"] = batch["image"].double()
        places, classes = torch.tensor([2, 5]), torch.tensor([0, 1])
        trace = detector.observe([batch]).trace(0, places, classes)
        before = [len(module._forward_hooks) for module in detector.modules()]
        found = {m: explain(trace, ["class_score"], explainer(m))["class_score"] for m in ("attention", "rollout")}
        game = explain(trace, ["class_logit", "x2"], explainer("game"))
        assert [len(module._forward_hooks) for module in detector.modules()] == before
        plain = tiny_network(kind).double()
        pixels = ((batch["image"] - detector.pixel_mean) / detector.pixel_std)[None]
        output = plain(pixel_values=pixels.requires_grad_(), output_attentions=True)
        parts = output.encoder_attentions, output.decoder_attentions, output.cross_attentions
        assert [len(part) for part in parts] == [2, 2, 2] and trace.attention.cells == (4, 5)
        expected = output.cross_attentions[-1][0].mean(dim=0)[places].detach()
        assert torch.allclose(found["attention"].grids[0].maps.flatten(1), expected, rtol=1e-9)
        assert found["attention"].maps.flatten(1).sum(dim=1) == pytest.approx([1.0, 1.0])
        assert found["rollout"].maps.flatten(1).sum(dim=1) == pytest.approx([0.75, 0.75], abs=0.2)
        x, width = output.pred_boxes[0, :, 0], output.pred_boxes[0, :, 2]
        for target, scalars in (("class_logit", output.logits[0]), ("x2", (x + width / 2) * 150)):
            for row, (place, label) in enumerate(zip(places.tolist(), classes.tolist())):
                scalar = scalars[place, label] if target == "class_logit" else scalars[place]
                weighed = []
                for part in parts:
                    gradients = torch.autograd.grad(scalar, part, retain_graph=True)
                    products = [(g[0] * a[0]).detach().clamp(min=0).numpy() for g, a in zip(gradients, part)]
                    weighed.append([sum(one) / len(one) for one in products])
                naive = naive_relevance(*weighed)[place].reshape(4, 5)
                assert np.allclose(game[target].grids[0].maps[row].numpy(), naive, rtol=1e-6, atol=1e-12 * naive.max())
                assert naive.max() > 0

    def test_nothing_detected_is_nothing_explained(self):
        detector = tiny_detr("detr", test_score_thresh=1.0)
        observation = detector.observe([random_input(64, 96)])
        trace = observation.trace_detections(0, observation.detections()[0])
        for method in ("attention", "rollout", "game"):
            assert explainer(method)(trace).to_image().shape == (0, 64, 96)

    def test_padding_is_not_attended_to(self):
        """Beside a larger image, 64 of 128 rows are padding: two of four rows of cells."""
        detector = tiny_detr("detr")
        observation = detector.observe([random_input(64, 128), random_input(128, 128)])
        trace = observation.trace(0, torch.tensor([0]), torch.tensor([0]))
        maps = explainer("attention")(trace).maps[0]
        assert maps.shape == (4, 4) and maps[:2].sum() == pytest.approx(1.0) and maps[2:].abs().max() < 1e-6


def test_the_table_has_a_row_for_each():
    assert [name for name, method in METHODS.items() if method.kind == "attention"] == ["attention", "rollout", "game"]
