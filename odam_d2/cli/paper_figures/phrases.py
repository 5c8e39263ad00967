"""Figure 8: ODAM and Grad-CAM of what a detector of phrases finds."""

import argparse
import string
from pathlib import Path
from typing import Any

import torch
from detectron2.structures import Instances

from odam_d2.cli.arguments import add_opts
from odam_d2.cli.paper_figures.common import Detector, PaperFigure, add_image_options, check_images, load_detectors
from odam_d2.cli.paper_figures.methods import add_method_options, write_by_methods
from odam_d2.explain import ExplainSettings
from odam_d2.model_zoo.files import get_model_file
from odam_d2.modeling import ODAMGrounded
from odam_d2.modeling.transformers.library import GROUNDED, build_network, library
from odam_d2.predictor import ODAMPredictor
from odam_d2.show.words import plural

DESCRIPTION = """Figure 8: ODAM and Grad-CAM of what a detector of phrases finds.

A row is one of the surest detections of a phrase. The paper explains GLIP; its kept successors are GroundingDINO,
MM-GroundingDINO and OWLv2, whose weights are on the hub: --config-file transformers/grounding_dino_T.yaml. Without
--config-file a tiny GroundingDINO with random weights stands in: it shows what the figure looks like, explains
nothing, and says so on the picture.
"""
TEXT = "a bottle. a banana."
RANDOM = "a tiny GroundingDINO with random weights, which knows nothing: only what this figure looks like"
# Numbers that the library's networks look for: what begins and ends a text, and what ends a phrase.
_SPECIAL = {0: "[PAD]", 100: "[UNK]", 101: "[CLS]", 102: "[SEP]", 103: "[MASK]", 1012: ".", 1029: "?"}


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of Figure 8."""
    parser.add_argument("--text", default=TEXT, help=f"what to look for; default '{TEXT}'")
    add_image_options(parser, 8, instances=1, needs_config=False)
    add_method_options(parser, default=("gradcam", "odam"))
    add_opts(parser)


def letters_tokenizer() -> Any:
    """A tokenizer that spells words in letters, for a network that no text has trained.

    Raises:
        ValueError: ``transformers`` is not installed.
    """
    letters = string.ascii_lowercase + string.digits
    tokens = [_SPECIAL.get(i, f"[unused{i}]") for i in range(1030)] + [*letters, *(f"##{one}" for one in letters)]
    return library().BertTokenizer(vocab={token: i for i, token in enumerate(tokens)})


def tiny_detector(text: str, settings: ExplainSettings) -> ODAMPredictor:
    """A GroundingDINO with random weights, the same each time, that spells words in letters.

    Args:
        text: what it looks for.
        settings: how it explains.

    Raises:
        ValueError: a text without phrases, or ``transformers`` is not installed.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = build_network("", str(get_model_file("quick/grounding_dino.json")), kind=GROUNDED)
        with torch.no_grad():
            for parameter in network.parameters():
                # The library's own first weights leave all queries alike.
                if parameter.dim() > 1:
                    parameter.normal_(std=parameter[0].numel() ** -0.5)
    detector = ODAMGrounded(
        network=network,
        tokenizer=letters_tokenizer(),
        text=text,
        pixel_mean=[123.675, 116.28, 103.53],
        pixel_std=[58.395, 57.12, 57.375],
    )
    return ODAMPredictor.from_model(detector, (), settings, min_size=256, max_size=448, input_format="RGB")


def surest_of_each_phrase(found: Instances, threshold: float, most: int) -> list[int]:
    """Rows of the surest detections, phrase by phrase.

    Args:
        found: all detections of an image, in descending score.
        threshold: no detection scores less.
        most: detections of a phrase.
    """
    by_phrase: dict[int, list[int]] = {}
    for row, (label, score) in enumerate(zip(found.pred_classes.tolist(), found.scores.tolist())):
        if score >= threshold:
            by_phrase.setdefault(label, []).append(row)
    return [row for label in sorted(by_phrase) for row in by_phrase[label][:most]]


def load_detector(args: argparse.Namespace) -> tuple[Detector, float]:
    """The detector of the figure, and the least score of what it shows.

    Raises:
        ValueError: a config that cannot be used, or keys without a config.
    """
    if args.config_file is not None:
        (detector,) = load_detectors(args)
        return detector, detector.predictor.cfg.ODAM.EXPLAIN.CONFIDENCE_THRESHOLD
    if args.opts:
        raise ValueError("--opts changes keys of a config, and there is none; name one with --config-file")
    given = {"layer": args.layer, "drise_masks": args.drise_masks}
    settings = ExplainSettings(**{key: value for key, value in given.items() if value is not None})
    return Detector(RANDOM, tiny_detector(args.text, settings)), args.confidence_threshold or 0.0


def make(args: argparse.Namespace) -> int:
    """Write Figure 8."""
    paths = check_images(args)
    detector, threshold = load_detector(args)

    def check(count: int, path: Path) -> None:
        if not count:
            raise ValueError(
                f"{detector.name} finds none of {args.text!r} in {path.name} with a score of at least {threshold}; "
                "lower --confidence-threshold"
            )

    def chosen(found: Instances) -> list[int]:
        return surest_of_each_phrase(found, threshold, args.max_instances)

    write_by_methods(args, paths, detector, chosen, check)
    print(f"{plural(len(paths), 'image')}: see {args.output}")
    if args.config_file is None:
        print(f"note: {RANDOM}; name a detector with --config-file")
    return 0


FIGURE = PaperFigure(DESCRIPTION, add_options, make)
