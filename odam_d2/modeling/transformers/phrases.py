"""Detectors whose classes are the phrases of a text: what they share."""

from typing import Any

from detectron2.config import CfgNode
from torch import Tensor, nn

from odam_d2.modeling.transformers.detector import ODAMDETR
from odam_d2.modeling.transformers.library import GROUNDED, build_network, read_tokenizer

# What ends a phrase.
STOP = "."


class PhraseDetector(ODAMDETR):
    """A detector of the library that looks for what a text names. It is explained, and not trained here.

    Args:
        network: what ``AutoModelForZeroShotObjectDetection`` gives.
        text: phrases that end in a full stop, such as ``a bottle. a banana.``
        **kwargs: as of :class:`ODAMDETR`.

    Raises:
        ValueError: a text without phrases.
    """

    kind = GROUNDED

    def __init__(self, *, network: Any, text: str, **kwargs: Any):
        super().__init__(network=network, **kwargs)
        self.class_names = split_phrases(text)
        self.num_classes = len(self.class_names)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Translate ``MODEL.TRANSFORMERS`` into constructor arguments.

        Raises:
            ValueError: no text, or no name of a network, whose tokenizer is needed.
        """
        options = cfg.MODEL.TRANSFORMERS
        split_phrases(options.TEXT)
        if not options.NAME:
            raise ValueError(f"{cls.__name__} reads the tokenizer of a model, too; name it in MODEL.TRANSFORMERS.NAME")
        return super().from_config(cfg) | {"tokenizer": read_tokenizer(options.NAME), "text": options.TEXT}

    @classmethod
    def network_from_config(cls, cfg: CfgNode) -> nn.Module:
        """Overrides :class:`ODAMDETR`'s: of a network that is not trained no stage is frozen."""
        options = cfg.MODEL.TRANSFORMERS
        return build_network(options.NAME, options.CONFIG, options.NUM_CLASSES, cls.kind)

    def _losses(self, batched_inputs: list[dict[str, Any]]) -> dict[str, Tensor]:
        name = type(self).__name__
        raise ValueError(f"{name} is not trained here; train ODAMDETR, or use weights that are trained already")


def split_phrases(text: str) -> list[str]:
    """The phrases of a text, lower-case, in order.

    Args:
        text: such as ``a bottle. a banana.``

    Raises:
        ValueError: there is none, or one occurs twice.
    """
    phrases = [" ".join(part.lower().split()) for part in text.split(STOP) if part.strip()]
    if not phrases:
        raise ValueError(f"the text {text!r} names nothing to look for; write phrases such as 'a bottle. a banana.'")
    twice = [phrase for phrase in phrases if phrases.count(phrase) > 1]
    if twice:
        raise ValueError(f"the text {text!r} names {twice[0]!r} twice; each phrase is a class of its own")
    return phrases
