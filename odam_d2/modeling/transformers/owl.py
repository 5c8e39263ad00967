"""OWLv2, whose patches are compared with phrases: :class:`ODAMOWL`.

Shapes: N images, P patches, K phrases, T tokens, C channels, S side of the square that the network takes.
"""

from collections.abc import Sequence
from typing import Any

from detectron2.config import configurable
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.structures import ImageList
from torch import Tensor, nn

from odam_d2.modeling.clip.towers import Layer, kept_maps
from odam_d2.modeling.transformers.observation import QueryObservation
from odam_d2.modeling.transformers.phrases import PhraseDetector
from odam_d2.modeling.transformers.recording import Recording

# Of the border that makes a photograph square, from 0 to 255: what the network was trained with.
GREY = 127.5


@META_ARCH_REGISTRY.register()
class ODAMOWL(PhraseDetector):
    """OWLv2 with Detectron2's inputs and outputs, and :meth:`observe`.

    Its classes are the phrases of a text, and a place is a patch of the image. Images are at most S pixels high and
    wide, and the network sees them in the upper left corner of a grey square; they should fill it in one direction, as
    ``INPUT.MIN_SIZE_TEST`` and ``MAX_SIZE_TEST`` of S make them.

    Layers are ``block1``, ``block2``, ... of the vision transformer; ``fpn`` is the last. The block after it is none: a
    prediction depends on its own patch of that block and on the class token alone.

    Args:
        network: what ``AutoModelForZeroShotObjectDetection`` gives.
        tokenizer: of the network.
        text: phrases that end in a full stop, such as ``a bottle. a banana.``
        **kwargs: as of :class:`ODAMDETR`.

    Raises:
        ValueError: a text without phrases, or with one that is too long.
    """

    architecture = "ODAMOWL"

    @configurable
    def __init__(self, *, network: Any, tokenizer: Any, text: str, **kwargs: Any):
        super().__init__(network=network, text=text, **kwargs)
        most = network.config.text_config.max_position_embeddings
        tokens, mask = tokenize_phrases(tokenizer, self.class_names, most)
        self.register_buffer("tokens", tokens, persistent=False)
        self.register_buffer("token_mask", mask, persistent=False)

    @property
    def strides(self) -> dict[str, int]:
        """Network-input pixels per cell of every layer but ``fpn``, by name."""
        return {name: layer.stride for name, layer in self._blocks().items()}

    @property
    def last_stage(self) -> str:
        """What ``fpn`` means."""
        return list(self._blocks())[-1]

    def text_inputs(self, count: int) -> dict[str, Tensor]:
        """The tokens of all phrases, the same for each image, (N*K,T)."""
        return {"input_ids": self.tokens.repeat(count, 1), "attention_mask": self.token_mask.repeat(count, 1)}

    def read_classes(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and scores of the phrases, (P,K) each."""
        return logits, logits.sigmoid()

    def preprocess_image(self, batched_inputs: Sequence[dict[str, Any]]) -> ImageList:
        """Normalise images and put each into the corner of a grey square.

        Raises:
            ValueError: an image that is larger.
        """
        side = self.network.config.vision_config.image_size
        images = [one["image"].to(self.device) for one in batched_inputs]
        squares = self.pixel_mean.new_full((len(images), 3, side, side), GREY)
        for i, image in enumerate(images):
            height, width = image.shape[1:]
            if max(height, width) > side:
                raise ValueError(
                    f"an image has {height} x {width} pixels, and this detector takes at most {side}; set "
                    f"INPUT.MIN_SIZE_TEST and INPUT.MAX_SIZE_TEST to {side}"
                )
            squares[i, :, :height, :width] = image
        sizes = [(int(image.shape[1]), int(image.shape[2])) for image in images]
        return ImageList((squares - self.pixel_mean) / self.pixel_std, sizes)

    def layer_groups(self) -> dict[str, list[nn.Parameter]]:
        """Implements :class:`odam_d2.modeling.explainable.ExplainableDetector`."""
        network = self.network
        vision = network.owlv2.vision_model
        heads = [network.class_head, network.box_head, network.layer_norm, vision.post_layernorm]
        groups = {"predictors": [own for head in heads for own in head.parameters()]}
        groups["text"] = [*network.owlv2.text_model.parameters(), *network.owlv2.text_projection.parameters()]
        for number, block in reversed(list(enumerate(vision.encoder.layers, 1))):
            groups[f"block.{number}"] = list(block.parameters())
        groups["patches"] = [*vision.embeddings.parameters(), *vision.pre_layernorm.parameters()]
        return groups

    def _blocks(self) -> dict[str, Layer]:
        vision = self.network.config.vision_config
        side = vision.image_size // vision.patch_size
        blocks = list(self.network.owlv2.vision_model.encoder.layers)[:-1]
        return {f"block{i}": Layer(block, vision.patch_size, (side, side)) for i, block in enumerate(blocks, 1)}

    def _run(
        self, images: ImageList, part: slice, layers: Sequence[str], places_of: QueryObservation | None
    ) -> tuple[Any, Recording]:
        # Places are patches, in every image the same: other observations have nothing to give.
        pixels, blocks = images.tensor[part], self._blocks()
        if layers and not pixels.requires_grad:
            # So that a graph is recorded even where all weights are frozen.
            pixels = pixels.detach().requires_grad_()
        with kept_maps(blocks, list(blocks) if layers else []) as maps:
            output = self.network(pixel_values=pixels, **self.text_inputs(len(pixels)))
        return output, Recording(stages=list(maps.values()))


def tokenize_phrases(tokenizer: Any, phrases: Sequence[str], most: int) -> tuple[Tensor, Tensor]:
    """Phrases as tokens, each for itself.

    Args:
        tokenizer: of the network.
        phrases: from :func:`odam_d2.modeling.transformers.phrases.split_phrases`.
        most: tokens that the network has room for.

    Returns:
        tokens and which of them count, (K,T) int64 each.

    Raises:
        ValueError: a phrase with more tokens.
    """
    for phrase in phrases:
        count = len(tokenizer(phrase)["input_ids"])
        if count > most:
            raise ValueError(f"the phrase {phrase!r} has {count} tokens, and the network takes {most}; shorten it")
    encoded = tokenizer(list(phrases), padding="max_length", max_length=most, return_tensors="pt")
    return encoded["input_ids"], encoded["attention_mask"]
