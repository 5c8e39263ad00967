"""Transformer detectors that can be asked why: :class:`ODAMDETR`."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.structures import ImageList, Instances
from detectron2.utils import comm
from detectron2.utils.events import get_event_storage, has_event_storage
from torch import Tensor, nn

from odam_d2.modeling.explainable import Observation, check_layers, evaluating, with_nms_layers, without_place
from odam_d2.modeling.nms import detector_nms
from odam_d2.modeling.transformers.families import family_of
from odam_d2.modeling.transformers.library import DETECTORS, build_network, read_weights
from odam_d2.modeling.transformers.observation import QueryObservation
from odam_d2.modeling.transformers.parts import freeze_stages, transformer_groups
from odam_d2.modeling.transformers.recording import (
    STAGE,
    Recording,
    count_queries,
    full_mask,
    laid_out_gradients,
    layer_strides,
    projections_of,
    recording,
)
from odam_d2.modeling.transformers.weights import PREFIX, adapt
from odam_d2.nms.family import NMS, GreedyNMS

# What COCO's unused category numbers are called among the classes of published models.
UNUSED = "N/A"


@META_ARCH_REGISTRY.register()
class ODAMDETR(nn.Module):
    """A detector of Hugging Face's ``transformers`` with Detectron2's inputs and outputs, and :meth:`observe`.

    DETR, Conditional DETR, Deformable DETR, RT-DETR, RT-DETRv2 and D-FINE. Classes whose name is ``N/A``, COCO's unused
    category numbers, are left out: the others are then numbered as Detectron2 numbers COCO's.

    Args:
        network: what ``AutoModelForObjectDetection`` gives; its attention is computed eagerly from here on.
        pixel_mean: of the channels, in the order in which images come.
        pixel_std: of the channels.
        test_score_thresh: detections score more than this, in [0,1].
        test_nms_thresh: IoU threshold of NMS; 1, as these detectors are meant, for none.
        max_detections_per_image: the best are kept.
        nms: the last step of inference.

    Raises:
        ValueError: a model of another kind.
    """

    # At which an NMS that compares maps looks at all candidates.
    batched_layer = "fpn"
    # See :attr:`odam_d2.modeling.transformers.families.Family.architecture`.
    architecture = "ODAMDETR"
    # What its networks are made by.
    kind = DETECTORS

    @configurable
    def __init__(
        self,
        *,
        network: nn.Module,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        test_score_thresh: float = 0.0,
        test_nms_thresh: float = 1.0,
        max_detections_per_image: int = 100,
        nms: NMS | None = None,
    ):
        super().__init__()
        self.family = family_of(network)
        if self.family.architecture != self.architecture:
            raise ValueError(
                f"{self.family.title} is no network for {type(self).__name__}; use {self.family.architecture}"
            )
        network.set_attn_implementation("eager")
        self.network = network
        labels = network.config.id2label
        own = [index for index in range(network.config.num_labels) if labels[index] != UNUSED]
        self.register_buffer("class_columns", torch.tensor(own), persistent=False)
        names = [labels[index] for index in own]
        # What the library calls classes of which it knows nothing but the number.
        self.class_names = [] if all(name == f"LABEL_{i}" for i, name in zip(own, names)) else names
        self.num_classes = len(own)
        self.test_score_thresh, self.test_nms_thresh = test_score_thresh, test_nms_thresh
        self.max_detections_per_image, self.nms = max_detections_per_image, nms or GreedyNMS()
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), persistent=False)
        self._strides: dict[str, int] = {}

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Translate ``MODEL.TRANSFORMERS`` into constructor arguments.

        Raises:
            ValueError: what this detector does not have: losses on maps, embeddings.
        """
        if cfg.ODAM.TRAIN.ENABLED:
            raise ValueError(f"ODAM.TRAIN.ENABLED is True, and {cls.__name__} has no losses on maps; set it to False")
        if dim := cfg.ODAM.EMBEDDING.DIM:
            raise ValueError(f"ODAM.EMBEDDING.DIM is {dim}, and {cls.__name__} has no embeddings; set 0")
        options = cfg.MODEL.TRANSFORMERS
        return {
            "network": cls.network_from_config(cfg),
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "test_score_thresh": options.SCORE_THRESH_TEST,
            "test_nms_thresh": options.NMS_THRESH_TEST,
            "max_detections_per_image": cfg.TEST.DETECTIONS_PER_IMAGE,
            "nms": detector_nms(cfg, cls.batched_layer),
        }

    @classmethod
    def network_from_config(cls, cfg: CfgNode) -> nn.Module:
        """The network that ``MODEL.TRANSFORMERS`` names, with the stages frozen that are not trained."""
        options = cfg.MODEL.TRANSFORMERS
        network = build_network(options.NAME, options.CONFIG, options.NUM_CLASSES, cls.kind)
        freeze_stages(network, cfg.MODEL.BACKBONE.FREEZE_AT)
        return network

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        return self.pixel_mean.device

    @property
    def strides(self) -> dict[str, int]:
        """Network-input pixels per cell of every layer but ``fpn``, by name; the network runs once to find out."""
        if not self._strides:
            with evaluating(self, gradients=False):
                self._strides = layer_strides(self.network, self.family, self.text_inputs(1))
        return self._strides

    @property
    def last_stage(self) -> str:
        """The backbone's last stage, such as ``res5``: what ``fpn`` means for a transformer."""
        return [name for name in self.strides if name.startswith(STAGE)][-1]

    @property
    def layers(self) -> list[str]:
        """Layers this detector can be explained at.

        The stages that its backbone hands out, the projection of each, the encoder's output put back into the image,
        and ``fpn``, which is the last stage.
        """
        return [*self.strides, "fpn"]

    def observe(
        self,
        batched_inputs: Sequence[dict[str, Any]],
        layers: Sequence[str] = ("fpn",),
        places_of: Observation | Sequence[Tensor] | None = None,
    ) -> QueryObservation:
        """Implements :class:`odam_d2.modeling.explainable.ExplainableDetector`.

        Where the queries are the best locations of an image, ``places_of`` gives the locations.
        """
        check_layers(layers, self.layers)
        layers = with_nms_layers(layers, self.nms)
        if places_of is not None and not isinstance(places_of, QueryObservation):
            raise ValueError("a transformer's places are queries; the other observation is of a detector without")
        with evaluating(self, gradients=bool(layers)):
            images = self.preprocess_image(batched_inputs)
            self._check_size(images)
            # A graph cannot be cut into images afterwards.
            parts = [slice(i, i + 1) for i in range(len(images))] if layers else [slice(0, len(images))]
            runs = [self._run(images, part, layers, places_of) for part in parts]
            logits = torch.cat([output.logits for output, _ in runs])
            boxes = torch.cat([output.pred_boxes for output, _ in runs])
        return QueryObservation(self, layers, images, logits, boxes, [seen for _, seen in runs], batched_inputs)

    def _run(
        self, images: ImageList, part: slice, layers: Sequence[str], places_of: QueryObservation | None
    ) -> tuple[Any, Recording]:
        """The network's output for some images, and what else it left behind."""
        pixels, sizes = images.tensor[part], images.image_sizes[part]
        selected = None
        if places_of is not None:
            given = [places_of.selected(image) for image in range(len(places_of))][part]
            selected = None if any(own is None for own in given) else torch.cat(given)
        below = {name for name in self.strides if name.startswith(STAGE)} - {self.last_stage}
        from_pixels = pixels.requires_grad
        leaves = bool(layers) and not from_pixels and not below & set(layers)
        if layers and not leaves and not from_pixels:
            # So that a graph is recorded even where all weights are frozen.
            pixels = pixels.detach().requires_grad_()
        with recording(self.network, self.family, leaves, bool(layers), selected) as seen:
            mask = full_mask(pixels, sizes)
            output = self.network(pixel_values=pixels, pixel_mask=mask, **self.text_inputs(len(pixels)))
        return output, seen

    def read_classes(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and probabilities of the classes, (Q,K) each, from the library's logits, (Q,C)."""
        probabilities = logits.softmax(dim=-1) if self.family.no_object else logits.sigmoid()
        return logits[:, self.class_columns], probabilities[:, self.class_columns]

    def text_inputs(self, count: int) -> dict[str, Tensor]:
        """What else the network takes for so many images; nothing but for detectors of phrases."""
        return {}

    def preprocess_image(self, batched_inputs: Sequence[dict[str, Any]]) -> ImageList:
        """Normalise images and pad them to a common size, of sides that the network can take."""
        images = [(one["image"].to(self.device) - self.pixel_mean) / self.pixel_std for one in batched_inputs]
        return ImageList.from_tensors(images, self.family.divisibility)

    def _check_size(self, images: ImageList) -> None:
        """Refuse images with fewer locations than queries are chosen from.

        Raises:
            ValueError: names the size.
        """
        if not (self.family.selection or getattr(self.network.config, "two_stage", False)):
            return
        height, width = images.tensor.shape[-2:]
        count = len(projections_of(self.network, self.family))
        strides = list(self.strides.values())[-count:]
        locations = sum(-(-height // stride) * -(-width // stride) for stride in strides)
        if locations < count_queries(self.network):
            raise ValueError(
                f"an image of {height} x {width} pixels has {locations} locations, and this detector chooses "
                f"{count_queries(self.network)} queries among them; set a larger INPUT.MIN_SIZE_TEST"
            )

    def forward(self, batched_inputs: list[dict[str, Any]]) -> Any:
        """Detections of every image, as Detectron2's models give them; the losses while training."""
        if self.training:
            return self._losses(batched_inputs)
        layers = () if isinstance(self.nms, GreedyNMS) else self.nms.layers
        found = self.observe(batched_inputs, layers).detections()
        return [{"instances": without_place(detections)} for detections in found]

    def _losses(self, batched_inputs: list[dict[str, Any]]) -> dict[str, Tensor]:
        """The library's own loss, weighted and summed by it; its parts go to Detectron2's event storage."""
        images = self.preprocess_image(batched_inputs)
        padded = images.tensor.shape[-2:]
        labels = [
            self._labels(one["instances"].to(self.device), size if self.family.masks else padded)
            for one, size in zip(batched_inputs, images.image_sizes)
        ]
        mask = full_mask(images.tensor, images.image_sizes)
        with laid_out_gradients(self.network):
            output = self.network(pixel_values=images.tensor, pixel_mask=mask, labels=labels)
        if has_event_storage():
            storage = get_event_storage()
            for name, value in output.loss_dict.items():
                storage.put_scalar(f"{self.network.config.model_type}/{name}", float(value.detach()))
        loss = output.loss
        if comm.get_world_size() > 1:
            # Processes wait for a gradient of every weight, and without objects some weights have none.
            loss = loss + 0.0 * sum(weight.sum() for weight in self.parameters() if weight.requires_grad)
        return {"loss_detr": loss}

    def _labels(self, objects: Instances, size: Sequence[int]) -> dict[str, Tensor]:
        """Ground truth as the library takes it: centre and size in parts of an image of ``size`` (h,w).

        Raises:
            ValueError: regions to ignore, or a class that the detector does not have.
        """
        if objects.has("gt_ignore"):
            raise ValueError("ODAMDETR would learn ignore regions as objects; set ODAM.INPUT.IGNORE_REGIONS to False")
        if len(objects) and int(objects.gt_classes.max()) >= self.num_classes:
            raise ValueError(
                f"an object has class {int(objects.gt_classes.max())}, and the detector has {self.num_classes} classes "
                "from 0 on; set MODEL.TRANSFORMERS.NUM_CLASSES to the number of the dataset's"
            )
        boxes = objects.gt_boxes.tensor
        height, width = size
        corners = boxes / boxes.new_tensor([width, height, width, height])
        low, high = corners.split(2, dim=1)
        return {
            "class_labels": self.class_columns[objects.gt_classes],
            "boxes": torch.cat([(low + high) / 2, high - low], dim=1),
        }

    def layer_groups(self) -> dict[str, list[nn.Parameter]]:
        """Implements :class:`odam_d2.modeling.explainable.ExplainableDetector`."""
        return transformer_groups(self.network)

    def read_pretrained(self, path: str) -> dict[str, Tensor]:
        """The weights of a folder that ``save_pretrained`` wrote, or of the hub, by the names they have here.

        Args:
            path: a folder, or ``hf://facebook/detr-resnet-50``.

        Raises:
            ValueError: weights that do not fit.
            OSError: they cannot be read.
        """
        return self.adapt_weights({f"{PREFIX}{name}": value for name, value in read_weights(path, self.kind).items()})

    def adapt_weights(self, weights: Mapping[str, Any]) -> dict[str, Any]:
        """A checkpoint's weights by the names they have here.

        Args:
            weights: of Detectron2's checkpointer, or of Facebook's DETR.

        Raises:
            ValueError: names weights that this detector does not have.
        """
        return adapt(weights, self._known())

    def _known(self) -> Iterable[str]:
        return self.state_dict().keys()
