"""Table 10 on made crowds: AP, JI, MR, recall and time of every NMS, for the two detectors trained on them.

Every NMS sees the same candidates of the same forward pass: an image is detected once, and each NMS of the family is
applied to what the detector found. The three validation sets come from three seeds.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from statistics import mean, stdev

import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from torch import Tensor

from benchmarks.measure import Table, timed
from odam_d2 import ODAMPredictor, load_config, read_image
from odam_d2.data.odgt import OdgtDetections, read_odgt
from odam_d2.evaluation.detections.crowdhuman import evaluate_crowd
from odam_d2.nms.family import CandidateNMS, Suppression
from odam_d2.structures import Trace

DATASETS = ("synthetic_crowd_val0", "synthetic_crowd_val1", "synthetic_crowd_val2")


def run(repeats: int) -> Iterator[Table]:
    for name, config in (("FCOS", "fcos"), ("Faster R-CNN", "faster_rcnn")):
        rows = list(compare(f"configs/odam_nms/{config}_lite0_synthetic.yaml"))
        note = "mean and standard deviation over three validation sets of 100 images; times in ms an image"
        yield Table(f"{name} on made crowds", rows, note)


class SharedMaps(CandidateNMS):
    """An NMS whose maps somebody else made."""

    made: Tensor

    def maps(self, trace: Trace) -> Tensor:
        return self.made


# Table 12's stricter thresholds first: these detectors had no ODAM-Train.
FAMILY = {
    "NMS": SharedMaps("greedy"),
    "Soft-NMS": SharedMaps("soft"),
    "FeatureNMS": SharedMaps("feature"),
    "ODAM-NMS .9/.1": SharedMaps("odam", corr_high=0.9, corr_low=0.1),
    "ODAM-NMS .8/.2": SharedMaps("odam", corr_high=0.8, corr_low=0.2),
}


class WholeFamily(CandidateNMS):
    """Applies every NMS to the same candidates, and lets the detector return the first one's."""

    def __init__(self) -> None:
        super().__init__("odam")
        self.found: dict[str, Suppression] = {}
        self.times: dict[str, float] = {}

    def __call__(
        self, trace: Trace, iou_threshold: float, limit: int, embeddings: Callable[[], Tensor] | None = None
    ) -> Suppression:
        self.times["maps"], SharedMaps.made = timed(partial(self.maps, trace))
        self.times["embeddings"], points = timed(embeddings)
        for name, nms in FAMILY.items():
            self.times[name], self.found[name] = timed(partial(nms, trace, iou_threshold, limit, lambda: points))
        return self.found["NMS"]


def compare(config: str) -> Iterator[dict]:
    predictor = ODAMPredictor(load_config(config))
    family = WholeFamily()
    holder = getattr(predictor.model, "roi_heads", predictor.model)
    holder.nms = family
    results, times = defaultdict(list), defaultdict(list)
    for dataset in DATASETS:
        found = defaultdict(list)
        for record in DatasetCatalog.get(dataset):
            image = read_image(record["file_name"])
            total, _ = timed(partial(predictor, image))
            times["detector"].append(total - sum(family.times.values()))
            for part, value in family.times.items():
                times[part].append(value)
            for name, done in family.found.items():
                found[name].append(to_detections(record, done))
        truth = read_odgt(MetadataCatalog.get(dataset).odgt_file)
        for name, detections in found.items():
            results[name].append(evaluate_crowd(truth, detections))
    for name, measured in results.items():
        part = "maps" if name.startswith("ODAM") else "embeddings" if name == "FeatureNMS" else None
        yield {
            "NMS": name,
            **{title: spread([getattr(r, key) for r in measured]) for title, key in MEASURES.items()},
            "detector": 1e3 * mean(times["detector"]),
            "maps or embeddings": 1e3 * mean(times[part]) if part else 0.0,
            "NMS itself": 1e3 * mean(times[name]),
        }


MEASURES = {"AP": "ap", "JI": "ji", "MR": "mr", "Recall": "recall"}


def spread(values: list[float]) -> str:
    return f"{mean(values):.1f} ± {stdev(values):.1f}"


def to_detections(record: dict, done: Suppression) -> OdgtDetections:
    """The kept candidates in pixels of the image."""
    height, width = record["height"], record["width"]
    scale = torch.tensor([width / done.image_size[1], height / done.image_size[0]] * 2)
    boxes = done.boxes[done.keep].cpu().double() * scale
    limit = torch.tensor([width, height] * 2)
    boxes = boxes.clamp(min=0).minimum(limit)
    # What Detectron2's post-processing does: boxes that the border leaves without a size are no detections.
    kept = (boxes[:, 2:] > boxes[:, :2]).all(dim=1)
    scores = done.kept_scores.cpu().double()
    return OdgtDetections(record["image_id"], boxes[kept].numpy(), scores[kept].numpy(), height, width)
