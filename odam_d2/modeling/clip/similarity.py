"""Why CLIP finds an image and a text alike: section 4.1.6 and Figure 9 of the paper.

Shapes: K texts, C channels of an embedding, (h,w) image as the user sees it, (H,W) image as the network takes it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from odam_d2.explain import GradientExplainer, explain_together
from odam_d2.modeling.clip.library import library, read_model
from odam_d2.modeling.clip.towers import kept_maps, tower_layers
from odam_d2.modeling.explainable import check_layers, evaluating
from odam_d2.structures import HeatMaps, Trace

# How a photograph becomes a square: all of it, with another aspect ratio, or its middle, as CLIP's own evaluation has.
FITS = ("whole", "center")
_RESAMPLING = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


class ImageTextModel:
    """A model of OpenCLIP that can be asked why: :meth:`trace` gives what explainers need.

    A text is a class, and the only place is the whole image: K texts are K predictions of it. The cosine is a target,
    :meth:`cosine`; ``class_logit`` is the cosine times the model's temperature (and plus its bias), ``class_score``
    what the model makes of that, a softmax over the texts at hand or, where it was trained so, a sigmoid of each. The
    boxes are that of the whole image, and have no sides to explain.

    Args:
        network: with the image tower ``visual``, a ResNet or a vision transformer.
        tokenizer: of the network; its own where none is given, which fits the published weights of OpenAI.

    Attributes:
        layers: names of what it can be explained at; the last one is nearest to the embedding.

    Raises:
        ValueError: a tower of another kind.
    """

    def __init__(self, network: nn.Module, tokenizer: Any = None):
        self._layers = tower_layers(network.visual)
        self.network = network
        self.layers = list(self._layers)
        self._tokenizer = tokenizer or library().SimpleTokenizer(context_length=network.context_length)
        own = getattr(network.visual, "preprocess_cfg", {})
        self._mean = torch.tensor(own.get("mean") or library().OPENAI_DATASET_MEAN).view(-1, 1, 1)
        self._std = torch.tensor(own.get("std") or library().OPENAI_DATASET_STD).view(-1, 1, 1)
        self._resampling = _RESAMPLING.get(own.get("interpolation"), Image.Resampling.BICUBIC)

    @classmethod
    def from_pretrained(cls, name: str) -> "ImageTextModel":
        """A model with its weights.

        Args:
            name: a folder, or a model on the hub, see :func:`odam_d2.modeling.clip.library.read_model`.

        Raises:
            ValueError: OpenCLIP is missing or cannot build it.
            OSError: it cannot be read.
        """
        return cls(*read_model(name))

    def __repr__(self) -> str:
        height, width = self.input_size
        return (
            f"ImageTextModel({type(self.network.visual).__name__}, {height} x {width}, layers {', '.join(self.layers)})"
        )

    @property
    def input_size(self) -> tuple[int, int]:
        """(H,W) that every image is brought to."""
        size = self.network.visual.image_size
        return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        return self.network.logit_scale.device

    def pixels(self, image_bgr: np.ndarray) -> Tensor:
        """An image as the network takes it, before normalisation, (3,H,W) from 0 to 255, RGB.

        Args:
            image_bgr: (h,w,3) uint8, BGR; all of it is scaled to the network's square.

        Raises:
            ValueError: not an image.
        """
        if image_bgr.ndim != 3 or image_bgr.shape[2] != 3 or image_bgr.dtype != np.uint8 or not image_bgr.size:
            raise ValueError(f"an image must be (h,w,3) uint8, not {image_bgr.shape} {image_bgr.dtype}")
        picture = Image.fromarray(np.ascontiguousarray(image_bgr[:, :, ::-1]))
        scaled = picture.resize(self.input_size[::-1], self._resampling)
        return torch.from_numpy(np.array(scaled)).permute(2, 0, 1).float()

    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """Embeddings of texts, of length 1, without graph, (K,C).

        Raises:
            ValueError: an empty text, one that occurs twice, or one that is too long.
        """
        for text in texts:
            if not text.strip():
                raise ValueError("a text is empty; write what the image may show, such as 'a bottle'")
            if list(texts).count(text) > 1:
                raise ValueError(f"the text {text!r} occurs twice; each text is a class of its own")
            count, most = self._count_tokens(text), self.network.context_length
            if count > most:
                raise ValueError(f"the text {text!r} has {count} tokens, and the network takes {most}; shorten it")
        with evaluating(self.network, gradients=False):
            if not len(texts):
                return self._mean.new_zeros((0, 1))
            return self.network.encode_text(self._tokenizer(list(texts)).to(self.device), normalize=True)

    def trace(self, image_bgr: np.ndarray, texts: Sequence[str], layers: Sequence[str] = ()) -> Trace:
        """One forward pass, and what explanations need of it: a prediction a text.

        Args:
            image_bgr: (h,w,3) uint8, BGR.
            texts: K of them; none is fine.
            layers: at which it can be explained; default the last.

        Raises:
            ValueError: an unknown layer, a text that cannot be read, or not an image.
        """
        layers = list(layers) or self.layers[-1:]
        check_layers(layers, self.layers)
        embedded, pixels = self.encode_texts(texts), self.pixels(image_bgr)
        with evaluating(self.network, gradients=True), kept_maps(self._layers, layers) as maps:
            # So that a graph is recorded even where all weights are frozen.
            given = ((pixels / 255 - self._mean) / self._std).to(self.device)[None].requires_grad_()
            seen = self.network.encode_image(given.to(self.network.logit_scale.dtype), normalize=True)
            cosines = (seen @ embedded.T)[0] if len(texts) else seen[0, :0]
            count = len(texts)
            scores, logits = (own.expand(count, count) for own in self._scores(cosines))
        height, width = self.input_size
        last = [name for name in self.layers if name in layers][-1]
        return Trace(
            places=torch.zeros(count, dtype=torch.int64, device=self.device),
            classes=torch.arange(count, device=self.device),
            boxes=logits.new_tensor([0, 0, width, height]).expand(count, 4),
            logits=logits,
            class_vectors=scores,
            features=dict(maps),
            strides={name: self._layers[name].stride for name in maps},
            levels=[last] * count,
            layers=layers,
            image_size=(height, width),
            padded_size=(height, width),
            output_size=image_bgr.shape[:2],
            pixels=pixels.to(self.device),
            # Attention gathers the map into the embedding, and a softmax makes every score depend on all texts.
            attends=True,
        )

    def cosine(self, trace: Trace) -> Tensor:
        """The cosine of image and text, a target of every explainer, (K,) in [-1,1] with graph.

        Args:
            trace: of :meth:`trace`.
        """
        logits = trace.logits.gather(1, trace.classes[:, None])[:, 0]
        bias = getattr(self.network, "logit_bias", None)
        return (logits if bias is None else logits - bias.detach()) / self.network.logit_scale.detach().exp()

    def _scores(self, cosines: Tensor) -> tuple[Tensor, Tensor]:
        """What the model makes of cosines: scores and logits, (K,) each."""
        logits = self.network.logit_scale.detach().exp() * cosines
        bias = getattr(self.network, "logit_bias", None)
        if bias is None:
            return logits.softmax(dim=-1), logits
        logits = logits + bias.detach()
        return logits.sigmoid(), logits

    def _count_tokens(self, text: str) -> int:
        """Of a text and its two ends, before anything is cut off."""
        if hasattr(self._tokenizer, "encode"):
            return len(self._tokenizer.encode(text)) + 2
        return len(self._tokenizer.tokenizer(text)["input_ids"])


@dataclass(frozen=True, eq=False, repr=False)
class Similarity:
    """Why an image and each of some texts are alike.

    Args:
        image: what the model saw of the photograph, (h,w,3) uint8 BGR.
        texts: K of them.
        cosines: of the image and each text, (K,) in [-1,1].
        heat_maps: method -> K maps, registered to ``image``.
        layer: where they were made.
    """

    image: np.ndarray
    texts: Sequence[str]
    cosines: Tensor
    heat_maps: Mapping[str, HeatMaps]
    layer: str

    def __repr__(self) -> str:
        shown = ", ".join(f"{text} {cosine:.3f}" for text, cosine in zip(self.texts, self.cosines.tolist()))
        return f"Similarity({shown or 'no texts'}; {', '.join(self.heat_maps)} at {self.layer})"


def explain_similarity(
    model: ImageTextModel,
    image_bgr: np.ndarray,
    texts: Sequence[str],
    methods: Sequence[str] = ("odam", "gradcam"),
    layer: str | None = None,
    fit: str = "whole",
    smoothing: str = "none",
) -> Similarity:
    """Heat maps of the cosine of an image and each text, by several methods from the same gradients.

    Args:
        model: that compares them.
        image_bgr: (h,w,3) uint8, BGR.
        texts: such as ``a bottle``.
        methods: those that take gradients, of :data:`odam_d2.explain.GRADIENT_METHODS`.
        layer: of ``model.layers``; default the last.
        fit: ``whole``: all of the photograph is scaled to the network's square. ``center``: its middle square alone, as
            CLIP is evaluated; the rest is not seen, and not in the result either.
        smoothing: of ODAM's gradients, ``none`` or ``gaussian``.

    Raises:
        ValueError: an unknown name, a text that cannot be read, or not an image.
    """
    if fit not in FITS:
        raise ValueError(f"unknown fit {fit!r}; valid values are {', '.join(FITS)}")
    if not methods:
        raise ValueError("no method was named; name one, such as odam")
    layer = layer or model.layers[-1]
    explainers = {method: GradientExplainer(method, layer, smoothing) for method in methods}
    seen = image_bgr if fit == "whole" else center_square(image_bgr)
    trace = model.trace(seen, texts, [layer])
    maps = explain_together(trace, model.cosine, explainers)
    return Similarity(seen, list(texts), model.cosine(trace).detach(), maps, layer)


def center_square(image: np.ndarray) -> np.ndarray:
    """The middle square of an image, (h,w,3) -> (s,s,3) with s the shorter side."""
    side = min(image.shape[:2])
    top, left = ((length - side) // 2 for length in image.shape[:2])
    return image[top : top + side, left : left + side]
