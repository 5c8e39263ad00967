"""xaitk-saliency's D-RISE of our detectors: python -m benchmarks.drise_rival KIND BATCH MASKS REPEATS DEVICE

It is no dependency of anything here; where it is not installed, nobody calls what imports it.
"""

import json
import os
import sys
from collections.abc import Iterable, Iterator
from statistics import median

import numpy as np
import torch
from skimage import data

from benchmarks.measure import Options, timed
from odam_d2 import ODAMPredictor

RIVAL = "xaitk_saliency"
# As in D-RISE's paper, and by default here.
GRID, PROBABILITY = 16, 0.5
# The detections that are explained.
CONFIDENCE = 0.1


class Rival:
    """The rival with a detector of ours behind its own interface, ready to be called.

    Args:
        kind: of the bundled detectors.
        batch: images that the detector gets at a time.
        masks: of an explanation.
        device: of the detector.
    """

    def __init__(self, kind: str, batch: int, masks: int, device: str):
        from xaitk_saliency.impls.gen_object_detector_blackbox_sal.drise import DRISEStack

        opts = ["ODAM.EXPLAIN.DRISE_MASKS", masks, "ODAM.EXPLAIN.DRISE_BATCH", batch]
        self.predictor = ODAMPredictor(Options(device, 1, False).load_config(f"configs/demo/{kind}.yaml", opts))
        self.image = data.astronaut()[:, :, ::-1].copy()
        found = self.predictor(self.image)["instances"]
        found = found[found.scores > CONFIDENCE].to("cpu")
        self.boxes = found.pred_boxes.tensor.numpy()
        self.objectness = found.scores.numpy()
        self.scores = np.eye(self.predictor.num_classes)[found.pred_classes.numpy()]
        threads = len(os.sched_getaffinity(0))
        self.generate = DRISEStack(n=masks, s=GRID, p1=PROBABILITY, seed=0, threads=threads)
        self.black_box = black_box(self.predictor, batch)

    def __call__(self) -> np.ndarray:
        """(D,h,w) maps of all detections."""
        return self.generate(self.image, self.boxes, self.scores, self.black_box, self.objectness)


def black_box(predictor: ODAMPredictor, batch: int):
    """A detector as smqtk-detection has it: some images at a time, as its own Faster R-CNN takes them."""
    from smqtk_detection import DetectImageObjects
    from smqtk_image_io import AxisAlignedBoundingBox

    nobody = dict.fromkeys(range(predictor.num_classes), 0.0)

    class Detector(DetectImageObjects):
        def detect_objects(self, img_iter: Iterable[np.ndarray]) -> Iterator[list[tuple]]:
            images = list(img_iter)
            for start in range(0, len(images), batch):
                inputs = [predictor.model_input(image) for image in images[start : start + batch]]
                with torch.no_grad():
                    outputs = predictor.model(inputs)
                for output in outputs:
                    found = output["instances"].to("cpu")
                    parts = found.pred_boxes.tensor.numpy(), found.pred_classes.tolist(), found.scores.tolist()
                    yield [
                        (AxisAlignedBoundingBox(box[:2], box[2:]), {**nobody, label: score})
                        for box, label, score in zip(*parts)
                    ]

        def get_config(self) -> dict:
            return {}

    return Detector()


def explain(rival: Rival) -> np.ndarray:
    """The same maps by our D-RISE: same detector, image, detections, masks, and images at a time."""
    explanation = rival.predictor.explain(
        rival.image, instances=lambda found: found.scores > CONFIDENCE, method="drise"
    )
    return explanation.heat_maps["class_score"].maps.cpu().numpy()


def main(kind: str, batch: str, masks: str, repeats: str, device: str) -> None:
    """Print the median seconds of an explanation in a process of its own, after one that does not count."""
    rival = Rival(kind, int(batch), int(masks), device)
    times = [timed(rival)[0] for _ in range(int(repeats) + 1)]
    print(json.dumps({"seconds": median(times[1:])}))


if __name__ == "__main__":
    main(*sys.argv[1:])
