"""Deletion and Insertion on a detector: perturbed photographs go in, the explained object's scores come out.

Shapes: n images, (h,w) image, (hn,wn) network input before padding. Boxes are XYXY in pixels of the image.
"""

import numpy as np
import torch
from torch import Tensor

from odam_d2.evaluation.specification import ScoreOf, match_score
from odam_d2.modeling.proposals import class_predictions
from odam_d2.predictor import ODAMPredictor


def network_pixels(predictor: ODAMPredictor, image_bgr: np.ndarray) -> Tensor:
    """A photograph as the predictor hands it to its model: resized, in the model's channel order.

    Args:
        predictor: the detector.
        image_bgr: (h,w,3) uint8.

    Returns:
        (3,hn,wn) float32 on the model's device.
    """
    image = image_bgr[:, :, ::-1] if predictor.input_format == "RGB" else image_bgr
    image = predictor.aug.get_transform(image).apply_image(image)
    return torch.as_tensor(image.astype("float32").transpose(2, 0, 1)).to(predictor.model.device)


def object_score(predictor: ODAMPredictor, label: int, box: np.ndarray) -> ScoreOf:
    """What Deletion and Insertion ask: the best score of the class among predictions before NMS with IoU > 0.5.

    Args:
        predictor: the detector.
        label: class of the object.
        box: of the object, (4,); IoUs are taken at the network's size.

    Returns:
        (n,h,w,3) uint8 BGR -> (n,) in [0,1].
    """
    predict = class_predictions(predictor.model)

    def scores(images: np.ndarray) -> np.ndarray:
        pixels = torch.stack([network_pixels(predictor, image) for image in images])
        scale = [pixels.shape[3] / images.shape[2], pixels.shape[2] / images.shape[1]] * 2
        found = predict(pixels, label)
        return np.array([match_score(b.cpu().numpy(), s.cpu().numpy(), np.asarray(box) * scale) for b, s in found])

    return scores
