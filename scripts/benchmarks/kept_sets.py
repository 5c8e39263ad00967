"""What ODAM-NMS keeps by maps that are made fast, against what it keeps by exact ones.

The images: three photographs of ``coco_mini_val``, where it is there, and the first five of ``synthetic_crowd_val0``,
which are drawn here. An image is detected once; all NMS get the same candidates.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog

from benchmarks.measure import Options, Table, timed
from odam_d2 import ODAMPredictor, read_image
from odam_d2.data.coco_mini import register_coco_mini
from odam_d2.data.synthetic.dataset import SPLITS, write_dataset
from odam_d2.nms import ODAMNMS, odam_nms

PHOTOS, CROWDS = 3, 5
# Name, beginning of its configs' names, and the node of the config that has its IoU threshold.
DETECTORS = (("FCOS", "fcos", "FCOS"), ("Faster R-CNN", "faster_rcnn", "ROI_HEADS"))
# T^h and T^l of Table 12, for detectors with ODAM-Train and without.
THRESHOLDS = ((0.8, 0.2), (0.9, 0.1))
FAST = ("batched", "auto")
# Few candidates of small images.
QUICK = ("INPUT.MIN_SIZE_TEST", 128, "MODEL.FCOS.TOPK_CANDIDATES_TEST", 10, "MODEL.RPN.POST_NMS_TOPK_TEST", 10)


def kept_sets(options: Options) -> Table:
    """How many candidates are kept by exact maps and not by fast ones, or the other way round."""
    sources = {
        "photographs": (photos(options.size(PHOTOS, 1)), "configs/demo/{}_nanodet_g.yaml"),
        "synthetic crowds": (crowds(options.size(CROWDS, 1)), "configs/odam_nms/{}_nanodet_g_synthetic.yaml"),
    }
    rows = [
        {"detector": name, "images": f"{len(images)} {source}", **row}
        for source, (images, config) in sources.items()
        for name, file, node in DETECTORS
        if images
        for row in compare(config.format(file), node, images, options)
    ]
    note = (
        "the bundled detectors with their own thresholds and numbers of candidates; kept: of all images, however "
        "many; differ: kept by one of the two only; s: seconds an image for the maps, one run; *: the config's own "
        "T^h and T^l"
    )
    return Table("ODAM-NMS by fast maps and by exact ones", rows, note)


def photos(count: int) -> list[np.ndarray]:
    register_coco_mini()
    file = MetadataCatalog.get("coco_mini_val").json_file
    if not Path(file).is_file():
        print(f"no rows of photographs: there is no {file}; DETECTRON2_DATASETS names the folder that holds coco_mini")
        return []
    return [read_image(record["file_name"]) for record in DatasetCatalog.get("coco_mini_val")[:count]]


def crowds(count: int) -> list[np.ndarray]:
    with TemporaryDirectory() as folder:
        split = Path(folder) / "val0"
        seed, _ = SPLITS["val0"]
        # A shorter data set is the beginning of a longer one.
        write_dataset(split, seed, count)
        return [read_image(file) for file in sorted((split / "images").iterdir())]


def with_path(nms: ODAMNMS, path: str) -> ODAMNMS:
    return replace(nms, explain=replace(nms.explain, path=path))


def compare(config: str, node: str, images: Sequence[np.ndarray], options: Options) -> Iterator[dict]:
    cfg = options.load_config(config, ["ODAM.NMS.NAME", "odam", *options.size((), QUICK)])
    predictor = ODAMPredictor(cfg)
    nms, iou = predictor.model.nms, cfg.MODEL[node].NMS_THRESH_TEST
    own = nms.corr_high, nms.corr_low
    thresholds = dict.fromkeys((*THRESHOLDS, own))
    times, kept, differ, count = Counter(), Counter(), Counter(), 0
    for image in images:
        candidates = predictor.observe([image], nms.layers).candidates(0)
        count += len(candidates)
        maps = {}
        for path in ("exact", *FAST):
            time, maps[path] = timed(partial(with_path(nms, path).maps, candidates))
            times[path] += time / len(images)
        parts = candidates.boxes, candidates.scores, candidates.classes
        for pair in thresholds:
            keep = {path: set(odam_nms(*parts, maps[path], iou, *pair, nms.correlation).tolist()) for path in maps}
            kept[pair] += len(keep["exact"])
            for path in FAST:
                differ[path, pair] += len(keep["exact"] ^ keep[path])
    for pair in thresholds:
        yield {
            "T^h / T^l": f"{pair[0]:g} / {pair[1]:g}{' *' if pair == own else ''}",
            "candidates": count,
            "kept, exact": kept[pair],
            **{f"differ, {path}": differ[path, pair] for path in FAST},
            **{f"s, {path}": times[path] for path in (*FAST, "exact")},
        }
