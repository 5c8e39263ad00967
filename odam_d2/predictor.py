"""Detectron2's ``DefaultPredictor`` that can also say why.

Shapes: D explained detections, (h,w) image as the user sees it.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.data.transforms import ResizeShortestEdge
from detectron2.engine import DefaultPredictor
from detectron2.structures import Instances
from torch import Tensor, nn

from odam_d2.choice import Chosen, choose_detections
from odam_d2.data.class_names import class_names as names_of_classes
from odam_d2.data.images import check_sides
from odam_d2.explain import (
    METHODS,
    TARGETS,
    Explainer,
    ExplainSettings,
    Target,
    explain,
    make_explainer,
    name_targets,
    resolve_target,
    target_name,
    target_output,
)
from odam_d2.explain.masks.drise import Progress
from odam_d2.explanation import Explanation
from odam_d2.modeling.checkpoint import load_weights
from odam_d2.modeling.config_check import building
from odam_d2.modeling.explainable import Observation, check_explainable, check_layers, without_place
from odam_d2.nms import Suppression
from odam_d2.notices import use_up_notices
from odam_d2.structures import Trace


class ODAMPredictor(DefaultPredictor):
    """A predictor for one image at a time: ``predictor(image)`` detects, ``predictor.explain(image)`` says why.

    Args:
        cfg: a config with odam_d2's keys whose meta-architecture is one of odam_d2's.

    Attributes:
        settings: how it explains, unless told otherwise: ``ODAM.EXPLAIN``.
        class_names: of the detector.

    Raises:
        FileNotFoundError: ``MODEL.WEIGHTS`` does not exist.
        ValueError: the config names what is not there, the model cannot be explained, or the weights do not fit it.
    """

    def __init__(self, cfg: CfgNode):
        use_up_notices()
        self.settings = ExplainSettings.from_options(cfg.ODAM.EXPLAIN)
        unloaded = cfg.clone()
        unloaded.defrost()
        # DefaultPredictor would accept weights that leave part of the model random; ours are loaded below.
        unloaded.MODEL.WEIGHTS = ""
        with building(unloaded):
            super().__init__(unloaded)
        self.cfg = cfg.clone()
        check_explainable(self.model)
        load_weights(self.model, cfg.MODEL.WEIGHTS)
        self.class_names = names_of_classes(cfg, self.num_classes, getattr(self.model, "class_names", ()))

    @classmethod
    def from_model(
        cls,
        model: nn.Module,
        class_names: Sequence[str] = (),
        settings: ExplainSettings | None = None,
        min_size: int = 800,
        max_size: int = 1333,
        input_format: str = "BGR",
    ) -> "ODAMPredictor":
        """A predictor around a model that is already there, however it was built and filled.

        Args:
            model: an explainable detector; it stays where it is and is put into evaluation mode, as
                ``DefaultPredictor`` does it.
            class_names: of its classes; default the model's own names, else their numbers.
            settings: how it explains.
            min_size: length to which an image's short side is scaled; 0 leaves images as they are.
            max_size: at most so long is the long side then.
            input_format: channel order that the model takes, ``BGR`` or ``RGB``.

        Raises:
            ValueError: a model that cannot be explained, another number of names than classes, or another format.
        """
        if input_format not in ("BGR", "RGB"):
            raise ValueError(f"input_format is {input_format!r}; valid values are BGR, RGB")
        self = cls.__new__(cls)
        self.model = check_explainable(model).eval()
        own = getattr(model, "class_names", None) or [str(i) for i in range(model.num_classes)]
        names = list(class_names) or list(own)
        if len(names) != model.num_classes:
            raise ValueError(f"there are {len(names)} class names for a model of {model.num_classes} classes")
        self.cfg, self.class_names, self.settings = None, names, settings or ExplainSettings()
        self.metadata = MetadataCatalog.get("__unused")
        self.aug, self.input_format = ResizeShortestEdge([min_size, min_size], max_size), input_format
        return self

    def __repr__(self) -> str:
        return f"ODAMPredictor({type(self.model).__name__}, {self.num_classes} classes, {self.settings.describe()})"

    def __call__(self, original_image: np.ndarray) -> dict[str, Any]:
        """Detections, as ``DefaultPredictor`` gives them; also where there is no config.

        Args:
            original_image: (h,w,3), BGR.
        """
        height, width = original_image.shape[:2]
        with torch.no_grad():
            return self.model([{"image": self.network_input(original_image), "height": height, "width": width}])[0]

    @property
    def num_classes(self) -> int:
        """Classes of the detector, without background."""
        return self.model.num_classes

    def check_layers(self, layers: Sequence[str]) -> None:
        """Refuse layers that this detector does not have.

        Raises:
            ValueError: lists the valid layers.
        """
        check_layers(layers, self.model.layers)

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

    def model_input(self, image_bgr: np.ndarray) -> dict[str, Any]:
        """A photograph as Detectron2's models take one: ``image``, ``height`` and ``width``.

        Args:
            image_bgr: (h,w,3) uint8, BGR.

        Raises:
            ValueError: not an image.
        """
        check_image(image_bgr)
        height, width = image_bgr.shape[:2]
        return {"image": self.network_input(image_bgr), "height": height, "width": width}

    def observe(
        self,
        images: Sequence[np.ndarray],
        layers: Sequence[str] = ("fpn",),
        places_of: Observation | Sequence[Tensor] | None = None,
    ) -> Observation:
        """One forward pass over some images, for everything there is to ask.

        Args:
            images: each (h,w,3) uint8, BGR.
            layers: at which detections will be explained; () for none.
            places_of: see :class:`odam_d2.modeling.ExplainableDetector`.

        Raises:
            ValueError: not an image, or an unknown layer.
        """
        return self.model.observe([self.model_input(image) for image in images], layers, places_of)

    def trace(
        self, image_bgr: np.ndarray, layers: Sequence[str] = ("fpn",), instances: Chosen = None
    ) -> tuple[Instances, Trace]:
        """Detect, and remember what explanations need; ask the trace as often as you like.

        Args:
            image_bgr: (h,w,3) uint8, BGR.
            layers: at which detections will be explained.
            instances: which detections, see :meth:`explain`.

        Returns:
            the chosen detections as ``DefaultPredictor`` gives them, and their trace.

        Raises:
            ValueError: not an image, an unknown layer, or a detection that does not exist.
        """
        (traced,) = self._trace_all([image_bgr], layers, instances)
        return traced

    def explain(
        self,
        image_bgr: np.ndarray,
        targets: Target | Sequence[Target] = ("class_score",),
        instances: Chosen = None,
        method: str | None = None,
        layer: str | None = None,
        smoothing: str | None = None,
        path: str | None = None,
        progress: Progress | None = None,
    ) -> Explanation:
        """Heat maps that say why.

        Args:
            image_bgr: (h,w,3) uint8, BGR, as :func:`odam_d2.read_image` gives it.
            targets: one or several of ``class_score``, ``class_logit``, ``x1``, ``y1``, ``x2``, ``y2``, ``combined``;
                ``class_score[dog]`` and ``class_logit[dog]`` ask about any class ("why not dog?"); or functions from a
                trace to one scalar a detection.
            instances: which detections: a class name, positions, a mask such as ``scores > 0.5``, or a function that
                is given the detections and returns one of these; default all.
            method: ``odam``, or to compare ``gradcam``, ``gradcam++``, ``hirescam``, ``layercam``, ``ssgradcam++``,
                ``attention``, ``rollout``, ``game`` (transformers such as DETR), ``drise`` or ``bbam``. The last two
                take minutes. ``drise`` runs the detector on ``ODAM.EXPLAIN.DRISE_MASKS`` masked images and explains
                box and class together: its only target is ``class_score``. ``bbam``, for two-stage detectors,
                optimises a mask for each detection and target in ``ODAM.EXPLAIN.BBAM_STEPS`` steps; it has no
                ``class_logit``.
            layer: ``fpn``, ``roi_pool`` (two-stage detectors) or a stage of the backbone such as ``res4``.
            smoothing: of ODAM's gradients, ``none`` or ``gaussian``.
            path: ``exact``, ``batched`` or ``auto``, see :class:`odam_d2.explain.GradientExplainer`.
            progress: told (masks or steps done, and in all) by ``drise`` and ``bbam``.

        What is not said is as in :attr:`settings`.

        Raises:
            ValueError: an unknown name (the valid ones are listed) or a detection that does not exist.
        """
        (explanation,) = self.explain_batch([image_bgr], targets, instances, method, layer, smoothing, path, progress)
        return explanation

    def explain_batch(
        self,
        images: Sequence[np.ndarray],
        targets: Target | Sequence[Target] = ("class_score",),
        instances: Chosen = None,
        method: str | None = None,
        layer: str | None = None,
        smoothing: str | None = None,
        path: str | None = None,
        progress: Progress | None = None,
    ) -> list[Explanation]:
        """:meth:`explain` for several images in one forward pass; they are padded to a common size.

        Args:
            images: each (h,w,3) uint8, BGR; none is fine.
            targets: and all that follow as there.
            instances: of every image; as images differ in their number of detections, a class name or a function.
            method: see there.
            layer: see there.
            smoothing: see there.
            path: see there.
            progress: told about one image after the other.

        Raises:
            ValueError: as there.
        """
        explainer = self.make_explainer(method, layer, smoothing, path, progress)
        resolved = self.resolve_targets(targets)
        explainer.check(resolved)
        traced = self._trace_all(images, (explainer.layer,), instances) if len(images) else []
        return [
            self.explanation(image, detections, trace, resolved, explainer)
            for image, (detections, trace) in zip(images, traced)
        ]

    def explanation(
        self,
        image_bgr: np.ndarray,
        instances: Instances,
        trace: Trace,
        targets: Sequence[Target],
        explainer: Explainer,
    ) -> Explanation:
        """The explanation of detections that were traced already, see :meth:`trace`.

        Args:
            image_bgr: (h,w,3) uint8, BGR.
            instances: the detections.
            trace: of them.
            targets: from :meth:`resolve_targets`.
            explainer: from :meth:`make_explainer`.
        """
        heat_maps = explain(trace, targets, explainer)
        with torch.no_grad():
            values = {target_name(own): target_output(trace, own).detach() for own in targets if own != "combined"}
        return Explanation(
            image=image_bgr,
            instances=instances,
            heat_maps=heat_maps,
            settings=explainer.settings,
            class_names=self.class_names,
            levels=list(trace.levels),
            values=values,
        )

    def resolve_targets(self, targets: Target | Sequence[Target]) -> list[Target]:
        """Targets with the classes that some of them name, each once.

        Raises:
            ValueError: no target, an unknown one or class, or two of one name.
        """
        several = [targets] if isinstance(targets, str) or callable(targets) else list(targets)
        if not several:
            raise ValueError(f"no target was named; valid targets are {', '.join(TARGETS)}")
        return list(name_targets([resolve_target(target, self.class_names) for target in several]).values())

    def make_explainer(
        self,
        method: str | None = None,
        layer: str | None = None,
        smoothing: str | None = None,
        path: str | None = None,
        progress: Progress | None = None,
    ) -> Explainer:
        """What :meth:`explain` explains with: ``explainer(trace, target)``; arguments as there.

        Raises:
            ValueError: an unknown name; the valid ones are listed.
        """
        said = {"method": method, "layer": layer, "smoothing": smoothing, "path": path}
        said = {name: value for name, value in said.items() if value is not None}
        settings = replace(self.settings, **said)
        kind = METHODS[settings.method].kind
        if kind != "gradients" and said.keys() - {"method"}:
            does = "looks at attention" if kind == "attention" else "runs the whole detector"
            raise ValueError(f"{settings.method} {does}: it has no layers, smoothing and paths to choose from")
        explainer = make_explainer(settings, self.model, progress)
        self.check_layers((explainer.layer,))
        return explainer

    def explain_nms(self, image_bgr: np.ndarray) -> tuple[Instances, Suppression]:
        """Detect, and say what NMS did: which candidates it removed, on account of whom, and why.

        Args:
            image_bgr: (h,w,3) uint8, BGR.

        Returns:
            the detections as ``predictor(image_bgr)`` gives them, and NMS's record with boxes in image pixels.
        """
        observation = self.observe([image_bgr], self.model.nms.layers)
        (instances,) = observation.detections()
        done = observation.suppression(0)
        scale = [size / network for size, network in zip(instances.image_size, done.image_size)]
        boxes = done.boxes * done.boxes.new_tensor([scale[1], scale[0]] * 2)
        return without_place(instances), replace(done, boxes=boxes, image_size=instances.image_size)

    def _trace_all(
        self, images: Sequence[np.ndarray], layers: Sequence[str], instances: Chosen
    ) -> list[tuple[Instances, Trace]]:
        """The chosen detections of every image, and their traces."""
        observation = self.observe(images, layers)
        traced = []
        for i, found in enumerate(observation.detections()):
            chosen = found[choose_detections(found, instances, self.class_names)]
            traced.append((without_place(chosen), observation.trace_detections(i, chosen)))
        return traced


def check_image(image: Any) -> None:
    """Refuse what is not an image as Detectron2's predictors take it, or one in which nothing can be seen.

    Raises:
        ValueError: says what it is instead.
    """
    remedy = "odam_d2.read_image(path) reads a file as (height, width, 3) uint8 BGR"
    if not isinstance(image, np.ndarray):
        raise ValueError(f"an image must be a NumPy array, not {type(image).__name__}; {remedy}")
    if image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise ValueError(f"an image must have shape (height, width, 3), not {image.shape}; {remedy}")
    if image.dtype != np.uint8:
        raise ValueError(f"an image must hold uint8 values, not {image.dtype}; {remedy}")
    check_sides(*image.shape[:2], "the image")
