"""Show where a student learns from its teacher: bottom-up and top-down attention of ODAM-KD, as in Figure 16.

A sheet an image, a row a level. Objects are those of a dataset, or what the student detects. Both detectors need
weights: the student's are MODEL.WEIGHTS, the teacher's as in training.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.structures import Boxes, Instances
from PIL import Image

from odam_d2.cli.arguments import add_config_file, add_images, add_opts, add_output, make_parser
from odam_d2.cli.common import FAILED, each_image, prepare_for_network, run_command
from odam_d2.cli.settings import read_config
from odam_d2.data.images import find_images, read_image
from odam_d2.data.objects import ImageObjects, load_objects
from odam_d2.data.own import dataset_name
from odam_d2.files import name_images
from odam_d2.predictor import ODAMPredictor
from odam_d2.show.attention import LevelRow, attention_sheet
from odam_d2.teaching import Teacher, build_teacher, check_fit, fgd_settings, kind_of
from odam_d2.teaching.attention import ImageAttention, image_attention
from odam_d2.teaching.fit import Levels

ATTENTIONS = ("odam", "gradcam")


class Pair(NamedTuple):
    """A student beside its teacher.

    Attributes:
        predictor: the student's.
        teacher: that fits it.
        levels: the student's.
        temperature: of the bottom-up attention.
        attention: ``odam`` or ``gradcam``.
        threshold: detections that score less are no objects.
    """

    predictor: ODAMPredictor
    teacher: Teacher
    levels: Levels
    temperature: float
    attention: str
    threshold: float


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = make_parser("show-attention", __doc__)
    add_student(parser)
    add_output(parser)
    add_options(parser)
    return parser.parse_args(argv)


def add_student(parser: argparse.ArgumentParser) -> None:
    """Add what says whose attention is shown, and where."""
    add_config_file(parser, help="the student's, whose ODAM.KD.TEACHER names the teacher")
    add_images(parser)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what says which objects and which attention are shown."""
    help = "whose annotations are the objects, found by the images' file names; default: what the student detects"
    parser.add_argument("--dataset", metavar="NAME", help=help)
    help = "top-down attention by odam or gradcam; default: ODAM.KD.ATTENTION"
    parser.add_argument("--attention", choices=ATTENTIONS, help=help)
    help = "detections are objects that score this much; default: ODAM.EXPLAIN.CONFIDENCE_THRESHOLD"
    parser.add_argument("--confidence-threshold", type=float, metavar="SCORE", help=help)
    add_opts(parser)


def load_pair(args: argparse.Namespace) -> tuple[Pair, dict[str, ImageObjects] | None]:
    """Student and teacher, and the annotations of ``--dataset`` by their images' file names.

    Raises:
        FileNotFoundError: no such weights, no such config of the teacher, or the dataset's files are missing.
        ValueError: weights that do not fit, or a teacher that does not.
    """
    dataset = args.dataset
    if dataset is None:
        del args.dataset
    cfg = read_config(args)
    annotated = None if dataset is None else annotated_files(dataset_name(dataset))
    return pair_of(cfg, args.attention), annotated


def pair_of(cfg: CfgNode, attention: str | None) -> Pair:
    """Student and teacher.

    Args:
        cfg: of the student.
        attention: other than the config's.

    Raises:
        FileNotFoundError: no such weights, or no such config of the teacher.
        ValueError: weights that do not fit, or a teacher that does not.
    """
    teacher = build_teacher(cfg)
    predictor = ODAMPredictor(cfg)
    levels, _ = check_fit(predictor.model, teacher.detector, ("focus",))
    temperature = fgd_settings(cfg.ODAM.KD, kind_of(predictor.model)).temperature
    named = attention or cfg.ODAM.KD.ATTENTION
    # A config whose loss has no top-down attention has one to be looked at.
    named = named if named in ATTENTIONS else ATTENTIONS[0]
    return Pair(predictor, teacher, levels, temperature, named, cfg.ODAM.EXPLAIN.CONFIDENCE_THRESHOLD)


def annotated_files(name: str) -> dict[str, ImageObjects]:
    """File name -> annotations.

    Raises:
        ValueError: two images of one file name.
        FileNotFoundError: the dataset's files are missing.
    """
    found: dict[str, ImageObjects] = {}
    for one in load_objects(name).values():
        file = Path(one.file).name
        if file in found:
            raise ValueError(f"the dataset {name} has two images called {file}; show one of them from another folder")
        found[file] = one
    return found


def objects_of_image(pair: Pair, image: np.ndarray, own: ImageObjects | None) -> tuple[Instances, np.ndarray]:
    """Objects in network-input pixels, as a detector is trained with, and their boxes in image pixels, (G,4).

    Args:
        pair: whose student's detections they are where there are no annotations.
        image: (h,w,3) uint8 BGR.
        own: annotations.

    Raises:
        ValueError: annotations of an image of another size.
    """
    if own is None:
        found = pair.predictor(image)["instances"]
        found = found[found.scores >= pair.threshold]
        boxes, classes = found.pred_boxes.tensor.cpu().numpy().astype(np.float64), found.pred_classes
    else:
        if image.shape[:2] != tuple(own.size):
            raise ValueError(f"the image has size {image.shape[:2]}, and its annotations are of {tuple(own.size)}")
        boxes, classes = own.clipped_boxes[~own.crowd], torch.from_numpy(own.classes[~own.crowd])
    device = pair.predictor.model.device
    height, width = pair.predictor.network_input(image).shape[-2:]
    scale = np.tile([width / image.shape[1], height / image.shape[0]], 2)
    objects = Instances((height, width))
    objects.gt_boxes = Boxes(torch.as_tensor(boxes * scale, dtype=torch.float32, device=device))
    objects.gt_classes = classes.to(device)
    return objects, boxes


def draw(image: np.ndarray, boxes: np.ndarray, labels: Sequence[str], found: ImageAttention) -> np.ndarray:
    """The sheet of an image, (hs,ws,3) uint8 RGB."""
    pictures = {name: found.heat_maps(name).to_picture().cpu().numpy() for name in found.maps}
    rows = []
    for number, (name, stride) in enumerate(zip(found.levels.names, found.levels.strides)):
        focused = np.isin(np.arange(len(boxes)), found.focused[number].cpu().numpy())
        maps = {key: own[number] for key, own in pictures.items()}
        ranges = {key: (float(own[number].min()), float(own[number].max())) for key, own in found.maps.items()}
        rows.append(LevelRow(f"{name}, stride {stride}", focused, maps, ranges))
    return attention_sheet(np.ascontiguousarray(image[:, :, ::-1]), boxes, labels, rows)


def sheet_of(pair: Pair, path: Path, annotated: dict[str, ImageObjects] | None) -> np.ndarray:
    """The sheet of one image, (hs,ws,3) uint8 RGB.

    Raises:
        ValueError: an image that the dataset does not have, or whose annotations do not fit.
        OSError: it cannot be read.
    """
    image = read_image(path)
    if annotated is not None and path.name not in annotated:
        raise ValueError(f"{path}: the dataset has no image called {path.name}; leave out --dataset to show detections")
    objects, boxes = objects_of_image(pair, image, None if annotated is None else annotated[path.name])
    given = pair.predictor.model_input(image)
    settings = pair.temperature, pair.attention
    found = image_attention(pair.predictor.model, pair.teacher, pair.levels, given, objects, *settings)
    labels = [pair.predictor.class_names[label] for label in objects.gt_classes.tolist()]
    return draw(image, boxes, labels, found)


def run(argv: Sequence[str] | None) -> int:
    """Draw; the exit code is 0 where at least one image could be."""
    args = parse_arguments(argv)
    prepare_for_network()
    names = name_images(find_images(args.input))
    pair, annotated = load_pair(args)
    args.output.mkdir(parents=True, exist_ok=True)

    def show(path: Path) -> None:
        Image.fromarray(sheet_of(pair, path, annotated)).save(args.output / f"{names[path]}_attention.png")

    shown = sum(1 for _ in each_image(names, "looking", show))
    print(f"{shown} of {len(names)} images: see {args.output}")
    return 0 if shown else FAILED


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the exit code is 1 where nothing could be shown."""
    return run_command(lambda: run(argv), "the sheets of finished images are kept")
