"""Table 10 on synthetic crowds: AP, JI, MR, recall and time of every NMS, for the two detectors trained on them.

Every NMS sees the same candidates of the same forward pass: an image is detected once, its candidates' maps (by
each path) and embeddings are made once, and each NMS of the family chooses among them. The validation sets come from
three seeds.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from statistics import mean

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from torch import Tensor

from benchmarks.kept_sets import DETECTORS, with_path
from benchmarks.measure import Options, Table, timed
from benchmarks.trainings import spread
from odam_d2 import ODAMPredictor, read_image
from odam_d2.data.builtin import register_all
from odam_d2.data.odgt import OdgtDetections, OdgtImage, read_odgt
from odam_d2.evaluation.detections.crowdhuman import CrowdResult, evaluate_crowd
from odam_d2.nms import Candidates, feature_nms, greedy_nms, odam_nms, soft_nms

DATASETS = ("synthetic_crowd_val0", "synthetic_crowd_val1", "synthetic_crowd_val2")


# Of each set. For a quick run, with few candidates.
IMAGES, FEW_IMAGES = 100, 2
QUICK = ("INPUT.MIN_SIZE_TEST", 128, "MODEL.FCOS.TOPK_CANDIDATES_TEST", 20, "MODEL.RPN.POST_NMS_TOPK_TEST", 20)


def run(options: Options) -> Iterator[Table]:
    check_data()
    images = options.size(IMAGES, FEW_IMAGES)
    note = (
        f"mean and standard deviation over three validation sets of {images} images; times in ms an image; "
        "maps by the path auto where no other is named"
    )
    for name, file, node in DETECTORS:
        opts = ["ODAM.NMS.NAME", "odam", *options.size((), QUICK)]
        cfg = options.load_config(f"configs/odam_nms/{file}_nanodet_g_synthetic.yaml", opts)
        # A two-stage detector has one way to make all maps together.
        paths = ("auto", "batched") if node == "FCOS" else ("auto",)
        rows = list(rows_of(*compare(cfg, cfg.MODEL[node].NMS_THRESH_TEST, paths, images)))
        yield Table(f"{name} on synthetic crowds", rows, note)


def check_data(datasets: Sequence[str] = DATASETS) -> None:
    register_all()
    files = [Path(MetadataCatalog.get(dataset).odgt_file) for dataset in datasets]
    splits = [dataset.removeprefix("synthetic_crowd_") for dataset in datasets]
    if missing := [str(file) for file in files if not file.is_file()]:
        raise FileNotFoundError(
            f"there is no {missing[0]}; `odam make-synthetic-crowd --splits {','.join(splits)}` makes it in a minute"
        )


def read_set(dataset: str, images: int | None) -> tuple[list[dict], list[OdgtImage]]:
    """The first images of a validation set, and their ground truth in the same order."""
    records = DatasetCatalog.get(dataset)[:images]
    by_name = {image.id: image for image in read_odgt(MetadataCatalog.get(dataset).odgt_file)}
    return records, [by_name[record["image_id"]] for record in records]


# Kept candidates by descending score, and their scores.
Kept = tuple[Tensor, Tensor]


def family(
    candidates: Candidates, maps: dict[str, Tensor], embeddings: Tensor, iou: float
) -> dict[tuple[str, str], Callable[[], Kept]]:
    """Every NMS, ready to choose among the candidates of an image, by its name and what it looks at beside boxes."""
    parts = candidates.boxes, candidates.scores, candidates.classes

    def with_scores(nms: Callable[..., Tensor], *options: Tensor | float) -> Kept:
        keep = nms(*parts, *options)
        return keep, candidates.scores[keep]

    found = {
        ("NMS", ""): partial(with_scores, greedy_nms, iou),
        ("Soft-NMS", ""): partial(soft_nms, *parts),
        ("FeatureNMS", "embeddings"): partial(with_scores, feature_nms, embeddings),
    }
    for path, own in maps.items():
        suffix = "" if path == "auto" else f", {path}"
        # Table 12's stricter thresholds first: these detectors had no ODAM-Train.
        found[f"ODAM-NMS .9/.1{suffix}", path] = partial(with_scores, odam_nms, own, iou, 0.9, 0.1)
        found[f"ODAM-NMS .8/.2{suffix}", path] = partial(with_scores, odam_nms, own, iou, 0.8, 0.2)
    return found


# (name of the NMS, what it looks at beside boxes) -> the measures on each validation set.
Measured = dict[tuple[str, str], list[CrowdResult]]
# What takes time -> seconds of each image.
Times = dict[object, list[float]]


def compare(cfg: CfgNode, iou: float, paths: Sequence[str], images: int) -> tuple[Measured, Times]:
    predictor = ODAMPredictor(cfg)
    nms, limit = predictor.model.nms, cfg.TEST.DETECTIONS_PER_IMAGE
    results, times = defaultdict(list), defaultdict(list)
    for dataset in DATASETS:
        found = defaultdict(list)
        records, truth = read_set(dataset, images)
        for record in records:
            image = read_image(record["file_name"])
            seconds, candidates = timed(partial(find_candidates, predictor, image))
            times["detector"].append(seconds)
            maps = {}
            for path in paths:
                seconds, maps[path] = timed(partial(with_path(nms, path).maps, candidates))
                times[path].append(seconds)
            # Without graph, as inside a detector.
            seconds, embeddings = timed(torch.no_grad()(candidates.embeddings))
            times["embeddings"].append(seconds)
            for key, choose in family(candidates, maps, embeddings, iou).items():
                seconds, (keep, scores) = timed(choose)
                times[key].append(seconds)
                found[key].append(to_detections(record, candidates, keep[:limit], scores[:limit]))
        for key, detections in found.items():
            results[key].append(evaluate_crowd(truth, detections))
    return results, times


def rows_of(results: Measured, times: Times) -> Iterator[dict]:
    for (name, part), measured in results.items():
        yield {
            "NMS": name,
            **{title: spread([getattr(r, attribute) for r in measured]) for title, attribute in MEASURES.items()},
            "detector": 1e3 * mean(times["detector"]),
            "maps or embeddings": 1e3 * mean(times[part]) if part else 0.0,
            "NMS itself": 1e3 * mean(times[name, part]),
        }


def find_candidates(predictor: ODAMPredictor, image: np.ndarray) -> Candidates:
    return predictor.observe([image], predictor.model.nms.layers).candidates(0)


MEASURES = {"AP": "ap", "JI": "ji", "MR": "mr", "Recall": "recall"}


def to_detections(record: dict, candidates: Candidates, keep: Tensor, scores: Tensor) -> OdgtDetections:
    """The kept candidates in pixels of the image."""
    height, width = record["height"], record["width"]
    scale = torch.tensor([width / candidates.image_size[1], height / candidates.image_size[0]] * 2)
    boxes = candidates.boxes[keep].cpu().double() * scale
    limit = torch.tensor([width, height] * 2)
    boxes = boxes.clamp(min=0).minimum(limit)
    # What Detectron2's post-processing does: boxes that the border leaves without a size are no detections.
    kept = (boxes[:, 2:] > boxes[:, :2]).all(dim=1)
    scores = scores.cpu().double()
    return OdgtDetections(record["image_id"], boxes[kept].numpy(), scores[kept].numpy(), height, width)
