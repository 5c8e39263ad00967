"""What a detector says about one class before NMS: its own detections must be among it."""

import pytest
import torch
from torch import nn

from explain.masks.test_proposals import KINDS, detector, images
from helpers import random_input
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


def test_models_of_another_make_are_refused():
    with pytest.raises(ValueError, match="Linear cannot be asked"):
        class_predictions(nn.Linear(1, 1))
