"""Compare maps with where people looked: Table 6 of the paper, with intervals, a ceiling and a floor.

Fixations become a map by a Gaussian of one degree of visual angle. Every method's map of every detected object is
compared with it, over the image and in the object's box, by cosine, Pearson's correlation, optimal transport distance
(in diagonals) and Jensen-Shannon divergence (in bits). The ceiling is how much two halves of the people agree, the
floor a Gaussian around the middle of the image.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.progress import Progress
from rich.table import Table

from odam_d2.cli.arguments import (
    add_config_file,
    add_dataset,
    add_names,
    add_opts,
    add_output,
    make_parser,
)
from odam_d2.cli.common import (
    FAILED,
    make_table,
    prepare_for_network,
    print_table,
    progress_bar,
    run_command,
    task_within,
)
from odam_d2.cli.explained_objects import add_object_options, object_settings
from odam_d2.cli.settings import read_config
from odam_d2.data.own import dataset_name
from odam_d2.evaluation.people.attention import WEIGHTS
from odam_d2.evaluation.people.attention_settings import SIMILARITIES, WINDOWS, AttentionSettings
from odam_d2.evaluation.people.attention_study import AttentionStudy, ComparedImage
from odam_d2.evaluation.people.attention_tables import UNKNOWN_TASK, write_attention
from odam_d2.evaluation.people.fixations import read_fixations
from odam_d2.evaluation.study.examples import shrink_map
from odam_d2.evaluation.study.sources import file_stem
from odam_d2.explain import METHODS, ExplainSettings
from odam_d2.predictor import ODAMPredictor
from odam_d2.show.sheets import contact_sheet

PEOPLE = "human attention"


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    default = AttentionSettings()
    own = default.explanation
    parser = make_parser("attention", __doc__)
    add_config_file(parser)
    add_dataset(parser)
    parser.add_argument(
        "--fixations",
        required=True,
        type=Path,
        metavar="FILE",
        help="CSV of image,x,y,duration[,observer], or OSIE's .mat",
    )
    add_output(parser)
    parser.add_argument("--task", default="", help="what people were told to do; stands beside all numbers")
    add_names(parser, "--methods", f"of {', '.join(METHODS)}; default {','.join(own.methods)}", default=own.methods)
    folders = "folders of maps that something else made, each a method of the folder's name"
    parser.add_argument("--maps", nargs="+", default=[], metavar="FOLDER", help=folders)
    add_object_options(parser, own, "detected")
    degree = "standard deviation of the Gaussian around a fixation"
    parser.add_argument("--pixels-per-degree", type=float, default=default.pixels_per_degree, metavar="N", help=degree)
    parser.add_argument("--weights", default=default.weights, help=f"what a fixation counts: {', '.join(WEIGHTS)}")
    parser.add_argument(
        "--leave-out-outside", action="store_true", help="fixations outside of the image, and count them"
    )
    parser.add_argument("--grid", type=int, default=default.grid, metavar="N", help="cells a side, optimal transport")
    parser.add_argument("--splits", type=int, default=default.splits, metavar="N", help="halvings of the people")
    parser.add_argument("--examples", type=int, default=12, metavar="N", help="images to draw, at most (default 12)")
    add_opts(parser)
    return parser.parse_args(argv)


def to_settings(args: argparse.Namespace, explain: ExplainSettings) -> AttentionSettings:
    """The settings that the command line asks for."""
    explanation = object_settings(args, explain, methods=tuple(args.methods))
    options = (args.pixels_per_degree, args.weights, args.grid, args.splits, args.leave_out_outside)
    return AttentionSettings(explanation, *options)


def draw_example(compared: ComparedImage) -> np.ndarray:
    """A sheet of an image: where people looked, and every method's map of each object (Figure 13)."""
    size, photo = compared.objects.size, np.ascontiguousarray(compared.image[:, :, ::-1])
    count = len(compared.boxes)
    maps = {PEOPLE: np.stack([shrink_map(compared.attention, size)] * count) / 255}
    for name, own in compared.maps.items():
        maps[name] = np.stack([shrink_map(one, size) for one in own]) / 255
    meanings = {PEOPLE: "where people looked"} | {
        name: METHODS[name].title for name in compared.maps if name in METHODS
    }
    return contact_sheet(photo, compared.boxes, compared.labels, maps, meanings)


def measure(args: argparse.Namespace, progress: Progress) -> tuple[AttentionSettings, dict[str, Any], str]:
    """Compare and write everything; the settings, the summary, and what people were told to do."""
    recording = read_fixations(args.fixations)
    task = args.task or recording.task
    cfg = read_config(args)
    settings = to_settings(args, ExplainSettings.from_options(cfg.ODAM.EXPLAIN))
    predictor = ODAMPredictor(cfg)
    images, tell = progress.add_task("images", total=None), task_within(progress)
    study = AttentionStudy(predictor, dataset_name(args.dataset), recording, settings, args.output, progress=tell)
    sheets = args.output / "examples"
    sheets.mkdir(parents=True, exist_ok=True)
    rows, drawn = [], 0
    for compared in progress.track(study.run(), total=len(study), task_id=images):
        if compared is None:
            continue
        rows += compared.rows
        if drawn < args.examples:
            drawn += 1
            path = sheets / f"{file_stem(compared.objects.image_id)}.jpg"
            Image.fromarray(draw_example(compared)).save(path, quality=88)
    facts = {"config": args.config_file, "dataset": args.dataset, "fixations of": args.fixations.name}
    summary = write_attention(args.output, rows, settings, study.counts, task, facts)
    return settings, summary, task or UNKNOWN_TASK


def means_table(settings: AttentionSettings, summary: dict[str, Any], window: str) -> Table:
    """The means in one window."""
    rows = []
    for name in settings.rows:
        means = [(summary[window][name][key], metric.digits) for key, metric in SIMILARITIES.items()]
        rows.append([name, *("–" if mean is None else f"{mean:.{digits}f}" for mean, digits in means)])
    return make_table("", ["method", *(metric.title for metric in SIMILARITIES.values())], rows)


def run(argv: Sequence[str] | None) -> int:
    """Compare, write and print."""
    args = parse_arguments(argv)
    prepare_for_network()
    with progress_bar() as progress:
        settings, summary, task = measure(args, progress)
    counts = summary["counts"]
    if not counts["objects"]:
        print(
            f"no object takes part: in {counts['images']} images with fixations none has a detection of its class with "
            f"a score > {args.score_threshold} and an IoU > {args.iou_threshold}"
        )
        return FAILED
    for window in WINDOWS:
        print(f"Similarity with human attention over {WINDOWS[window]}")
        print_table(means_table(settings, summary, window))
    print(f"note: {task}")
    nobody = f", {counts['not_looked_at']} of them with no fixation in their box"
    print(f"{counts['objects']} objects in {counts['images']} images{nobody}; {counts['left_out']} fixations left out")
    print(f"with intervals and paired differences: {args.output / 'tables.md'}")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the exit code is 1 where nothing could be compared."""
    return run_command(lambda: run(argv))
