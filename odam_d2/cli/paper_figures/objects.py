"""The same objects as several detectors see them.

Shapes: (h,w) image. Boxes are XYXY in pixels of the image.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from detectron2.structures import Instances

from odam_d2.boxes import box_iou
from odam_d2.cli.paper_figures.common import Detector, Row, check_found, name_detections
from odam_d2.cli.settings import surest
from odam_d2.structures import Trace

# Detections of two detectors whose boxes overlap by more than this are the same object.
SAME_OBJECT = 0.5


class Seen(NamedTuple):
    """A detection of one detector.

    Attributes:
        box: (4,).
        label: its class and score.
        trace: of this detection alone.
    """

    box: np.ndarray
    label: str
    trace: Trace


class SharedObject(NamedTuple):
    """An object that the first detector found.

    Attributes:
        name: its class.
        box: the first detector's, (4,).
        seen: of each detector its detection of the object; None where it has none.
    """

    name: str
    box: np.ndarray
    seen: list[Seen | None]

    def missing_row(self, detector: str, columns: Sequence[str]) -> Row:
        """The row of a detector that did not find the object."""
        return Row(self.box, f"{detector}: no {self.name} found here", dict.fromkeys(columns))


def find_objects(
    detectors: Sequence[Detector], image: np.ndarray, path: Path, layers: Mapping[str, Sequence[str]]
) -> list[SharedObject]:
    """The objects that the first detector is surest of, and the others' detections of them.

    Args:
        detectors: at least one.
        image: (h,w,3) uint8 BGR.
        path: of its file.
        layers: name of a detector -> at which it will be explained.

    Raises:
        ValueError: the first detector finds nothing that is sure enough.
    """
    objects: list[SharedObject] = []
    for number, detector in enumerate(detectors):
        observation = detector.predictor.observe([image], tuple(layers[detector.name]))
        (found,) = observation.detections()
        boxes = found.pred_boxes.tensor.detach().cpu().numpy().astype(np.float64)
        labels = name_detections(detector, found)
        if number == 0:
            rows: list[int | None] = surest(detector.predictor.cfg)(found).tolist()
            check_found(len(rows), path, detector)
            names = [detector.predictor.class_names[found.pred_classes[row]] for row in rows]
            objects = [SharedObject(name, boxes[row], []) for name, row in zip(names, rows)]
        else:
            rows = _match(objects, detector, found, boxes)
        for shared, row in zip(objects, rows):
            if row is None:
                shared.seen.append(None)
            else:
                own = found[torch.tensor([row], device=found.scores.device)]
                shared.seen.append(Seen(boxes[row], labels[row], observation.trace_detections(0, own)))
    return objects


def _match(
    objects: Sequence[SharedObject], detector: Detector, found: Instances, boxes: np.ndarray
) -> list[int | None]:
    """For each object the detection of its class that overlaps it most, if by more than :data:`SAME_OBJECT`."""
    names = [detector.predictor.class_names[label] for label in found.pred_classes.tolist()]
    matches: list[int | None] = []
    for shared in objects:
        same = np.array([name == shared.name for name in names], dtype=bool)
        overlap = np.where(same, box_iou(shared.box[None], boxes)[0], 0.0)
        best = int(overlap.argmax()) if len(overlap) else -1
        matches.append(best if best >= 0 and overlap[best] > SAME_OBJECT else None)
    return matches
