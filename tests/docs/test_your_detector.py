"""``docs/your_detector.md``: its code as a reader runs it, and its maps worked out anew from torchvision's own SSD."""

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.modeling import META_ARCH_REGISTRY
from PIL import Image
from torch.nn import functional as F
from torchvision.models.detection import ssdlite320_mobilenet_v3_large

from helpers import random_photo
from odam_d2 import ODAMPredictor
from odam_d2.evaluation.study.perturbation import object_score
from odam_d2.explain import ExplainSettings, GradientExplainer, target_output
from odam_d2.modeling import check_explainable
from odam_d2.nms import ODAMNMS

CODE = re.findall(r"^```python\n(.*?)^```", Path("docs/your_detector.md").read_text("utf-8"), re.DOTALL | re.M)
HEIGHT, WIDTH = 90, 140


@pytest.fixture(scope="module")
def module():
    """``ssd.py``."""
    names = {"__name__": "ssd"}
    exec(compile(CODE[0], "ssd.py", "exec"), names)
    return names


@pytest.fixture
def ssd():
    """Random, with the statistics of a few images: without, activations fade on their way and all scores are equal."""
    torch.manual_seed(0)
    ssd = ssdlite320_mobilenet_v3_large(
        weights=None, weights_backbone=None, num_classes=4, topk_candidates=6, detections_per_img=6
    )
    for module in ssd.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        ssd.train().head(list(ssd.backbone(torch.randn(4, 3, 320, 320)).values()))
        for subnet in (ssd.head.classification_head, ssd.head.regression_head):
            for predictor in subnet.module_list:
                torch.nn.init.normal_(predictor[1].weight, std=predictor[1].in_channels ** -0.5)
    return ssd.eval()


def predictor_of(module, ssd, **options):
    model = module["ExplainableSSD"](ssd, **options)
    return ODAMPredictor.from_model(model, ["ant", "bee", "cow"], min_size=0, input_format="RGB")


def as_torchvision_takes_it(image_bgr):
    return torch.from_numpy(np.ascontiguousarray(image_bgr[:, :, ::-1])).permute(2, 0, 1).float() / 255


@pytest.mark.slow
def test_the_page_runs_as_it_stands(tmp_path, catalogs, monkeypatch, capsys):
    (tmp_path / "ssd.py").write_text(CODE[0])
    Image.fromarray(random_photo(HEIGHT, WIDTH)).save(tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    torch.manual_seed(0)
    names = {}
    try:
        for code in CODE[1:-1]:
            exec(code, names)
        write_dataset(names["ExplainableSSD"](names["predictor"].model.ssd))
        exec(CODE[-1], names)
    finally:
        sys.modules.pop("ssd")
        META_ARCH_REGISTRY._obj_map.pop("MySSD", None)
    explanation = names["explanation"]
    assert len(explanation) > 0 and Path("why/sheet.png").is_file()
    assert list(explanation.maps) == ["class_score", "x1", "class_score[dog]"]
    for name, own in names["compared"].items():
        maps = own.maps["class_score"]
        assert maps.shape == (len(explanation), HEIGHT, WIDTH) and maps.amax() == 1, name
    assert names["suppression"].maps is not None and len(names["in_a_crowd"]) == len(names["kept"]) > 0
    assert len(names["deletion"].percent) == 11
    found = names["sanity"]["odam"].to_json()
    assert found["detections"] == 2 and list(found["spearman"]) == ["head", "extra", "backbone"]
    assert "pairs" in capsys.readouterr().out
    summary = names["evaluator"].summary
    assert summary["counts"]["objects"] == 1 and 0 <= summary["odam"]["pg_box"] <= 100
    assert Path("measured/index.html").is_file()


def write_dataset(model):
    """A photograph, annotated with what the detector sees in it."""
    photo = random_photo(HEIGHT, WIDTH)
    Path("images").mkdir()
    Image.fromarray(photo[:, :, ::-1]).save("images/1.png")
    found = ODAMPredictor.from_model(model, min_size=0, input_format="RGB")(photo)["instances"]
    x1, y1, x2, y2 = found.pred_boxes.tensor[0].tolist()
    box = {"id": 1, "image_id": 1, "category_id": int(found.pred_classes[0]), "bbox": [x1, y1, x2 - x1, y2 - y1]}
    content = {
        "images": [{"id": 1, "file_name": "1.png", "height": HEIGHT, "width": WIDTH}],
        "annotations": [box | {"area": (x2 - x1) * (y2 - y1), "iscrowd": 0}],
        "categories": [{"id": 0, "name": "cat"}, {"id": 1, "name": "dog"}],
    }
    Path("ann.json").write_text(json.dumps(content))


def test_it_follows_the_protocol_and_detects_as_torchvision_does(module, ssd):
    predictor = predictor_of(module, ssd)
    assert check_explainable(predictor.model) is predictor.model
    image = random_photo(HEIGHT, WIDTH)
    with torch.no_grad():
        (expected,) = ssd([as_torchvision_takes_it(image)])
    found = predictor(image)["instances"]
    assert len(found) == len(expected["scores"]) > 2 and found.image_size == (HEIGHT, WIDTH)
    assert torch.allclose(found.scores, expected["scores"], atol=1e-5) and len(found.scores.unique()) > 1
    assert torch.equal(found.pred_classes + 1, expected["labels"])
    assert torch.allclose(found.pred_boxes.tensor, expected["boxes"], atol=1e-2)


# One on each map: those have 20, 10, 5, 3, 2 and 1 cells a side with 6 anchors, so that they begin at places 0, 2400,
# 3000, 3150, 3204 and 3228.
PLACES, CLASSES = [1207, 2401, 3010, 3151, 3210, 3233], [0, 1, 2, 0, 1, 2]


@pytest.mark.parametrize("target", ["class_score", "class_logit", "x1", "y2", "class_score[2]"])
def test_a_map_is_what_autograd_makes_of_torchvisions_own_output(target, module, ssd):
    predictor, image = predictor_of(module, ssd), random_photo(HEIGHT, WIDTH)
    trace = predictor.observe([image]).trace(0, torch.tensor(PLACES), torch.tensor(CLASSES))
    assert trace.levels == ["0", "1", "2", "3", "4", "5"]
    maps, values = GradientExplainer()(trace, target), target_output(trace, target)
    # The plain detector, with a graph from its feature maps on.
    images, _ = ssd.transform([as_torchvision_takes_it(image)])
    features = [x.detach().requires_grad_() for x in ssd.backbone(images.tensors).values()]
    head, (anchors,) = ssd.head(features), ssd.anchor_generator(images, features)
    probabilities = head["cls_logits"][0].softmax(dim=1)
    boxes = ssd.box_coder.decode_single(head["bbox_regression"][0], anchors)
    for row, (place, label) in enumerate(zip(PLACES, CLASSES)):
        output = {
            "class_score": probabilities[place, label + 1],
            "class_logit": head["cls_logits"][0, place, label + 1],
            # Outwards.
            "x1": -boxes[place, 0],
            "y2": boxes[place, 3],
            "class_score[2]": probabilities[place, 3],
        }[target]
        assert values[row].item() == pytest.approx(output.item(), abs=1e-3)
        gradients = torch.autograd.grad(output, features, retain_graph=True, allow_unused=True, materialize_grads=True)
        assert [number for number, gradient in enumerate(gradients) if gradient.any()] == [row]
        grid = (gradients[row] * features[row]).sum(dim=1).relu().detach()
        # Bilinear over whole cells, which may reach beyond the network's input, and cut to it.
        whole = [cells * 16 * 2**row for cells in grid.shape[1:]]
        pixels = F.interpolate(grid[None], whole, mode="bilinear")[0, 0, :320, :320]
        assert torch.allclose(maps.to_image((320, 320), rows=[row])[0], pixels, atol=1e-3 * float(pixels.max()))
    assert sum(bool(one.any()) for one in maps.to_image()) > 2 and maps.output_size == (HEIGHT, WIDTH)


def test_images_of_a_batch_have_the_maps_they_have_alone(module, ssd):
    predictor = predictor_of(module, ssd)
    first, second = random_photo(HEIGHT, WIDTH, seed=1), random_photo(60, 70, seed=2)
    together = predictor.explain_batch([first, second], "x1")
    for image, own in zip((first, second), together):
        alone = predictor.explain(image, "x1")
        assert torch.allclose(own.instances.scores, alone.instances.scores, atol=1e-5)
        assert torch.allclose(own.maps["x1"], alone.maps["x1"], atol=1e-3)
        assert own.maps["x1"].shape[1:] == image.shape[:2]
    assert not torch.allclose(together[0].maps["x1"][0, :60, :70], together[1].maps["x1"][0])


def test_odam_nms_compares_maps_of_its_candidates(module, ssd):
    predictor = predictor_of(module, ssd, nms=ODAMNMS())
    image = random_photo(HEIGHT, WIDTH)
    kept, done = predictor.explain_nms(image)
    assert len(done.boxes) == 18 and done.maps.shape == (18, 50, 50)
    assert torch.equal(kept.scores, predictor(image)["instances"].scores) and len(kept) <= 6
    trace = predictor.observe([image], ("fpn",)).candidates(0).trace()
    assert torch.allclose(GradientExplainer()(trace, "class_logit").resample(50), done.maps, atol=1e-5)


def test_d_rise_hides_parts_of_what_the_network_gets(module, ssd):
    predictor = predictor_of(module, ssd)
    predictor.settings = ExplainSettings("drise", drise_masks=16)
    explanation = predictor.explain(random_photo(HEIGHT, WIDTH), instances=[0, 1])
    maps = explanation.heat_maps["class_score"]
    assert maps.image_size == (320, 320) and maps.to_image().shape == (2, HEIGHT, WIDTH)
    assert maps.to_image().std() > 0


def test_deletion_finds_an_object_whatever_the_network_makes_of_the_images_size(module, ssd):
    predictor, image = predictor_of(module, ssd), random_photo(HEIGHT, WIDTH)
    best = predictor(image)["instances"][:1]
    score_of = object_score(predictor, int(best.pred_classes), best.pred_boxes.tensor[0].numpy())
    assert score_of(image[None])[0] == pytest.approx(best.scores.item(), abs=1e-5)
