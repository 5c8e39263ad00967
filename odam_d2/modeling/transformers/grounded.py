"""Detectors whose classes are phrases: :class:`ODAMGrounded`, the kept successors of the paper's GLIP.

Shapes: Q queries, K phrases, T tokens, C tokens that a network has room for.
"""

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.config import configurable
from detectron2.modeling import META_ARCH_REGISTRY
from torch import Tensor

from odam_d2.explain import Target
from odam_d2.modeling.transformers.phrases import STOP, PhraseDetector
from odam_d2.structures import Trace


@META_ARCH_REGISTRY.register()
class ODAMGrounded(PhraseDetector):
    """GroundingDINO and MM-GroundingDINO with Detectron2's inputs and outputs, and :meth:`observe`.

    Its classes are the phrases of a text. A phrase's logit is the largest of its own tokens', its score the sigmoid of
    that; a query is an object of its best phrase. The library's own score also counts tokens that belong to none.

    Args:
        network: what ``AutoModelForZeroShotObjectDetection`` gives.
        tokenizer: of the network.
        text: phrases that end in a full stop, such as ``a bottle. a banana.``
        **kwargs: as of :class:`ODAMDETR`.

    Raises:
        ValueError: a text without phrases, with one that the tokenizer does not know, or that is too long.
    """

    architecture = "ODAMGrounded"

    @configurable
    def __init__(self, *, network: Any, tokenizer: Any, text: str, **kwargs: Any):
        super().__init__(network=network, text=text, **kwargs)
        tokens, self.phrase_tokens, self.words = tokenize(tokenizer, self.class_names, network.config.max_text_len)
        self.register_buffer("tokens", tokens, persistent=False)

    def token_target(self, word: str) -> Target:
        """The score of one word of the text as a target: the sigmoid of the largest logit of its tokens.

        Args:
            word: of the text, in lower case; where it occurs several times, all count.

        Raises:
            ValueError: the text does not hold the word.
        """
        if word not in self.words:
            raise ValueError(f"the text has no word {word!r}; its words are {', '.join(self.words)}")
        tokens = self.words[word]

        def score(trace: Trace) -> Tensor:
            return trace.tokens[:, tokens].amax(dim=1).sigmoid()

        score.__name__ = f"token_score[{word}]"
        return score

    def text_inputs(self, count: int) -> dict[str, Tensor]:
        """The tokens of the text, the same for each image."""
        tokens = self.tokens.expand(count, -1)
        return {
            "input_ids": tokens,
            "attention_mask": torch.ones_like(tokens),
            "token_type_ids": torch.zeros_like(tokens),
        }

    def read_classes(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and scores of the phrases, (Q,K) each."""
        own = torch.stack([logits[:, tokens].amax(dim=1) for tokens in self.phrase_tokens], dim=1)
        return own, own.sigmoid()


def tokenize(tokenizer: Any, phrases: Sequence[str], most: int) -> tuple[Tensor, list[list[int]], dict[str, list[int]]]:
    """The text that the phrases make, as tokens.

    Args:
        tokenizer: of the network.
        phrases: from :func:`odam_d2.modeling.transformers.phrases.split_phrases`.
        most: tokens that the network has room for.

    Returns:
        its tokens (1,T), the positions of each phrase's among them, and those of each word's.

    Raises:
        ValueError: an unknown phrase, or too many tokens.
    """
    text = " ".join(f"{phrase}{STOP}" for phrase in phrases)
    encoded = tokenizer(text, return_offsets_mapping=True)
    ids, offsets = encoded["input_ids"], encoded["offset_mapping"]
    if len(ids) > most:
        raise ValueError(f"the text of {len(phrases)} phrases has {len(ids)} tokens, and the network takes {most}")

    def between(start: int, end: int) -> list[int]:
        # Special tokens span no characters.
        return [i for i, (first, last) in enumerate(offsets) if start <= first < last <= end]

    positions, words, start = [], {}, 0
    for phrase in phrases:
        own = between(start, start + len(phrase))
        if not own or any(ids[i] == tokenizer.unk_token_id for i in own):
            raise ValueError(f"the tokenizer does not know the phrase {phrase!r}; use other words")
        positions.append(own)
        for word in phrase.split():
            words.setdefault(word, []).extend(between(start, start + len(word)))
            start += len(word) + 1
        start += len(STOP)
    return torch.tensor([ids]), positions, words
