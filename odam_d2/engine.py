"""Training with Detectron2's engine: the optimiser, loader and evaluator that odam_d2's configs ask for."""

import os
import re
import weakref
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetMapper, MetadataCatalog, get_detection_dataset_dicts
from detectron2.data.build import filter_images_with_only_crowd_annotations
from detectron2.engine import DefaultTrainer, HookBase, SimpleTrainer, defaults
from detectron2.engine.hooks import EvalHook
from detectron2.evaluation import DatasetEvaluator
from detectron2.solver.build import get_default_optimizer_params, maybe_add_gradient_clipping
from detectron2.utils import comm
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from odam_d2.data.augmentation import MosaicMapper
from odam_d2.data.crowd_mapper import CrowdMapper
from odam_d2.data.pseudo_labels import mark_uncertain
from odam_d2.data.train_loader import TrainLoader, seed_generators
from odam_d2.evaluation.detections.evaluators import BoxEvaluator, CrowdHumanEvaluator
from odam_d2.modeling.checkpoint import TrainingCheckpointer
from odam_d2.modeling.config_check import building
from odam_d2.teaching import DistillingDetector, TeacherReport, distilling, inherit
from odam_d2.training_hooks import measure_maps

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
    if model.META_ARCHITECTURE == "ODAMDETR":
        raise ValueError("ODAMDETR would learn ignore regions as objects; set ODAM.INPUT.IGNORE_REGIONS to False")
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
    data, model = cfg.DATALOADER, cfg.MODEL
    filter_empty = data.FILTER_EMPTY_ANNOTATIONS
    dicts = get_detection_dataset_dicts(
        cfg.DATASETS.TRAIN,
        filter_empty=filter_empty,
        min_keypoints=model.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE if model.KEYPOINT_ON else 0,
        proposal_files=cfg.DATASETS.PROPOSAL_FILES_TRAIN if model.LOAD_PROPOSALS else None,
    )
    if cfg.ODAM.INPUT.MIN_LABEL_SCORE <= 0:
        return dicts
    dicts = mark_uncertain(dicts, cfg.ODAM.INPUT.MIN_LABEL_SCORE)
    return filter_images_with_only_crowd_annotations(dicts) if filter_empty else dicts


def check_losses(model: nn.Module, inputs: tuple[Any, ...], losses: Any) -> None:
    """A forward hook that ends training where a loss is no number any more.

    Raises:
        FloatingPointError: names the losses.
    """
    if not model.training:
        return
    # One transfer from a GPU for all of them.
    finite = torch.stack([torch.isfinite(value.detach()).all() for value in losses.values()]).tolist()
    if all(finite):
        return
    wrong = [f"{name} {losses[name].detach().item():g}" for name, fine in zip(losses, finite) if not fine]
    raise FloatingPointError(", ".join(wrong))


@contextmanager
def _naming_images(model: nn.Module, iteration: int) -> Iterator[None]:
    """Say in which iteration and with which images something was no number any more, whoever noticed it.

    Detectron2's proposals and boxes do, and our maps and losses.

    Raises:
        FloatingPointError: names the iteration, what was noticed, and the images.
    """
    batches: list[Any] = []
    hook = model.register_forward_pre_hook(lambda _, inputs: batches.append(inputs[0]))
    try:
        yield
    except (FloatingPointError, AssertionError, ValueError) as error:
        if not isinstance(error, FloatingPointError) and not re.search(r"\bNaN\b|finite", str(error)):
            raise
        images = ", ".join(str(one.get("image_id", one.get("file_name", "?"))) for batch in batches for one in batch)
        raise FloatingPointError(
            f"iteration {iteration}: {' '.join(str(error).split())}, on the images {images}; lower SOLVER.BASE_LR, or "
            "look at them"
        ) from error
    finally:
        hook.remove()


@contextmanager
def _trained_on(device: str) -> Iterator[None]:
    """Let Detectron2's trainer run on a CPU with several processes, and with mixed precision.

    It names a GPU for each process, and its trainer for mixed precision, which scales losses for float16, needs one.
    """
    replaced = {"create_ddp_model": partial(defaults.create_ddp_model, device_ids=None), "AMPTrainer": SimpleTrainer}
    with ExitStack() as stack:
        for name, own in replaced.items() if device == "cpu" else ():
            stack.callback(setattr, defaults, name, getattr(defaults, name))
            setattr(defaults, name, own)
        yield


class ODAMTrainer(DefaultTrainer):
    """Detectron2's :class:`DefaultTrainer` with AdamW, strong augmentation and COCO evaluation.

    A run that was stopped and resumed gives the losses and weights, on the same machine, of one that was not: what is
    drawn at random in an iteration follows from ``SEED`` and the iteration. Without a seed one is drawn, and kept with
    the checkpoint.

    With ``ODAM.KD.DISTILLER`` the detector learns beside a frozen teacher. What is saved as the model is the detector
    alone; what the distiller learns is saved with the trainer's state.

    Args:
        cfg: the experiment.

    Attributes:
        seed: of the run.

    Raises:
        FileNotFoundError: no such config or weights of a teacher.
        ValueError: a config that cannot be followed.
    """

    def __init__(self, cfg: CfgNode):
        # Detectron2's trainer trains what it builds; for evaluation the detector alone is built.
        build_detector = self.build_model
        self.build_model = lambda cfg: distilling(cfg, build_detector(cfg))  # type: ignore[method-assign]
        try:
            with _trained_on(cfg.MODEL.DEVICE):
                super().__init__(cfg)
        finally:
            del self.build_model
        self.seed = cfg.SEED if cfg.SEED >= 0 else comm.shared_random_seed()
        self._trainer.model.register_forward_hook(check_losses)

    def build_hooks(self) -> list[HookBase]:
        """Detectron2's, with checkpoints that survive being killed, maps that are measured, and the teacher's AP."""
        self.checkpointer = TrainingCheckpointer(self._plain_model(), self.cfg.OUTPUT_DIR, trainer=weakref.proxy(self))
        own = super().build_hooks()
        if self._distilling is not None and self.cfg.ODAM.KD.TEACHER.EVALUATE:
            own.insert(len(own) - comm.is_main_process(), TeacherReport(self._test_teacher))
        if self.cfg.ODAM.TRAIN.EXPLAINED_IMAGES > 0 and self.cfg.DATASETS.TEST:
            measure = EvalHook(self.cfg.TEST.EVAL_PERIOD, lambda: measure_maps(self.cfg, self._plain_model()))
            # What writes metrics is the last hook, on the first process alone.
            own.insert(len(own) - comm.is_main_process(), measure)
        return own

    def resume_or_load(self, resume: bool = True) -> None:
        """Overrides Detectron2's: a student that begins takes over what ``ODAM.KD.INHERIT`` says."""
        goes_on = resume and self.checkpointer.has_checkpoint()
        super().resume_or_load(resume=resume)
        if self._distilling is not None and self.cfg.ODAM.KD.INHERIT and not goes_on:
            inherit(self._distilling.student, self._distilling.teacher.detector)

    def train(self) -> Any:
        """Run training, from where :meth:`resume_or_load` found it."""
        loader = self._trainer.data_loader
        loader.seed, loader.iteration = self.seed, self.start_iter
        return super().train()

    def run_step(self) -> None:
        """One iteration, whose random numbers are its own."""
        other = seed_generators(self.seed, self.iter, comm.get_rank())
        torch.cuda.manual_seed_all(other)  # nothing where there is no GPU
        with self.mixed_precision(), _naming_images(self._trainer.model, self.iter):
            super().run_step()

    def mixed_precision(self) -> torch.autocast:
        """The precision of a step on a CPU: bfloat16 with ``SOLVER.AMP.ENABLED``, twice as fast on one that has it.

        On a GPU Detectron2's own trainer mixes float16.
        """
        enabled = self.cfg.SOLVER.AMP.ENABLED and self.cfg.MODEL.DEVICE == "cpu"
        return torch.autocast("cpu", torch.bfloat16, enabled=enabled)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint holds beside weights: Detectron2's, the seed, and what losses remember and learn."""
        own = {"seed": self.seed, "loss_normalizer": self._dense_normalizer()}
        if self._distilling is not None:
            own["distiller"] = self._distilling.distiller.state_dict()
        return super().state_dict() | own

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up a checkpoint's state; one of Detectron2's own trainer will do.

        Raises:
            ValueError: it was trained with another distiller, or without one.
        """
        own = dict(state_dict)
        self._load_distiller(own.pop("distiller", None))
        self.seed, normalizer = own.pop("seed", self.seed), own.pop("loss_normalizer", None)
        super().load_state_dict(own)
        if normalizer is not None:
            self._plain_model().loss_normalizer = normalizer

    def _load_distiller(self, state: dict[str, Any] | None) -> None:
        name = self.cfg.ODAM.KD.DISTILLER
        known = None if self._distilling is None else self._distilling.distiller.state_dict()
        shapes = [None if one is None else {key: value.shape for key, value in one.items()} for one in (state, known)]
        if shapes[0] != shapes[1]:
            raise ValueError(
                f"the run in {self.cfg.OUTPUT_DIR} was trained {'without a' if state is None else 'with another'} "
                f"distiller than ODAM.KD.DISTILLER {name!r} now asks for; set ODAM.KD as it was, or OUTPUT_DIR to "
                "another folder and MODEL.WEIGHTS to its last checkpoint"
            )
        if self._distilling is not None:
            self._distilling.distiller.load_state_dict(state)

    def _trained_model(self) -> nn.Module:
        """What is trained, in this process."""
        model = self._trainer.model
        return model.module if isinstance(model, DistributedDataParallel) else model

    @property
    def _distilling(self) -> DistillingDetector | None:
        model = self._trained_model()
        return model if isinstance(model, DistillingDetector) else None

    def _plain_model(self) -> nn.Module:
        """The detector."""
        return self._trained_model() if self._distilling is None else self._distilling.student

    def _test_teacher(self) -> dict[str, Any]:
        teacher = self._distilling.teacher
        cfg = teacher.cfg.clone()
        cfg.defrost()
        cfg.DATASETS.TEST, cfg.DATALOADER = self.cfg.DATASETS.TEST, self.cfg.DATALOADER.clone()
        cfg.OUTPUT_DIR = os.path.join(self.cfg.OUTPUT_DIR, "teacher")
        return self.test(cfg, teacher.detector)

    def _dense_normalizer(self) -> float | None:
        """The running number of positives that RetinaNet and FCOS divide losses by, which is in no buffer."""
        return getattr(self._plain_model(), "loss_normalizer", None)

    @classmethod
    def build_model(cls, cfg: CfgNode) -> nn.Module:
        """The model, on a CPU in channels-last layout: its depthwise convolutions train 15 % faster there.

        Raises:
            ValueError: a config that names what is not there, or that would not be followed.
        """
        with building(cfg):
            model = super().build_model(cfg)
        trains_maps = any(getattr(part, "odam_train", None) is not None for part in model.modules())
        if cfg.ODAM.TRAIN.ENABLED and not trains_maps:
            heads = f" with {cfg.MODEL.ROI_HEADS.NAME}" if hasattr(model, "roi_heads") else ""
            raise ValueError(
                f"ODAM.TRAIN.ENABLED is True, and {cfg.MODEL.META_ARCHITECTURE}{heads} would be trained without its "
                "losses; use odam_d2's own, which are called ODAM..., or set it to False"
            )
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
    def build_train_loader(cls, cfg: CfgNode) -> TrainLoader:
        """Detectron2's loader, resumable; with ``ODAM.INPUT.CROP_SIZE`` > 0 through :class:`MosaicMapper`.

        With ``ODAM.INPUT.IGNORE_REGIONS`` alone through :class:`CrowdMapper`; annotations of a detector that are weaker
        than ``ODAM.INPUT.MIN_LABEL_SCORE`` are no objects.

        Raises:
            ValueError: ignore regions for a detector, or with other settings, that would not respect them.
        """
        if cfg.ODAM.INPUT.IGNORE_REGIONS:
            check_ignore_regions(cfg)
        dicts = _training_dicts(cfg)
        if cfg.ODAM.INPUT.CROP_SIZE > 0:
            mapper = MosaicMapper(cfg, dicts)
        else:
            mapper = (CrowdMapper if cfg.ODAM.INPUT.IGNORE_REGIONS else DatasetMapper)(cfg, is_train=True)
        return TrainLoader(cfg, dicts, mapper)

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str, output_folder: str | None = None) -> DatasetEvaluator:
        """Box AP as COCO defines it, and AP50 of every class; or what is usual for crowds."""
        folder = output_folder or os.path.join(cfg.OUTPUT_DIR, "inference", dataset_name)
        if MetadataCatalog.get(dataset_name).get("evaluator_type") == "crowdhuman":
            return CrowdHumanEvaluator(dataset_name, folder)
        # What an earlier run converted to COCO's format there may be another dataset of that name.
        return BoxEvaluator(dataset_name, tasks=("bbox",), output_dir=folder, allow_cached_coco=False)
