"""What a detector says about one class before NMS: its own detections must be among it."""

import pytest
import torch
from torch import nn

from explain.masks.test_proposals import KINDS, detector, images
from helpers import random_input, trace_of
from odam_d2.explain import BlackBoxExplainer, ExplainSettings
from odam_d2.explain.masks.black_box import class_predictions


@pytest.mark.parametrize("kind", KINDS)
def test_every_detection_is_among_the_predictions_of_its_class(kind):
    model, batch = detector(kind), random_input(100, 150)
    (found,) = model([batch])
    instances = found["instances"]
    assert len(instances) > 0
    for box, score, label in zip(
        instances.pred_boxes.tensor, instances.scores, instances.pred_classes.tolist(), strict=True
    ):
        ((boxes, scores, _),) = class_predictions(model)(batch["image"][None], label)
        near = (boxes - box).abs().amax(dim=1) < 1e-2
        assert (scores[near] - score).abs().min() < 1e-5


@pytest.mark.parametrize("kind", KINDS)
def test_all_locations_speak_in_boxes_within_the_image_and_alone_as_in_a_batch(kind):
    predict, batch = class_predictions(detector(kind)), images(3)
    together = predict(batch, 7)
    assert len(together) == 3
    for image, (boxes, scores, size) in zip(batch, together):
        assert size == (100, 150)
        assert len(boxes) == len(scores) >= 20 and ((scores >= 0) & (scores <= 1)).all()
        assert boxes.min() >= 0 and boxes[:, 2].max() <= 150 and boxes[:, 3].max() <= 100
        ((alone, own, _),) = predict(image[None], 7)
        assert torch.allclose(alone, boxes, atol=1e-3) and torch.allclose(own, scores, atol=1e-5)


@pytest.mark.parametrize("agnostic", ["True", "False"])
def test_class_agnostic_boxes_are_those_of_every_class(agnostic):
    model = detector("faster_rcnn", "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", agnostic)
    nn.init.normal_(model.roi_heads.box_predictor.bbox_pred.weight, std=0.3)
    predict = class_predictions(model)
    ((first, *_),), ((second, *_),) = (predict(images(1), label) for label in (0, 1))
    assert torch.equal(first, second) == (agnostic == "True")


def types_of_first_convolution(model):
    """Precisions in which the first convolution answers from now on, one for each forward pass."""
    seen = []
    first = next(module for module in model.modules() if isinstance(module, nn.Conv2d))
    first.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    return seen


@pytest.mark.parametrize("kind", ["fcos", "retinanet"])
def test_mixed_precision_says_the_same_within_its_rounding_and_in_full_precision(kind):
    model, batch = detector(kind), images(2)
    seen = types_of_first_convolution(model)
    whole, halved = class_predictions(model)(batch, 7), class_predictions(model, amp=True)(batch, 7)
    assert seen == [torch.float32, torch.bfloat16]
    for (boxes, scores, size), (near_boxes, near_scores, near_size) in zip(whole, halved, strict=True):
        assert near_boxes.dtype == near_scores.dtype == torch.float32 and near_size == size
        # 8 bits of mantissa: a box moves by a fraction of a pixel, a score by a hundredth.
        assert (near_boxes - boxes).abs().max() < 2 and (near_scores - scores).abs().max() < 0.03
        assert not torch.equal(near_scores, scores)


def test_mixed_precision_of_a_two_stage_detector_asks_its_heads_in_half_precision():
    model, batch = detector("faster_rcnn"), images(2)
    seen = types_of_first_convolution(model)
    # A rounding changes the order of regions, so that places cannot be compared one by one.
    whole, halved = class_predictions(model)(batch, 7), class_predictions(model, amp=True)(batch, 7)
    assert seen == [torch.float32, torch.bfloat16]
    for (_, scores, _), (near_boxes, near_scores, _) in zip(whole, halved, strict=True):
        assert near_boxes.dtype == near_scores.dtype == torch.float32
        assert abs(near_scores.mean() - scores.mean()) < 0.01


def test_d_rise_masks_in_mixed_precision_and_looks_for_its_object_in_full():
    model = detector("fcos")
    _, trace = trace_of(model, random_input(100, 150), keep=lambda found: torch.tensor([0]))
    seen = types_of_first_convolution(model)
    maps = [
        BlackBoxExplainer(model, ExplainSettings("drise", drise_masks=16, drise_batch=8, amp=amp))(trace)
        for amp in (False, True)
    ]
    # The whole image and two batches of masks, twice.
    assert seen == [torch.float32] * 4 + [torch.bfloat16] * 2
    whole, near = (one.to_image()[0].flatten() for one in maps)
    assert torch.corrcoef(torch.stack([whole, near]))[0, 1] > 0.9


def test_models_of_another_make_are_refused():
    with pytest.raises(ValueError, match="Linear cannot be asked"):
        class_predictions(nn.Linear(1, 1))
