"""Options and settings of the commands that explain every object a detector found, over a dataset."""

import argparse
from typing import Any

from odam_d2.cli.arguments import add_layer
from odam_d2.evaluation.study.settings import ExplanationSettings
from odam_d2.explain import TARGETS, ExplainSettings


def add_object_options(parser: argparse.ArgumentParser, default: ExplanationSettings, objects: str) -> None:
    """Add what says which objects are explained, and how.

    Args:
        parser: of the command.
        default: its settings where nothing is said.
        objects: what people call the objects, for the help.
    """
    parser.add_argument("--iou-threshold", type=float, default=default.iou_threshold, metavar="IOU")
    parser.add_argument("--score-threshold", type=float, default=default.score_threshold, metavar="SCORE")
    parser.add_argument("--target", default=default.target, help=", ".join(TARGETS))
    add_layer(parser)
    parser.add_argument("--drise-masks", type=int, metavar="N", help="default: ODAM.EXPLAIN.DRISE_MASKS")
    parser.add_argument("--seed", type=int, default=default.seed)
    parser.add_argument("--max-images", type=int, metavar="N", help="the first images of the dataset alone")
    parser.add_argument("--max-objects", type=int, metavar="N", help=f"an even choice of the {objects} objects")


def object_settings(args: argparse.Namespace, explain: ExplainSettings, **others: Any) -> ExplanationSettings:
    """The settings that the command line asks for.

    Args:
        args: of :func:`add_object_options`, with the folders of ``--maps``.
        explain: how objects are explained.
        others: fields that these options do not decide.

    Raises:
        ValueError: as :class:`odam_d2.evaluation.study.settings.ExplanationSettings`.
    """
    return ExplanationSettings(
        map_folders=tuple(args.maps),
        target=args.target,
        explain=explain,
        iou_threshold=args.iou_threshold,
        score_threshold=args.score_threshold,
        seed=args.seed,
        max_images=args.max_images,
        max_objects=args.max_objects,
        **others,
    )
