#!/usr/bin/env python
"""Check the transformer detectors with weights of the Hugging Face hub, where there is a network; writes a table.

For each model: detections against the library's own post-processing, a map at every layer, the sum of a map inside its
box, and seconds a map. Usage: python scripts/check_hub_models.py photo.jpg table.md
"""

import argparse
import time
from pathlib import Path

import torch

from odam_d2 import ODAMPredictor, read_image
from odam_d2.modeling import ODAMDETR
from odam_d2.modeling.transformers.library import library

IMAGENET = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]
UNIT = [0.0, 0.0, 0.0], [255.0, 255.0, 255.0]
# Name on the hub -> mean and deviation of the pixels that it takes, RGB.
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


def check(name: str, image, score: float) -> list[str]:
    """A row of the table."""
    mean, deviation = MODELS[name]
    hub = library()
    network = hub.AutoModelForObjectDetection.from_pretrained(name)
    detector = ODAMDETR(network=network, pixel_mean=mean, pixel_std=deviation, test_score_thresh=score)
    predictor = ODAMPredictor.from_model(detector, min_size=640, max_size=1066, input_format="RGB")
    observation = predictor.observe([image])
    (found,) = observation.detections()
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
def agrees(detector: ODAMDETR, processor, one: dict, found, score: float) -> bool:
    """Whether scores are those of the library's own post-processing of the same pixels."""
    images = detector.preprocess_image([one])
    output = detector.network(pixel_values=images.tensor)
    size = one["image"].shape[1:] if detector.family.masks else images.tensor.shape[2:]
    (theirs,) = processor.post_process_object_detection(output, threshold=score, target_sizes=torch.tensor([size]))
    expected = theirs["scores"].sort(descending=True).values[: len(found)]
    return len(found) == len(expected) and bool(torch.allclose(found.scores, expected, atol=1e-4))


def main() -> None:
    """Check all models; one that fails is a row that says why."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photo")
    parser.add_argument("table", type=Path)
    parser.add_argument("--score", type=float, default=0.5)
    args = parser.parse_args()
    image = read_image(args.photo)
    rows = [HEADINGS, ["---"] * len(HEADINGS)]
    for name in MODELS:
        try:
            rows.append(check(name, image, args.score))
        except (OSError, ValueError, RuntimeError) as error:
            rows.append([name, " ".join(str(error).split()), *[""] * (len(HEADINGS) - 2)])
        print(" | ".join(rows[-1]))
    args.table.write_text("".join(f"| {' | '.join(row)} |\n" for row in rows))


if __name__ == "__main__":
    main()
