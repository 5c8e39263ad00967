"""List what NMS removed in photographs, on account of whom and why, and draw the pairs where ODAM-NMS differs."""

import argparse
import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from odam_d2.cli.arguments import add_config_file, add_images, add_opts, add_output, make_parser
from odam_d2.cli.common import FAILED, each_image, prepare_for_network, run_command
from odam_d2.cli.settings import read_config
from odam_d2.data.images import find_images, read_image
from odam_d2.files import name_images
from odam_d2.nms import Removals, SoftNMS, Suppression
from odam_d2.nms.removals import list_spared
from odam_d2.predictor import ODAMPredictor
from odam_d2.show.sheets import Pair, pair_sheet
from odam_d2.structures import normalize_maps

FIELDS = ("image", "file", "score", "x1", "y1", "x2", "y2", "by_score", "by_x1", "by_y1", "by_x2", "by_y2")
MEASURES = ("iou", "correlation", "distance")


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = make_parser("explain-nms", __doc__)
    add_config_file(parser, help="ODAM.NMS.NAME in it says which NMS")
    add_images(parser)
    add_output(parser)
    parser.add_argument("--pairs", type=int, default=4, help="pairs of each kind to draw an image (default 4)")
    add_opts(parser)
    return parser.parse_args(argv)


def rows(name: str, path: Path, done: Suppression, removals: Removals) -> list[dict]:
    """A line of the table for each removed candidate."""
    found = []
    for i, (removed, by) in enumerate(zip(removals.removed.tolist(), removals.by.tolist())):
        values = [
            name,
            str(path),
            *(x for n in (removed, by) for x in (float(done.scores[n]), *done.boxes[n].tolist())),
        ]
        row = dict(zip(FIELDS, (v if isinstance(v, str) else round(v, 4) for v in values)))
        for measure in MEASURES:
            of_all = getattr(removals, measure)
            row[measure] = "" if of_all is None else round(float(of_all[i]), 4)
        found.append(row)
    return found


def pairs(done: Suppression, removals: Removals, chosen: Tensor, word: str) -> list[Pair]:
    """Pictures of some of the pairs."""
    drawn = []
    for i in chosen.tolist():
        both = [int(removals.by[i]), int(removals.removed[i])]
        drawn.append(
            Pair(
                boxes=done.boxes[both].cpu().numpy(),
                labels=(
                    f"kept {float(done.scores[both[0]]):.2f}",
                    f"{word} {float(done.scores[both[1]]):.2f}: IoU {float(removals.iou[i]):.2f}, "
                    f"correlation {float(removals.correlation[i]):.2f}",
                ),
                maps=normalize_maps(done.maps[both]).cpu().numpy(),
            )
        )
    return drawn


def explain_image(predictor: ODAMPredictor, path: Path, name: str, args: argparse.Namespace) -> list[dict]:
    """Write the pairs of one image under its name and return its lines."""
    image = read_image(path)
    _, done = predictor.explain_nms(image)
    removals = done.removed
    if done.maps is not None:
        threshold = done.iou_threshold
        spared = list_spared(done.boxes, done.classes, done.keep, threshold, done.maps, done.correlation)
        distant = (removals.iou < threshold).nonzero()[: args.pairs, 0]
        drawn = pairs(done, spared, spared.iou.argsort(descending=True)[: args.pairs], "kept too")
        drawn += pairs(done, removals, distant, "removed")
        sheet = pair_sheet(np.ascontiguousarray(image[:, :, ::-1]), drawn)
        Image.fromarray(sheet).save(args.output / f"{name}_pairs.png")
    return rows(name, path, done, removals)


def run(argv: Sequence[str] | None) -> int:
    """List and draw; the exit code is 0 where at least one image could be."""
    args = parse_arguments(argv)
    prepare_for_network()
    names = name_images(find_images(args.input))
    predictor = ODAMPredictor(read_config(args))
    if isinstance(predictor.model.nms, SoftNMS):
        raise ValueError("Soft-NMS lowers scores, it removes nobody; set ODAM.NMS.NAME to greedy, feature or odam")
    args.output.mkdir(parents=True, exist_ok=True)
    listed = 0
    with (args.output / "removals.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, [*FIELDS, *MEASURES])
        writer.writeheader()
        for _, found in each_image(names, "explaining", lambda path: explain_image(predictor, path, names[path], args)):
            writer.writerows(found)
            # What is done outlasts whatever ends the run.
            file.flush()
            listed += 1
    print(f"{listed} of {len(names)} images: see {args.output / 'removals.csv'}")
    return 0 if listed else FAILED


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the exit code is 1 where nothing could be listed."""
    return run_command(lambda: run(argv), "the lines and pictures of finished images are kept")
