"""What the figures share: their options, the objects they show, and a sheet of rows.

Shapes: D detections, (h,w) image, (mh,mw) heat map spanning it. Boxes are XYXY in pixels of the image.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from detectron2.structures import Instances
from PIL import Image

from odam_d2.cli.arguments import add_config_file, add_images, add_output
from odam_d2.cli.settings import read_config
from odam_d2.data.images import IMAGE_SUFFIXES, find_images
from odam_d2.predictor import ODAMPredictor
from odam_d2.show.page import fit
from odam_d2.show.sheets import CELL_SIDE, contact_sheet
from odam_d2.structures import HeatMaps


class PaperFigure(NamedTuple):
    """A figure that the command can make.

    Attributes:
        description: for the help; its first line stands alone.
        add_options: adds its options to its parser.
        make: makes it; returns the exit code.
    """

    description: str
    add_options: Callable[[argparse.ArgumentParser], None]
    make: Callable[[argparse.Namespace], int]


class Row(NamedTuple):
    """A row of a figure: an object, and what is shown of it.

    Attributes:
        box: (4,).
        label: of the box.
        maps: column -> (mh,mw) float in [0,1]; None where there is none.
        captions: column -> what stands on its map.
    """

    box: np.ndarray
    label: str
    maps: Mapping[str, np.ndarray | None]
    captions: Mapping[str, str] = {}


class Detector(NamedTuple):
    """A detector of a figure.

    Attributes:
        name: as readers know it.
        predictor: runs it.
    """

    name: str
    predictor: ODAMPredictor


def add_figure_output(parser: argparse.ArgumentParser, number: int) -> None:
    """Add ``--output``, the figure's own file."""
    default = f"figure{number}.png"
    add_output(parser, metavar="IMAGE", default=Path(default), help=f"default {default}")


def add_image_options(
    parser: argparse.ArgumentParser, number: int, instances: int, several: bool = False, needs_config: bool = True
) -> None:
    """Add the options of a figure that detectors make of photographs.

    Args:
        parser: of the figure.
        number: of the figure.
        instances: objects of a photograph that are shown unless said otherwise.
        several: whether detectors stand beside each other.
        needs_config: whether there is no figure without one.
    """
    if several:
        what = "one or several, shown beside each other"
        parser.add_argument("--config-file", required=True, nargs="+", metavar="YAML", help=what)
        names = "of the detectors; default: the names of their config files"
        parser.add_argument("--names", nargs="+", metavar="NAME", help=names)
    else:
        add_config_file(parser, required=needs_config)
    add_images(parser)
    add_figure_output(parser, number)
    parser.add_argument("--confidence-threshold", type=float, help="default: ODAM.EXPLAIN.CONFIDENCE_THRESHOLD")
    shown = f"objects of an image, the surest first (default {instances})"
    parser.add_argument("--max-instances", type=int, default=instances, metavar="N", help=shown)


def check_output(path: Path) -> None:
    """Refuse a file that is no image, before anything is run for it.

    Raises:
        ValueError: lists the valid endings.
    """
    if path.suffix.lower() not in IMAGE_SUFFIXES:
        raise ValueError(f"--output {path} is no image file; valid endings are {', '.join(IMAGE_SUFFIXES)}")


def check_images(args: argparse.Namespace) -> list[Path]:
    """The photographs of a figure, after a look at its other options.

    Raises:
        ValueError: an output that is no image, or no object to show.
        FileNotFoundError: no image.
    """
    check_output(args.output)
    if args.max_instances < 1:
        raise ValueError(f"--max-instances is {args.max_instances}; at least 1 is needed")
    return find_images(args.input)


def save_figure(path: Path, picture: np.ndarray) -> None:
    """Write a figure.

    Args:
        path: of the file; its folder is made.
        picture: (h,w,3) uint8 RGB.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path)


def load_detectors(args: argparse.Namespace) -> list[Detector]:
    """The detectors of a figure with :func:`add_image_options`.

    Raises:
        ValueError: another number of names than detectors, a name twice, or a config that cannot be used.
    """
    files = [args.config_file] if isinstance(args.config_file, str) else args.config_file
    names = vars(args).get("names") or [Path(file).stem for file in files]
    if len(names) != len(files):
        raise ValueError(f"--names has {len(names)} names for {len(files)} detectors")
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"two detectors are called {twice}; tell them apart with --names")
    configs = [read_config(argparse.Namespace(**{**vars(args), "config_file": file})) for file in files]
    return [Detector(name, ODAMPredictor(cfg)) for name, cfg in zip(names, configs)]


def check_found(count: int, path: Path, detector: Detector) -> None:
    """Refuse a photograph in which nothing can be shown.

    Raises:
        ValueError: names it.
    """
    if not count:
        least = detector.predictor.cfg.ODAM.EXPLAIN.CONFIDENCE_THRESHOLD
        raise ValueError(
            f"{detector.name} detects nothing in {path.name} with a score of at least {least}; lower "
            "--confidence-threshold"
        )


def name_detections(detector: Detector, found: Instances) -> list[str]:
    """Class and score of each, such as ``cat 0.98``."""
    names = detector.predictor.class_names
    return [f"{names[label]} {score:.2f}" for label, score in zip(found.pred_classes.tolist(), found.scores.tolist())]


def pictures_of(maps: HeatMaps) -> np.ndarray:
    """Maps at the size at which a figure shows them, (D,mh,mw) in [0,1]."""
    return maps.to_picture(fit(maps.output_size, CELL_SIDE)).cpu().numpy()


def draw_rows(image_bgr: np.ndarray, rows: Sequence[Row], meanings: Mapping[str, str]) -> np.ndarray:
    """Rows of one photograph on a sheet.

    Args:
        image_bgr: (h,w,3) uint8.
        rows: at least one; all have the same columns.
        meanings: column -> what its maps answer.

    Returns:
        (hs,ws,3) uint8 RGB.
    """
    columns = list(rows[0].maps)
    size = fit(image_bgr.shape[:2], CELL_SIDE)

    def column(name: str) -> Callable[[int], np.ndarray]:
        # A photograph under an empty map is dimmed like the others; its caption says that there is none.
        return lambda row: np.zeros(size) if rows[row].maps[name] is None else rows[row].maps[name]

    photo = np.ascontiguousarray(image_bgr[:, :, ::-1])
    boxes, labels = np.array([row.box for row in rows]), [row.label for row in rows]
    captions = {name: [row.captions.get(name, "") for row in rows] for name in columns}
    return contact_sheet(photo, boxes, labels, {name: column(name) for name in columns}, meanings, captions)
