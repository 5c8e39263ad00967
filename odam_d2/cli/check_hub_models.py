"""Check the transformer detectors with weights of the Hugging Face hub, where there is a network; writes a table.

For each model: detections against the library's own post-processing, a map at every layer, the part of a map that lies
inside its box, and seconds a map.
"""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.structures import Instances

from odam_d2.cli.arguments import add_output, make_parser
from odam_d2.cli.common import FAILED, prepare_for_network, run_command
from odam_d2.data.images import read_image
from odam_d2.files import write_atomically
from odam_d2.modeling import ODAMDETR
from odam_d2.modeling.transformers.library import library
from odam_d2.predictor import ODAMPredictor

# Means and deviations of the pixels that a model takes, RGB.
IMAGENET = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]
UNIT = [0.0, 0.0, 0.0], [255.0, 255.0, 255.0]
MODELS = {
    "facebook/detr-resnet-50": IMAGENET,
    "facebook/detr-resnet-101": IMAGENET,
    "microsoft/conditional-detr-resnet-50": IMAGENET,
    "SenseTime/deformable-detr": IMAGENET,
    "SenseTime/deformable-detr-with-box-refine-two-stage": IMAGENET,
    "PekingU/rtdetr_r18vd": UNIT,
    "PekingU/rtdetr_r50vd": UNIT,
    "PekingU/rtdetr_v2_r18vd": UNIT,
    "ustc-community/dfine-small-coco": UNIT,
}
HEADINGS = ("model", "classes", "detections", "as the library's", "layers", "energy inside the box", "s / map")


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = make_parser("check-hub-models", __doc__)
    parser.add_argument("--input", required=True, type=Path, metavar="IMAGE", help="a photograph")
    add_output(parser, help="the table, in Markdown", metavar="FILE")
    parser.add_argument("--score", type=float, default=0.5, help="detections score more than this (default 0.5)")
    return parser.parse_args(argv)


def check(name: str, image: np.ndarray, score: float) -> list[str]:
    """A row of the table.

    Args:
        name: on the hub, of :data:`MODELS`.
        image: (h,w,3) uint8 BGR.
        score: detections score more than this.

    Raises:
        OSError: the hub does not answer.
        ValueError: nothing is detected, or a model that cannot be explained.
    """
    mean, deviation = MODELS[name]
    hub = library()
    network = hub.AutoModelForObjectDetection.from_pretrained(name)
    detector = ODAMDETR(network=network, pixel_mean=mean, pixel_std=deviation, test_score_thresh=score)
    predictor = ODAMPredictor.from_model(detector, min_size=640, max_size=1066, input_format="RGB")
    (found,) = predictor.observe([image]).detections()
    same = agrees(detector, hub.AutoImageProcessor.from_pretrained(name), predictor.model_input(image), found, score)
    for layer in detector.layers:
        predictor.explain(image, layer=layer, instances=[0])
    start = time.perf_counter()
    maps = predictor.explain(image, instances=[0]).heat_maps["class_score"].to_image()[0]
    seconds = time.perf_counter() - start
    x1, y1, x2, y2 = (round(side) for side in found.pred_boxes.tensor[0].tolist())
    inside = float(maps[y1:y2, x1:x2].sum() / maps.sum())
    cells = (name, detector.num_classes, len(found), same, len(detector.layers), f"{inside:.2f}", f"{seconds:.2f}")
    return [str(cell) for cell in cells]


@torch.no_grad()
def agrees(detector: ODAMDETR, processor: Any, one: dict[str, Any], found: Instances, score: float) -> bool:
    """Whether scores are those of the library's own post-processing of the same pixels.

    Args:
        detector: of the library's network.
        processor: of the network.
        one: the image as the detector takes it.
        found: its detections.
        score: that they exceed.
    """
    images = detector.preprocess_image([one])
    output = detector.network(pixel_values=images.tensor)
    size = one["image"].shape[1:] if detector.family.masks else images.tensor.shape[2:]
    (theirs,) = processor.post_process_object_detection(output, threshold=score, target_sizes=torch.tensor([size]))
    expected = theirs["scores"].sort(descending=True).values[: len(found)]
    return len(found) == len(expected) and bool(torch.allclose(found.scores, expected, atol=1e-4))


def run(argv: Sequence[str] | None) -> int:
    """Check all models; one that fails is a row that says why."""
    args = parse_arguments(argv)
    prepare_for_network()
    library()
    image = read_image(args.input)
    rows: list[Sequence[str]] = [HEADINGS, ["---"] * len(HEADINGS)]
    checked = 0
    for name in MODELS:
        try:
            rows.append(check(name, image, args.score))
            checked += 1
        except (OSError, ValueError, RuntimeError) as error:
            rows.append([name, " ".join(str(error).split()), *[""] * (len(HEADINGS) - 2)])
        print(" | ".join(rows[-1]))
    write_atomically(args.output, "".join(f"| {' | '.join(row)} |\n" for row in rows))
    print(f"{checked} of {len(MODELS)} models: see {args.output}")
    return 0 if checked else FAILED


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the exit code is 1 where nothing could be checked."""
    return run_command(lambda: run(argv))
