"""What a person sees of a detector's maps while it trains: their metrics and a picture, beside the losses."""

import shutil
from collections import OrderedDict
from pathlib import Path

import numpy as np
from detectron2.config import CfgNode
from detectron2.utils import comm
from detectron2.utils.events import get_event_storage
from torch import nn

from odam_d2.data.class_names import class_names
from odam_d2.evaluation.study.run import ExplanationEvaluator
from odam_d2.evaluation.study.settings import CHEAP, ExplanationSettings
from odam_d2.explain import ExplainSettings
from odam_d2.modeling.explainable import evaluating
from odam_d2.predictor import ODAMPredictor

# Detections of the picture.
SHOWN = 6
# Of the objects that are measured; few detections of a detector that still learns are better.
IOU_THRESHOLD = 0.5


def measure_maps(cfg: CfgNode, model: nn.Module) -> "OrderedDict[str, dict[str, float]]":
    """Explain the first images of the first test dataset, as many as ``ODAM.TRAIN.EXPLAINED_IMAGES`` says.

    A picture of one image's maps goes to Detectron2's event storage; the report stays in ``inference/maps`` of the
    output folder. Several processes share the images.

    Args:
        cfg: the experiment.
        model: the detector as it is now; it is left as it was found.

    Returns:
        ``maps`` -> metric -> mean over the objects that were found well.
    """
    dataset = cfg.DATASETS.TEST[0]
    settings = ExplainSettings.from_options(cfg.ODAM.EXPLAIN)
    study = ExplanationSettings(
        methods=("odam",), metrics=CHEAP, iou_threshold=IOU_THRESHOLD, max_images=cfg.ODAM.TRAIN.EXPLAINED_IMAGES
    )
    folder = Path(cfg.OUTPUT_DIR) / "inference" / "maps"
    comm.synchronize()  # nobody reads any more what goes now
    if comm.is_main_process() and folder.exists():
        shutil.rmtree(folder)
    comm.synchronize()
    with evaluating(model, gradients=True):
        size = {"min_size": cfg.INPUT.MIN_SIZE_TEST, "max_size": cfg.INPUT.MAX_SIZE_TEST}
        names = class_names(cfg, model.num_classes)
        predictor = ODAMPredictor.from_model(model, names, settings, **size, input_format=cfg.INPUT.FORMAT)
        evaluator = ExplanationEvaluator(predictor, dataset, folder, study)
        for image_id in evaluator.image_ids[comm.get_rank() :: comm.get_world_size()]:
            evaluator.process([{"image_id": image_id}])
        found = evaluator.evaluate()
        if comm.is_main_process():
            image = evaluator.read_image(evaluator.image_ids[0])
            get_event_storage().put_image("maps", draw_maps(predictor, image))
    return OrderedDict(maps=found["odam"]) if found else OrderedDict()


def draw_maps(predictor: ODAMPredictor, image: np.ndarray) -> np.ndarray:
    """The class-score maps of an image's best detections as a contact sheet, (3,H,W) uint8 RGB for TensorBoard.

    Args:
        predictor: the detector.
        image: (h,w,3) uint8 BGR.
    """
    best = predictor.explain(image, "class_score", lambda found: list(range(min(SHOWN, len(found)))))
    return np.ascontiguousarray(best.show().transpose(2, 0, 1))
