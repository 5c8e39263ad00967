"""Figure 10: curves of Deletion, Insertion and visual explanation accuracy."""

import argparse
import json
from pathlib import Path
from typing import Any

from odam_d2.cli.paper_figures.common import PaperFigure, add_figure_output, check_output
from odam_d2.evaluation.study.curves import CURVES, draw_curves
from odam_d2.explain import METHODS

DESCRIPTION = """Figure 10: Deletion, Insertion and visual explanation accuracy as curves, method by method.

They are read from what odam evaluate --metrics deletion_auc,insertion_auc,vea_auc wrote; a curve that it did not
measure is left out.
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of Figure 10."""
    parser.add_argument("--input", required=True, type=Path, metavar="DIR", help="an --output of odam evaluate")
    add_figure_output(parser, 10)


def read_curves(folder: Path) -> dict[str, dict[str, Any]]:
    """The mean curves that an evaluation wrote, with methods as people know them.

    Args:
        folder: its output.

    Raises:
        FileNotFoundError: no evaluation ended there.
        ValueError: a file that is none of its, or no curve in it.
    """
    path = folder / "curves.json"
    if not path.is_file():
        raise FileNotFoundError(f"there is no {path}; --input is a folder that odam evaluate wrote to its end")
    try:
        curves = json.loads(path.read_text())
        known = {name: points for name, points in curves.items() if name in CURVES and len(points["x"])}
    except (ValueError, AttributeError, TypeError, KeyError) as error:
        raise ValueError(f"{path} holds no curves of odam evaluate; run it again") from error
    if not known:
        raise ValueError(
            f"{path} holds no curve; run odam evaluate with --metrics deletion_auc,insertion_auc,vea_auc on objects "
            "that are detected"
        )
    titles = {name: method.title for name, method in METHODS.items()}
    return {name: {titles.get(key, key): own for key, own in points.items()} for name, points in known.items()}


def make(args: argparse.Namespace) -> int:
    """Write Figure 10."""
    check_output(args.output)
    curves = read_curves(args.input)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    draw_curves(args.output, curves)
    names = ", ".join(CURVES[name][0].split(":")[0] for name in curves)
    print(f"{names}: see {args.output}")
    return 0


FIGURE = PaperFigure(DESCRIPTION, add_options, make)
