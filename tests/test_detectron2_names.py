"""What the library uses of Detectron2 beyond its public names: one place to look when a new version has changed."""

import inspect

import pytest
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.data import DatasetMapper
from detectron2.data.build import _train_loader_from_config
from detectron2.data.datasets.builtin_meta import _get_builtin_metadata
from detectron2.evaluation import COCOEvaluator
from detectron2.layers.mask_ops import _do_paste_mask
from detectron2.modeling import RetinaNet
from detectron2.modeling.meta_arch.dense_detector import DenseDetector
from detectron2.modeling.proposal_generator import RPN
from detectron2.modeling.roi_heads import CascadeROIHeads
from fvcore.common.checkpoint import Checkpointer

PARAMETERS = {
    DatasetMapper._transform_annotations: ["self", "dataset_dict", "transforms", "image_shape"],
    _train_loader_from_config: ["cfg", "mapper", "dataset", "sampler"],
    _get_builtin_metadata: ["dataset_name"],
    COCOEvaluator._derive_coco_results: ["self", "coco_eval", "iou_type", "class_names"],
    _do_paste_mask: ["masks", "boxes", "img_h", "img_w", "skip_empty"],
    RetinaNet._transpose_dense_predictions: ["self", "predictions", "dims_per_anchor"],
    DenseDetector._decode_multi_level_predictions: [
        "self",
        "anchors",
        "pred_scores",
        "pred_deltas",
        "score_thresh",
        "topk_candidates",
        "image_size",
    ],
    DenseDetector._ema_update: ["self", "name", "value", "initial_value", "momentum"],
    RPN._subsample_labels: ["self", "label"],
    CascadeROIHeads._match_and_label_boxes: ["self", "proposals", "stage", "targets"],
    CascadeROIHeads._create_proposals_from_boxes: ["self", "boxes", "image_sizes"],
    Checkpointer._load_model: ["self", "checkpoint"],
    DetectionCheckpointer._load_file: ["self", "filename"],
    DetectionCheckpointer._load_model: ["self", "checkpoint"],
}


@pytest.mark.parametrize("function", PARAMETERS, ids=lambda function: function.__qualname__)
def test_private_names_are_called_as_they_are_here(function):
    # Behind @configurable and @torch.no_grad stands the function itself.
    assert list(inspect.signature(inspect.unwrap(function)).parameters) == PARAMETERS[function]
