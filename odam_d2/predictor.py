"""Detectron2's ``DefaultPredictor`` that can also say why.

Shapes: D explained detections, (h,w) image as the user sees it.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES
from detectron2.engine import DefaultPredictor
from detectron2.structures import Instances
from torch import Tensor

import odam_d2.modeling  # noqa: F401  registers the models
from odam_d2.explain import ALL_METHODS, BLACK_BOX, DRISE, BlackBoxExplainer, GradientExplainer, check_methods, explain
from odam_d2.explain.masks.drise import Progress
from odam_d2.modeling.checkpoint import load_weights
from odam_d2.modeling.explainable import check_layers
from odam_d2.modeling.proposals import proposal_function
from odam_d2.nms.family import Suppression
from odam_d2.show.sheets import contact_sheet
from odam_d2.structures import HeatMaps, Trace

# Which detections: their positions in the predictor's output, or a function that picks them. None means all.
Chosen = Sequence[int] | Callable[[Instances], Tensor] | None


class ImageMaps(Mapping[str, Tensor]):
    """Maps at image resolution by target, made when they are asked for: a 12-megapixel image has many pixels."""

    def __init__(self, heat_maps: Mapping[str, HeatMaps]):
        self._heat_maps = heat_maps

    def __getitem__(self, target: str) -> Tensor:
        """(D,h,w) float32 in [0,1], each map scaled by its maximum."""
        return self._heat_maps[target].to_picture()

    def __iter__(self) -> Iterator[str]:
        return iter(self._heat_maps)

    def __len__(self) -> int:
        return len(self._heat_maps)


@dataclass(frozen=True, eq=False)
class Explanation:
    """Why a detector detected what it did.

    Args:
        instances: the explained detections, as ``DefaultPredictor`` gives them.
        heat_maps: raw maps by target.
    """

    instances: Instances
    heat_maps: dict[str, HeatMaps]

    @property
    def maps(self) -> ImageMaps:
        """Target -> (D,h,w) float32 in [0,1], in image pixels."""
        return ImageMaps(self.heat_maps)


class ODAMPredictor(DefaultPredictor):
    """A predictor for one image at a time: ``predictor(image)`` detects, ``predictor.explain(image)`` says why.

    Args:
        cfg: a config with odam_d2's keys whose meta-architecture is one of odam_d2's.

    Raises:
        FileNotFoundError: ``MODEL.WEIGHTS`` does not exist.
        ValueError: the model cannot be explained, or the weights do not fit it.
    """

    def __init__(self, cfg: CfgNode):
        unloaded = cfg.clone()
        unloaded.defrost()
        # DefaultPredictor would accept weights that leave part of the model random; ours are loaded below.
        unloaded.MODEL.WEIGHTS = ""
        super().__init__(unloaded)
        self.cfg = cfg.clone()
        if not hasattr(self.model, "trace"):
            raise ValueError(
                f"MODEL.META_ARCHITECTURE {cfg.MODEL.META_ARCHITECTURE} cannot be explained; "
                "use ODAMFCOS, ODAMRetinaNet or ODAMRCNN"
            )
        load_weights(self.model, cfg.MODEL.WEIGHTS)

    @property
    def num_classes(self) -> int:
        """Classes of the detector, without background."""
        return getattr(self.model, "num_classes", None) or self.model.roi_heads.num_classes

    @property
    def class_names(self) -> list[str]:
        """Names of the classes, from the test dataset's metadata, else COCO's where there are 80, else numbers."""
        datasets = self.cfg.DATASETS.TEST
        names = MetadataCatalog.get(datasets[0]).get("thing_classes") if datasets else None
        count = self.num_classes
        if names is None and count == 80:
            names = [c["name"] for c in COCO_CATEGORIES if c["isthing"]]
        return list(names) if names is not None else [str(i) for i in range(count)]

    def check_features(self, features: Sequence[str]) -> None:
        """Refuse layers that this detector does not have.

        Raises:
            ValueError: lists the valid layers.
        """
        check_layers(features, self.model.layers)

    def network_input(self, image_bgr: np.ndarray) -> Tensor:
        """A photograph as ``DefaultPredictor`` hands it to its model: resized, in the model's channel order.

        Args:
            image_bgr: (h,w,3) uint8, BGR.

        Returns:
            (3,hn,wn) float32 on the CPU.
        """
        image = image_bgr[:, :, ::-1] if self.input_format == "RGB" else image_bgr
        image = self.aug.get_transform(image).apply_image(image)
        return torch.as_tensor(image.astype("float32").transpose(2, 0, 1))

    def trace(
        self, image_bgr: np.ndarray, features: Sequence[str] = ("fpn",), instances: Chosen = None
    ) -> tuple[Instances, Trace]:
        """One forward pass that remembers what explanations need; ask it as often as you like.

        Args:
            image_bgr: (h,w,3) uint8, BGR.
            features: layers to explain at.
            instances: which detections.

        Returns:
            the chosen detections as ``DefaultPredictor`` gives them, and their trace.

        Raises:
            ValueError: not an image, an unknown layer, or a detection that does not exist.
        """
        if image_bgr.ndim != 3 or image_bgr.shape[2] != 3 or not image_bgr.size:
            raise ValueError(f"an image must have shape (height, width, 3), not {image_bgr.shape}")
        height, width = image_bgr.shape[:2]
        inputs = {"image": self.network_input(image_bgr), "height": height, "width": width}
        return self.model.trace(inputs, features, keep=_keep(instances))

    def explain(
        self,
        image_bgr: np.ndarray,
        targets: Sequence[str] = ("class_score",),
        instances: Chosen = None,
        method: str = "odam",
        features: str = "fpn",
        path: str | None = None,
        progress: Progress | None = None,
    ) -> Explanation:
        """Heat maps that say why.

        Args:
            image_bgr: (h,w,3) uint8, BGR.
            targets: ``class_score``, ``class_logit``, ``x1``, ``y1``, ``x2``, ``y2``, ``combined``.
            instances: which detections; default all.
            method: ``odam``, or to compare ``gradcam``, ``gradcam++``, ``hirescam``, ``layercam``, ``ssgradcam++`` or
                ``drise``. The last runs the detector on ``ODAM.EXPLAIN.DRISE_MASKS`` masked images, which takes
                minutes, and explains box and class together: its only target is ``class_score``.
            features: ``fpn``, ``roi_pool`` (two-stage detectors) or a bottom-up stage such as ``res4``.
            path: ``exact``, ``batched`` or ``auto``, see :class:`odam_d2.explain.GradientExplainer`; default
                ``ODAM.EXPLAIN.PATH``.
            progress: told (masks done, masks in all) by ``drise``.

        Raises:
            ValueError: an unknown name (the valid ones are listed) or a detection that does not exist.
        """
        explainer = self.make_explainer(method, features, path, progress)
        explainer.check(targets)
        detections, trace = self.trace(image_bgr, (features,), instances)
        return Explanation(detections, explain(trace, targets, explainer))

    def make_explainer(
        self, method: str = "odam", features: str = "fpn", path: str | None = None, progress: Progress | None = None
    ) -> GradientExplainer | BlackBoxExplainer:
        """What :meth:`explain` explains with: ``explainer(trace, target)``.

        Args:
            method: as in :meth:`explain`.
            features: as in :meth:`explain`.
            path: as in :meth:`explain`.
            progress: as in :meth:`explain`.

        Raises:
            ValueError: an unknown name; the valid ones are listed.
        """
        check_methods([method], ALL_METHODS)
        options = self.cfg.ODAM.EXPLAIN
        if method != BLACK_BOX:
            return GradientExplainer(method, features, options.SMOOTHING, path or options.PATH, options.MEMORY)
        if features != "fpn" or path is not None:
            raise ValueError(f"{method} runs the whole detector: it has no layers and no paths to choose from")
        return self.black_box(DRISE(options.DRISE_MASKS, batch=options.DRISE_BATCH), progress)

    def black_box(self, drise: DRISE, progress: Progress | None = None) -> BlackBoxExplainer:
        """An explainer that only looks at what the detector says about masked images.

        Args:
            drise: number of masks and the like.
            progress: told after every batch of masks.
        """
        # Class vectors are looked up among all that the detector says about the whole image.
        every = proposal_function(self.model, 10**6, 0.0, 1.0)
        return BlackBoxExplainer(proposal_function(self.model), every, drise, progress)

    def explain_nms(self, image_bgr: np.ndarray) -> tuple[Instances, Suppression]:
        """Detect, and say what NMS did: which candidates it removed, on account of whom, and why.

        Args:
            image_bgr: (h,w,3) uint8, BGR.

        Returns:
            the detections as ``predictor(image_bgr)`` gives them, and NMS's record with boxes in image pixels.
        """
        with self.model.nms.recording() as record:
            instances = self(image_bgr)["instances"]
        (done,) = record
        scale = [size / network for size, network in zip(instances.image_size, done.image_size)]
        boxes = done.boxes * done.boxes.new_tensor([scale[1], scale[0]] * 2)
        return instances, replace(done, boxes=boxes, image_size=instances.image_size)

    def labels(self, instances: Instances) -> list[str]:
        """Class name and score of each detection, for people."""
        names = self.class_names
        pairs = zip(instances.pred_classes.tolist(), instances.scores.tolist())
        return [f"{names[c]} {score:.2f}" for c, score in pairs]

    def show(self, image_bgr: np.ndarray, explanation: Explanation) -> np.ndarray:
        """A contact sheet of an explanation: a row a detection, a column a target.

        Args:
            image_bgr: the explained image.
            explanation: of that image.

        Returns:
            RGB uint8 picture.
        """
        instances = explanation.instances
        return contact_sheet(
            np.ascontiguousarray(image_bgr[:, :, ::-1]),
            instances.pred_boxes.tensor.cpu().numpy(),
            self.labels(instances),
            {target: maps.cpu().numpy() for target, maps in explanation.maps.items()},
        )


def _keep(instances: Chosen) -> Callable[[Instances], Tensor] | None:
    if instances is None or callable(instances):
        return instances

    def keep(found: Instances) -> Tensor:
        for i in instances:
            if not 0 <= i < len(found):
                raise ValueError(f"there is no detection {i}; the detector found {len(found)} in this image")
        return torch.tensor(list(instances), dtype=torch.int64, device=found.scores.device)

    return keep
