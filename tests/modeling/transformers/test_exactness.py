"""Maps of every family against a loop of autograd on the library's plain model."""

import pytest
import torch

from helpers import random_input
from odam_d2.explain import GradientExplainer, target_output
from odam_d2.explain.gradients import detection_gradients
from odam_d2.modeling.transformers.recording import laid_out_gradients, recording
from odam_d2.structures import by_probability
from transformer_networks import KINDS, tiny_detr

pytest.importorskip("transformers", reason="the extra 'transformers' is not installed")


def plain_maps(detector, batch, layer):
    """The plain model's output, and the layer's tensor in its graph, with nothing of odam_d2 but the names."""
    network, captured = detector.network, {}
    hooks = [network.model.backbone.model.register_forward_hook(lambda m, a, output: captured.update(stages=output))]
    projections = getattr(network.model, detector.family.projections)
    modules = list(projections) if hasattr(projections, "__len__") and layer[-1].isdigit() else [projections]
    for i, module in enumerate(modules):
        hooks.append(module.register_forward_hook(lambda m, a, output, i=i: captured.update({i: output})))
    image = (batch["image"] - detector.pixel_mean) / detector.pixel_std
    height, width = image.shape[1:]
    multiple = 32 if detector.family.divisibility == 32 else 1
    padded = (-(-height // multiple) * multiple, -(-width // multiple) * multiple)
    # Twice, and the first is asked: of a batch of one PyTorch 2.14 computes wrong gradients, see the last test.
    pixels = image.new_zeros((2, 3, *padded))
    pixels[:, :, :height, :width] = image
    mask = torch.zeros(2, *padded, dtype=torch.long)
    mask[:, :height, :width] = 1
    # What it cuts off while training belongs to the derivative of its outputs.
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(torch.Tensor, "detach", lambda tensor: tensor)
        output = network(pixel_values=pixels.requires_grad_(), pixel_mask=mask)
    for hook in hooks:
        hook.remove()
    size = (height, width) if detector.family.masks else padded
    if layer.startswith("res"):
        return output, captured["stages"].feature_maps[int(layer[3:]) - 3], size
    number = detector.layers.index(layer) - 3
    if layer.startswith("projection"):
        return output, captured[number], size
    # The library flattens it where there is no list of maps; the gradient is put back into the image here.
    return output, output.encoder_last_hidden_state, size


def plain_outputs(detector, output, size, place, label):
    """Score, logit and signed sides of one query, from the library's outputs."""
    logits, (x, y, w, h) = output.logits[0, place], output.pred_boxes[0, place]
    probabilities = logits.softmax(0) if detector.family.no_object else logits.sigmoid()
    height, width = size
    sides = {"x1": -(x - w / 2) * width, "y1": -(y - h / 2) * height}
    sides |= {"x2": (x + w / 2) * width, "y2": (y + h / 2) * height}
    return {"class_score": probabilities[label], "class_logit": logits[label], **sides}


def levels_of(detector, padded):
    strides = [stride for name, stride in detector.strides.items() if name.startswith("encoder")]
    return [(-(-padded[0] // stride), -(-padded[1] // stride)) for stride in strides]


def plain_gradient(detector, scalar, source, layer, padded):
    """Gradient and activation, (C,Hl,Wl) each."""
    if not layer.startswith("encoder") or isinstance(source, (list, tuple)):
        if isinstance(source, (list, tuple)):
            source = source[[name for name in detector.layers if name.startswith("encoder")].index(layer)]
        (gradient,) = torch.autograd.grad(scalar, source, retain_graph=True)
        return gradient[0], source[0]
    (gradient,) = torch.autograd.grad(scalar, source, retain_graph=True)
    number = [name for name in detector.layers if name.startswith("encoder")].index(layer)
    shapes = levels_of(detector, padded)
    start = sum(h * w for h, w in shapes[:number])
    (h, w), rows = shapes[number], slice(start, start + shapes[number][0] * shapes[number][1])
    return tuple(one[0, rows].reshape(h, w, -1).permute(2, 0, 1) for one in (gradient, source))


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_and_maps_equal_a_loop_of_autograd_on_the_plain_model(kind):
    detector = tiny_detr(kind).double()
    batch = random_input(100, 150)
    batch["image"] = batch["image"].double()
    assert detector.layers[:3] == ["res3", "res4", "res5"] and detector.layers[-1] == "fpn"
    places, classes = torch.tensor([0, 3, 6]), torch.tensor([1, 0, 2])
    for layer in detector.layers[:-1]:
        observation = detector.observe([batch], (layer,))
        trace = observation.trace(0, places, classes)
        assert trace.rank_by is by_probability and trace.attends
        output, source, size = plain_maps(detector, batch, layer)
        nonzero = 0
        for target in ("class_score", "class_logit", "x1", "y1", "x2", "y2"):
            found = list(detection_gradients(trace, target_output(trace, target), layer))
            maps = GradientExplainer(layer=layer)(trace, target)
            assert maps.stride == detector.strides[layer] and maps.to_image().shape == (3, 100, 150)
            for row, (place, label) in enumerate(zip(places.tolist(), classes.tolist())):
                scalar = plain_outputs(detector, output, size, place, label)[target]
                assert target_output(trace, target)[row].item() == pytest.approx(scalar.item(), rel=1e-9)
                gradient, activation = plain_gradient(detector, scalar, source, layer, trace.padded_size)
                scale = float(gradient.abs().max())
                assert torch.allclose(found[row][0], gradient, atol=1e-9 * scale), (layer, target)
                assert torch.allclose(found[row][1], activation.detach(), atol=1e-9)
                expected = (gradient * activation).sum(dim=0).relu().detach()
                assert torch.allclose(maps.grids[0].maps[row], expected, atol=1e-9 * float(expected.max()) + 1e-30)
                nonzero += bool(expected.max() > 0)
        assert nonzero > 9, layer


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_the_derivatives_of_what_the_plain_model_computes(kind):
    """By central differences along a random direction, as exact as kinks let them; a cut graph is far off."""
    detector = tiny_detr(kind).double()
    batch = random_input(96, 128)
    batch["image"] = batch["image"].double()
    places, classes = torch.tensor([0, 3, 6]), torch.tensor([1, 0, 2])
    trace = detector.observe([batch], ("res5",)).trace(0, places, classes)
    generator = torch.Generator().manual_seed(0)
    direction = torch.randn(trace.features["res5"].shape[1:], generator=generator, dtype=torch.float64)
    pixels = (batch["image"] - detector.pixel_mean)[None] / detector.pixel_std

    def moved(step):
        """The plain model's output where the stage is another."""

        def move(module, args, output):
            output.feature_maps[2].add_(step * direction)

        hook = detector.network.model.backbone.model.register_forward_hook(move)
        with torch.no_grad():
            output = detector.network(pixel_values=pixels, pixel_mask=torch.ones(1, 96, 128, dtype=torch.long))
        hook.remove()
        return output

    # The library makes some of its embeddings in single precision.
    step = 1e-5
    below, above = moved(-step), moved(step)
    compared = 0
    for target in ("class_score", "class_logit", "x1", "y1", "x2", "y2"):
        found = list(detection_gradients(trace, target_output(trace, target), "res5"))
        for row, (place, label) in enumerate(zip(places.tolist(), classes.tolist())):
            low, high = (plain_outputs(detector, one, (96, 128), place, label)[target].item() for one in (below, above))
            expected = (high - low) / (2 * step)
            assert float((found[row][0] * direction).sum()) == pytest.approx(expected, rel=1e-2, abs=1e-5)
            compared += abs(expected) > 1e-3
    assert compared > 9


@pytest.mark.parametrize("kind", KINDS)
def test_images_of_a_batch_are_explained_as_alone_whatever_ran_before(kind):
    """The first image is the largest, so that it is padded as alone; the library keeps positions of an image's size."""
    detector, batch = tiny_detr(kind), [random_input(96, 128, seed=1), random_input(64, 96, seed=2)]
    with torch.inference_mode():
        detector(batch[:1])
        with pytest.raises(ValueError, match="inference_mode"):
            detector.observe(batch)
    places, classes = torch.tensor([1, 4]), torch.tensor([2, 0])
    maps = {}
    with torch.no_grad():
        for name, images in (("both", batch), ("alone", batch[:1])):
            trace = detector.observe(images, ("res4",)).trace(0, places, classes)
            maps[name] = GradientExplainer(layer="res4")(trace, "x1").to_image()
    assert torch.allclose(maps["both"], maps["alone"], rtol=1e-3, atol=1e-5 * float(maps["alone"].max()))
    second = detector.observe(batch, ("fpn",)).trace(1, places, classes)
    assert second.image_size == (64, 96) and second.padded_size == (96, 128)
    assert GradientExplainer()(second, "class_logit").to_image().shape == (2, 64, 96)


@pytest.mark.parametrize("kind", ["detr", "rt_detr"])
def test_fpn_is_the_backbones_last_stage(kind):
    detector, batch = tiny_detr(kind), random_input(96, 128)
    places = torch.tensor([1, 2])
    maps = {}
    for layer in ("fpn", "res5"):
        trace = detector.observe([batch], (layer,)).trace(0, places, places)
        assert trace.levels == ["res5", "res5"] and list(trace.features) == ["res5"]
        maps[layer] = GradientExplainer(layer=layer)(trace, "x2").maps
    assert torch.equal(maps["fpn"], maps["res5"]) and maps["fpn"].max() > 0
    # Whether the stage is cut off, or part of a graph that goes on below it, is the same.
    whole = detector.observe([batch], ("res4", "res5")).trace(0, places, places)
    assert torch.allclose(GradientExplainer(layer="res5")(whole, "x2").maps, maps["res5"], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", ["detr", "rt_detr"])
def test_every_method_explains_at_every_kind_of_layer(kind):
    detector, batch = tiny_detr(kind), random_input(96, 128)
    for layer in ("res4", "fpn", detector.layers[3], detector.layers[-2]):
        trace = detector.observe([batch], (layer,)).trace(0, torch.tensor([0, 1]), torch.tensor([0, 1]))
        for method in ("odam", "gradcam", "gradcam++", "hirescam", "layercam", "ssgradcam++"):
            maps = GradientExplainer(method, layer, path="auto")(trace, "class_logit").to_image()
            assert maps.shape == (2, 96, 128) and torch.isfinite(maps).all()
        smoothed = GradientExplainer("odam", layer, smoothing="gaussian")(trace, "combined").to_image()
        assert smoothed.max() > 0
    with pytest.raises(ValueError, match="queries attend to each other.*path='exact' or 'auto'"):
        GradientExplainer("odam", layer, path="batched")(trace)


def test_a_gradient_that_lies_cell_by_cell_passes_a_batch_normalisation():
    """Of one image, of two, and as plain arithmetic; without the hooks the first is far off on PyTorch 2.14's CPU."""
    torch.manual_seed(0)
    detector = tiny_detr("rt_detr").double()
    norm = detector.network.model.decoder_input_proj[0][1]
    with torch.no_grad():
        norm.weight.uniform_(0.5, 2)
    seen = {}
    hook = norm.register_forward_hook(lambda module, args, output: seen.update(source=args[0], output=output))
    pixels = torch.rand(1, 3, 64, 96, dtype=torch.float64).requires_grad_()
    with recording(detector.network, detector.family):
        detector.network(pixel_values=pixels)
    hook.remove()
    source, output = seen["source"], seen["output"]
    _, channels, height, width = output.shape
    gradient = torch.randn(height * width, 1, channels, dtype=torch.float64).permute(1, 2, 0)
    gradient = gradient.unflatten(2, (height, width))
    (found,) = torch.autograd.grad(output, source, gradient)
    factor = norm.weight / (norm.running_var + norm.eps).sqrt()
    assert torch.allclose(found, gradient * factor[:, None, None], rtol=1e-9)


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("training", [False, True])
def test_how_a_gradient_lies_changes_nothing(training, count):
    torch.manual_seed(0)
    norm = torch.nn.BatchNorm2d(8).double().train(training)
    pixels = torch.randn(count, 8, 5, 6, dtype=torch.float64).requires_grad_()
    cell_by_cell = torch.randn(30, count, 8, dtype=torch.float64).permute(1, 2, 0).unflatten(2, (5, 6))
    with laid_out_gradients(norm):
        output = norm(pixels)
    for gradient in (cell_by_cell, cell_by_cell.clone(memory_format=torch.channels_last)):
        (found,) = torch.autograd.grad(output, pixels, gradient, retain_graph=True)
        (expected,) = torch.autograd.grad(norm(pixels), pixels, gradient.contiguous())
        assert torch.allclose(found, expected, rtol=1e-9)
