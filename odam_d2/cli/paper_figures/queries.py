"""Figure 7: attention, GAME and ODAM of one detection of a transformer."""

import argparse

import numpy as np
import torch
from detectron2.structures import Instances

from odam_d2.cli.arguments import add_config_file, add_layer, add_opts
from odam_d2.cli.paper_figures.common import PaperFigure, add_figure_output, check_output, pictures_of, save_figure
from odam_d2.cli.settings import read_config
from odam_d2.data.images import read_image
from odam_d2.explain import explain, location_attention
from odam_d2.explain.targets import closest_classes
from odam_d2.predictor import ODAMPredictor
from odam_d2.show.queries import query_figure
from odam_d2.structures import HeatMaps

DESCRIPTION = """Figure 7: attention, GAME and ODAM of one detection of a transformer.

(a) What locations attend to in the encoder's last layer, (b) what the detection's query attends to in the decoder's
last layer, (c) GAME of its class score, (d) ODAM of its class score, of every side and of all combined. Queries must
attend to every cell of one map, as those of DETR and Conditional DETR do.
"""
TARGETS = ("class_score", "x1", "y1", "x2", "y2", "combined")


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of Figure 7."""
    add_config_file(parser)
    parser.add_argument("--input", required=True, metavar="IMAGE")
    add_figure_output(parser, 7)
    parser.add_argument(
        "--class", dest="label", metavar="NAME", help="the best detection of this class; default of all"
    )
    help = "the best is 0, the next 1 (default 0)"
    parser.add_argument("--instance", type=int, default=0, metavar="N", help=help)
    help = "a location of the encoder in pixels of the image, once for each; default the middle of the detection"
    parser.add_argument("--point", nargs=2, type=float, action="append", metavar=("X", "Y"), help=help)
    add_layer(parser)
    add_opts(parser)


def make(args: argparse.Namespace) -> int:
    """Write Figure 7."""
    check_output(args.output)
    predictor = ODAMPredictor(read_config(args))
    image = read_image(args.input)
    by_method = {method: predictor.make_explainer(method) for method in ("attention", "game")}
    odam = predictor.make_explainer("odam", args.layer)
    instances, trace = predictor.trace(image, (odam.layer,), lambda found: choose(found, predictor, args))
    box = instances.pred_boxes.tensor[0].cpu().numpy()
    middle = np.clip([box[::2].mean(), box[1::2].mean()], 0, np.array(image.shape[1::-1]) - 1e-3)
    points = np.array(args.point or [middle])
    looked = location_attention(trace, torch.from_numpy(points))
    found = {method: one_picture(explainer(trace, "class_score")) for method, explainer in by_method.items()}
    name = predictor.class_names[int(instances.pred_classes[0])]
    figure = query_figure(
        np.ascontiguousarray(image[:, :, ::-1]),
        points,
        pictures_of(looked),
        box,
        f"{name} {float(instances.scores[0]):.2f}",
        found["attention"],
        found["game"],
        {target: one_picture(maps) for target, maps in explain(trace, TARGETS, odam).items()},
    )
    save_figure(args.output, figure)
    print(f"{name} {float(instances.scores[0]):.2f}: see {args.output}")
    return 0


def choose(found: Instances, predictor: ODAMPredictor, args: argparse.Namespace) -> list[int]:
    """The detection that the command line asks for; they come in descending score.

    Raises:
        ValueError: the detector has no such class, or there is no such detection.
    """
    rows = list(range(len(found)))
    if args.label is not None:
        if args.label not in predictor.class_names:
            hint = closest_classes(args.label, predictor.class_names)
            raise ValueError(f"--class {args.label!r} is no class of this detector; {hint}")
        label = predictor.class_names.index(args.label)
        rows = (found.pred_classes == label).nonzero()[:, 0].tolist()
    if not 0 <= args.instance < len(rows):
        raise ValueError(f"there is no detection {args.instance}; {len(rows)} are there, numbered from 0")
    return [rows[args.instance]]


def one_picture(maps: HeatMaps) -> np.ndarray:
    """The only map of one detection, (mh,mw) in [0,1]."""
    return pictures_of(maps)[0]


FIGURE = PaperFigure(DESCRIPTION, add_options, make)
