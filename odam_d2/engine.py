"""Training with Detectron2's engine: the optimiser, loader and evaluator that odam_d2's configs ask for."""

import os
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog, build_detection_train_loader, get_detection_dataset_dicts
from detectron2.data.build import filter_images_with_only_crowd_annotations
from detectron2.engine import DefaultTrainer
from detectron2.evaluation import DatasetEvaluator
from detectron2.solver.build import get_default_optimizer_params, maybe_add_gradient_clipping
from torch import nn

from odam_d2.data.augmentation import MosaicMapper
from odam_d2.data.crowd_mapper import CrowdMapper
from odam_d2.data.pseudo_labels import mark_uncertain
from odam_d2.evaluation.detections.evaluators import BoxEvaluator, CrowdHumanEvaluator
from odam_d2.modeling.config_check import building

OPTIMIZERS = ("SGD", "ADAMW")


def check_ignore_regions(cfg: CfgNode) -> None:
    """Refuse settings under which ignore regions would be lost, or be learned as objects.

    Args:
        cfg: an experiment with ``ODAM.INPUT.IGNORE_REGIONS``.

    Raises:
        ValueError: names the setting.
    """
    model = cfg.MODEL
    if model.MASK_ON or model.KEYPOINT_ON:
        raise ValueError("ODAM.INPUT.IGNORE_REGIONS keeps boxes only; set MODEL.MASK_ON and MODEL.KEYPOINT_ON to False")
    parts = {"MODEL.META_ARCHITECTURE": model.META_ARCHITECTURE}
    if model.META_ARCHITECTURE == "ODAMRCNN":
        parts |= {
            "MODEL.PROPOSAL_GENERATOR.NAME": model.PROPOSAL_GENERATOR.NAME,
            "MODEL.ROI_HEADS.NAME": model.ROI_HEADS.NAME,
        }
    for key, name in parts.items():
        if not name.startswith("ODAM"):
            raise ValueError(f"{key} {name} would learn ignore regions as objects; use the one called ODAM{name}")


def _training_dicts(cfg: CfgNode) -> list[dict[str, Any]]:
    """The training images, with annotations that a detector was unsure of marked as regions."""
    filter_empty = cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS
    dicts = get_detection_dataset_dicts(cfg.DATASETS.TRAIN, filter_empty=filter_empty)
    dicts = mark_uncertain(dicts, cfg.ODAM.INPUT.MIN_LABEL_SCORE)
    return filter_images_with_only_crowd_annotations(dicts) if filter_empty else dicts


class ODAMTrainer(DefaultTrainer):
    """Detectron2's :class:`DefaultTrainer` with AdamW, strong augmentation and COCO evaluation."""

    @classmethod
    def build_model(cls, cfg: CfgNode) -> nn.Module:
        """The model, on a CPU in channels-last layout: its depthwise convolutions train 15 % faster there.

        Raises:
            ValueError: a config that names what is not there, or that would not be followed.
        """
        with building(cfg):
            model = super().build_model(cfg)
        return model.to(memory_format=torch.channels_last) if cfg.MODEL.DEVICE == "cpu" else model

    @classmethod
    def build_optimizer(cls, cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
        """SGD as Detectron2 builds it, or AdamW (``ODAM.SOLVER.OPTIMIZER``).

        Raises:
            ValueError: unknown optimiser.
        """
        name = cfg.ODAM.SOLVER.OPTIMIZER
        if name not in OPTIMIZERS:
            raise ValueError(f"ODAM.SOLVER.OPTIMIZER is {name!r}; valid values are {', '.join(OPTIMIZERS)}")
        if name == "SGD":
            return super().build_optimizer(cfg, model)
        factor = cfg.ODAM.SOLVER.BACKBONE_MULTIPLIER
        params = get_default_optimizer_params(
            model,
            base_lr=cfg.SOLVER.BASE_LR,
            weight_decay_norm=cfg.SOLVER.WEIGHT_DECAY_NORM,
            lr_factor_func=lambda parameter: factor if "backbone.bottom_up" in parameter else 1.0,
        )
        adamw = maybe_add_gradient_clipping(cfg, torch.optim.AdamW)
        return adamw(params, lr=cfg.SOLVER.BASE_LR, weight_decay=cfg.SOLVER.WEIGHT_DECAY)

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> Any:
        """Detectron2's loader; with ``ODAM.INPUT.CROP_SIZE`` > 0 through :class:`MosaicMapper`.

        With ``ODAM.INPUT.IGNORE_REGIONS`` alone through :class:`CrowdMapper`; annotations of a detector that are weaker
        than ``ODAM.INPUT.MIN_LABEL_SCORE`` are no objects.

        Raises:
            ValueError: ignore regions for a detector, or with other settings, that would not respect them.
        """
        options = cfg.ODAM.INPUT
        dicts = mapper = None  # Detectron2's own
        if options.IGNORE_REGIONS:
            check_ignore_regions(cfg)
            mapper = CrowdMapper(cfg, is_train=True)
        if options.MIN_LABEL_SCORE > 0 or options.CROP_SIZE > 0:
            dicts = _training_dicts(cfg)
        if options.CROP_SIZE > 0:
            mapper = MosaicMapper(cfg, dicts)
        return build_detection_train_loader(cfg, mapper=mapper, dataset=dicts)

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str, output_folder: str | None = None) -> DatasetEvaluator:
        """Box AP as COCO defines it, and AP50 of every class; or what is usual for crowds."""
        folder = output_folder or os.path.join(cfg.OUTPUT_DIR, "inference", dataset_name)
        if MetadataCatalog.get(dataset_name).get("evaluator_type") == "crowdhuman":
            return CrowdHumanEvaluator(dataset_name, folder)
        # What an earlier run converted to COCO's format there may be another dataset of that name.
        return BoxEvaluator(dataset_name, tasks=("bbox",), output_dir=folder, allow_cached_coco=False)
