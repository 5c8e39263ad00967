"""Folders as ``odam explain --sheets`` writes them, without a detector."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from odam_d2.files import name_images
from odam_d2.show.records import begin_run
from odam_d2.show.results import ExplainedImage, ResultsFolder

RUN = {
    "config": "demo/fcos_nanodet_g.yaml",
    "meta_architecture": "ODAMFCOS",
    "device": "cpu",
    "method": "odam",
    "layer": "fpn",
    "smoothing": "none",
    "targets": ["class_score", "x1"],
    "confidence_threshold": 0.5,
    "max_instances": 10,
}
CLASSES = ("cat", "dog", "cat")


def write_explained(
    folder: Path,
    found: Mapping[str, int],
    left_out: Mapping[str, str] | None = None,
    sheets: bool = True,
    size: tuple[int, int] = (30, 40),
    settings: Mapping[str, Any] | None = None,
    **run: Any,
) -> Path:
    """A folder with maps of grey photographs, each of whose detections took 0.1 s and whose maps 0.02 s each.

    Args:
        folder: made.
        found: file of a photograph -> how many detections it has, at most three: a cat, a dog and a cat, with scores of
            0.9, 0.8 and 0.7.
        left_out: file of a photograph -> why it has none.
        sheets: whether there are sheets.
        size: (height, width) of the photographs.
        settings: of the run.
        **run: facts that are not those of :data:`RUN`; None for none.
    """
    facts = {name: value for name, value in {**RUN, **run}.items() if value is not None}
    begin_run(folder, facts, settings or {})
    results = ResultsFolder(folder, "Why", sheets=sheets)
    files = [Path(file) for file in found]
    names = name_images(files)
    for file, count in zip(files, found.values()):
        results.add(results.prepare(_image(file, count, facts["targets"], size), names[file]))
    for file, reason in (left_out or {}).items():
        results.leave_out(Path(file), reason)
    results.finish()
    return folder


def _image(file: Path, count: int, targets: Sequence[str], size: tuple[int, int]) -> ExplainedImage:
    return ExplainedImage(
        file=file,
        image=np.full((*size, 3), 90, np.uint8),
        boxes=np.array([[2, 3, 20, 25]] * count, np.float32).reshape(-1, 4),
        classes=np.arange(count),
        class_names=CLASSES[:count],
        scores=np.array([0.9, 0.8, 0.7], np.float32)[:count],
        levels=["p3"] * count,
        maps={target: np.ones((count, 3, 4), np.float32) for target in targets},
        stride=8,
        network_size=(24, 32),
        pictures={target: lambda size: np.ones((count, *size)) for target in targets},
        seconds_detection=0.1,
        seconds_maps=0.02 * count * len(targets),
    )
