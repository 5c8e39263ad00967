"""The protocol of a detector that can be asked: one forward pass, an :class:`Observation`, answers every question.

Shapes: N images, L places, D predictions, (h,w) network input before padding, (H,W) padded, (ho,wo) image as the user
sees it.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

import torch
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn

from odam_d2.nms.candidates import Candidates, Suppression
from odam_d2.nms.family import NMS
from odam_d2.structures import Predictions, Size, Trace

# Fields of detections beside Detectron2's: the place of each, and what ODAM-NMS compared.
PLACE, NMS_MAPS = "place", "nms_maps"
Answer = TypeVar("Answer")


class ExplainableDetector(Protocol):
    """What the predictor, NMS, D-RISE, Deletion, evaluators and sanity checks ask of a detector.

    Attributes:
        num_classes: without background.
        layers: names of the layers it can be explained at: its backbone's bottom-up stages, ``fpn``, which is the map
            that a prediction is made from, and ``roi_pool`` where it pools regions. A detector may have others.
        nms: the last step of its inference.
    """

    num_classes: int
    layers: list[str]
    nms: NMS

    def __call__(self, batched_inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Detect, as Detectron2's models do in evaluation mode: ``instances`` of every image."""

    def observe(
        self,
        batched_inputs: Sequence[dict[str, Any]],
        layers: Sequence[str] = ("fpn",),
        places_of: "Observation | Sequence[Tensor] | None" = None,
    ) -> "Observation":
        """One forward pass in evaluation mode, for everything there is to ask. The detector is left as it was found.

        Images are padded to a common size, as Detectron2 does it: a large neighbour can change an image's scores a
        little through the padding.

        Args:
            batched_inputs: as Detectron2's models take them: ``image`` (3,h,w), ``height``, ``width``. Where an image
                requires a gradient and there are layers, all that is traced has a graph down to its pixels.
            layers: at which predictions will be explained; () for none, which records no graph.
            places_of: an observation of the same images, perhaps with other weights or by another detector, whose
                places are to be looked at: a two-stage detector takes its regions, a transformer the locations that
                became queries, a dense one has the same anyway. Or, of a two-stage detector, the regions themselves:
                for each image what every stage pools, (R,S,4), XYXY in network-input pixels, such as
                ``trace.regions.stage_boxes``.

        Raises:
            ValueError: an unknown layer, or places that this detector does not have.
        """

    def layer_groups(self) -> dict[str, list[nn.Parameter]]:
        """The layers behind an explained output by name, from the top down, for cascading randomisation."""


def check_explainable(model: nn.Module) -> ExplainableDetector:
    """The model itself, if it can be explained.

    Raises:
        ValueError: it lacks part of the protocol.
    """
    # Not isinstance: from Python 3.12 on a protocol's sees none of a module's buffers and submodules.
    if not all(hasattr(model, name) for name in ("num_classes", "layers", "nms", "observe", "layer_groups")):
        raise ValueError(
            f"{type(model).__name__} cannot be explained; set MODEL.META_ARCHITECTURE to ODAMFCOS, ODAMRetinaNet, "
            "ODAMRCNN, ODAMDETR, ODAMGrounded or ODAMOWL, or give your own detector what "
            "odam_d2.modeling.ExplainableDetector asks for"
        )
    # What its parts cannot do, it says when they are looked at.
    _ = model.layers, model.nms
    return model


def check_layers(layers: Sequence[str], valid: Sequence[str]) -> None:
    """Refuse a layer the detector does not have.

    Raises:
        ValueError: lists the valid layers.
    """
    for layer in layers:
        if layer not in valid:
            raise ValueError(f"unknown layer {layer!r}; this detector's layers are {', '.join(valid)}")


def with_nms_layers(layers: Sequence[str], nms: NMS) -> tuple[str, ...]:
    """The layers to observe: those asked for, and those at which NMS compares maps; none where none are asked for."""
    return tuple(dict.fromkeys((*layers, *nms.layers))) if layers else ()


@contextmanager
def evaluating(model: nn.Module, gradients: bool) -> Iterator[None]:
    """Evaluation mode, with or without autograd, whatever the caller's modes are; all is restored, also on an error.

    Raises:
        ValueError: gradients under ``torch.inference_mode``, where no graph can be recorded.
    """
    if gradients and torch.is_inference_mode_enabled():
        raise ValueError("explanations need gradients: call outside torch.inference_mode()")
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.set_grad_enabled(gradients):
            yield
    finally:
        for module, training in modes:
            module.training = training


class Observation(ABC):
    """What one forward pass over a batch of images leaves behind, as a value: no call changes what another returns.

    A detector's own observation says what its places are: ``_candidates``, ``_predictions``, ``_trace``,
    ``_nms_limits`` and ``_postprocess``. All else is here.

    Answers that need parts of the detector to run again use the weights it then has: ask before you change them. They
    run under autocast if the detector did.

    Args:
        detector: whose it is; its ``nms`` decides on detections.
        layers: at which predictions can be explained; () for none.
        image_sizes: (h,w) of each image.
        padded_size: (H,W).
        inputs: as Detectron2's models take them; empty where the images did not come that way, as inside training.
        evaluation: whether it was made in evaluation mode, in which whatever runs again runs too. False: the modes are
            the caller's, as inside training.
    """

    def __init__(
        self,
        detector: nn.Module,
        layers: Sequence[str],
        image_sizes: Sequence[Size],
        padded_size: Sequence[int],
        inputs: Sequence[dict[str, Any]] = (),
        evaluation: bool = True,
    ):
        self.detector, self.layers = detector, tuple(layers)
        self.image_sizes = [(int(h), int(w)) for h, w in image_sizes]
        self.padded_size = (int(padded_size[0]), int(padded_size[1]))
        self.inputs, self.evaluation = inputs, evaluation
        self._answers: dict[tuple[str, int], Any] = {}
        device = next((weights.device.type for weights in detector.parameters()), "cpu")
        self._autocast = {"enabled": torch.is_autocast_enabled(device), "dtype": torch.get_autocast_dtype(device)}
        self._device_type = device

    def __len__(self) -> int:
        return len(self.image_sizes)

    def __repr__(self) -> str:
        sizes = ", ".join(f"{h} x {w}" for h, w in self.image_sizes[:4]) + (", ..." if len(self) > 4 else "")
        return f"{type(self).__name__}({len(self)} images of {sizes}; layers {', '.join(self.layers) or 'none'})"

    def candidates(self, image: int) -> Candidates:
        """The predictions of an image that enter NMS."""
        return self._once("candidates", image, lambda: self._in_mode(False, self._candidates, image))

    def predictions(self, image: int) -> Predictions:
        """Everything the detector says about an image, without graph."""
        return self._in_mode(False, self._predictions, image)

    def suppression(self, image: int) -> Suppression:
        """What the detector's NMS did with the candidates of an image."""

        def suppress() -> Suppression:
            return self._in_mode(False, self.detector.nms, self.candidates(image), *self._nms_limits())

        return self._once("suppression", image, suppress)

    def detections(self) -> list[Instances]:
        """The detections of every image, as the detector itself returns them, each with its ``place``, (D,) int64.

        With ODAM-NMS also ``nms_maps`` (D,gh,gw), the maps it compared.
        """
        return self._postprocess(self.raw_detections())

    def raw_detections(self) -> list[Instances]:
        """:meth:`detections` in network-input pixels, as the detector has them before it scales them to the image."""
        return [self._in_mode(False, self._raw_detections, image) for image in range(len(self))]

    def trace(self, image: int, places: Tensor, classes: Tensor) -> Trace:
        """What explaining some predictions needs.

        Args:
            image: number of the image in the batch.
            places: (D,) int64, any places, any number of times.
            classes: the class as whose object each is explained, (D,) int64.

        Raises:
            ValueError: a place or class that does not exist, or an observation that recorded no graph.
        """
        if not self.layers:
            raise ValueError("nothing can be traced: the detector was observed with layers=(), which records no graph")
        return self._in_mode(True, self._trace, image, places, classes)

    def trace_detections(self, image: int, detections: Instances) -> Trace:
        """The trace of some of an image's :meth:`detections`, as objects of the classes they were detected as."""
        return self.trace(image, detections.get(PLACE), detections.pred_classes)

    def output_size(self, image: int) -> Size:
        """(ho,wo) of an image: its ``height`` and ``width``, else the size of the network input."""
        height, width = self.image_sizes[image]
        own = self.inputs[image] if self.inputs else {}
        return int(own.get("height", height)), int(own.get("width", width))

    def pixels(self, image: int) -> Tensor | None:
        """What the detector was given as an image, (3,h,w)."""
        return self.inputs[image]["image"] if self.inputs else None

    @abstractmethod
    def _candidates(self, image: int) -> Candidates:
        """Called by :meth:`candidates` without autograd, once an image."""

    @abstractmethod
    def _predictions(self, image: int) -> Predictions:
        """Called by :meth:`predictions` without autograd."""

    @abstractmethod
    def _trace(self, image: int, places: Tensor, classes: Tensor) -> Trace:
        """Called by :meth:`trace` with autograd; it refuses what :func:`check_predictions` does."""

    @abstractmethod
    def _nms_limits(self) -> tuple[float, int]:
        """IoU threshold of NMS, and how many detections of an image are kept (negative for all)."""

    @abstractmethod
    def _postprocess(self, found: list[Instances]) -> list[Instances]:
        """Network-input pixels to image pixels, by Detectron2's own function."""

    def _raw_detections(self, image: int) -> Instances:
        done, candidates = self.suppression(image), self.candidates(image)
        kept = Instances(self.image_sizes[image])
        kept.pred_boxes = Boxes(candidates.boxes[done.keep])
        kept.scores = done.kept_scores
        kept.pred_classes = candidates.classes[done.keep]
        kept.set(PLACE, candidates.places[done.keep])
        if done.maps is not None:
            kept.set(NMS_MAPS, done.maps[done.keep])
        return kept

    def _in_mode(self, gradients: bool, ask: Callable[..., Answer], *arguments: Any) -> Answer:
        """Run part of the detector as it ran when it was observed."""
        modes = evaluating(self.detector, gradients) if self.evaluation else torch.set_grad_enabled(gradients)
        with modes, torch.autocast(self._device_type, **self._autocast):
            return ask(*arguments)

    def _once(self, name: str, image: int, make: Callable[[], Answer]) -> Answer:
        """An answer that is worked out when it is first asked for."""
        if (name, image) not in self._answers:
            self._answers[name, image] = make()
        return self._answers[name, image]


def without_place(detections: Instances) -> Instances:
    """Detections as Detectron2's users know them: the same without the field ``place``."""
    return Instances(
        detections.image_size, **{name: value for name, value in detections.get_fields().items() if name != PLACE}
    )


def check_predictions(places: Tensor, classes: Tensor, num_places: int, num_classes: int) -> None:
    """Refuse predictions that a detector cannot have made.

    Raises:
        ValueError: names the first that does not exist.
    """
    if places.shape != classes.shape or places.dim() != 1:
        raise ValueError(
            f"places and classes must be two lists of one length, not of shapes {tuple(places.shape)} and "
            f"{tuple(classes.shape)}"
        )
    for what, values, count in (("place", places, num_places), ("class", classes, num_classes)):
        wrong = values[(values < 0) | (values >= count)]
        if len(wrong):
            raise ValueError(f"there is no {what} {int(wrong[0])}; this detector has {count}, numbered from 0")
