"""Deletion and Insertion on a detector: perturbed photographs go in, the explained object's scores come out.

Shapes: n images, (h,w) image, (hn,wn) network input before padding. Boxes are XYXY in pixels of the image.
"""

import numpy as np
import torch

from odam_d2.evaluation.metrics.specification import ScoreOf, match_score
from odam_d2.explain.masks.black_box import class_predictions
from odam_d2.predictor import ODAMPredictor


def object_score(predictor: ODAMPredictor, label: int, box: np.ndarray, amp: bool = False) -> ScoreOf:
    """What Deletion and Insertion ask: the best score of the class among predictions before NMS with IoU > 0.5.

    Args:
        predictor: the detector.
        label: class of the object.
        box: of the object, (4,); IoUs are taken at the network's size.
        amp: as in :func:`odam_d2.explain.masks.black_box.observe_images`.

    Returns:
        (n,h,w,3) uint8 BGR -> (n,) in [0,1].
    """
    predict = class_predictions(predictor.model, amp)

    def scores(images: np.ndarray) -> np.ndarray:
        found = predict(torch.stack([predictor.network_input(image) for image in images]), label)
        matched = []
        for boxes, values, (height, width) in found:
            scale = [width / images.shape[2], height / images.shape[1]] * 2
            matched.append(match_score(boxes.cpu().numpy(), values.cpu().numpy(), np.asarray(box) * scale))
        return np.array(matched)

    return scores
