"""The errors of a detector over a dataset: found, explained, counted and shown."""

import heapq
import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data import MetadataCatalog

from odam_d2.data.objects import load_objects
from odam_d2.evaluation.detections.error_modes import MISSED
from odam_d2.evaluation.study.errors.cases import Case
from odam_d2.evaluation.study.errors.explain import ImageErrors
from odam_d2.evaluation.study.errors.pictures import draw_case
from odam_d2.evaluation.study.errors.report import Shown, write_errors_page
from odam_d2.evaluation.study.errors.settings import ErrorSettings
from odam_d2.evaluation.study.errors.summary import (
    ERROR_COLUMNS,
    MAP_COLUMNS,
    Row,
    error_row,
    map_rows,
    summarize_errors,
    to_csv,
)
from odam_d2.explain import Explainer
from odam_d2.files import write_atomically
from odam_d2.predictor import ODAMPredictor


class ErrorStudy:
    """Finds the errors of a detector in a dataset and explains each.

    Args:
        predictor: the detector.
        dataset_name: a registered dataset, with masks or without.
        explainer: makes the maps; it must have targets for sides.
        settings: what counts.

    Attributes:
        errors: rows of ``errors.csv`` so far.
        maps: rows of ``maps.csv`` so far.

    Raises:
        ValueError: a dataset that cannot be used.
        FileNotFoundError: it is missing.
    """

    def __init__(self, predictor: ODAMPredictor, dataset_name: str, explainer: Explainer, settings: ErrorSettings):
        self._predictor, self._explainer, self._settings = predictor, explainer, settings
        self._images = dict(islice(load_objects(dataset_name).items(), settings.max_images))
        own = list(predictor.class_names)
        self._names = list(MetadataCatalog.get(dataset_name).get("thing_classes") or own)
        if self._names != own[: len(self._names)] and len(self._names) != len(own):
            raise ValueError(
                f"the dataset {dataset_name} names {len(self._names)} classes and the detector has {len(own)}; look "
                "for its errors on a dataset of its own classes"
            )
        self._names += own[len(self._names) :]
        self.errors: list[Row] = []
        self.maps: list[Row] = []
        self._kinds: Counter[str] = Counter()
        self._counts: Counter[str] = Counter(images=0, objects=0, with_mask=0)
        self._shown: dict[tuple[str, str], list[tuple[float, int, Shown]]] = defaultdict(list)

    def __len__(self) -> int:
        """Images that :meth:`run` looks at."""
        return len(self._images)

    def run(self) -> Iterator[list[Case]]:
        """Find and explain, image by image.

        Yields:
            the errors of every image.

        Raises:
            ValueError: an image or mask that is unreadable, or a map that is not finite.
        """
        for objects in self._images.values():
            found = ImageErrors(self._predictor, self._explainer, objects, self._names, self._settings)
            cases = found.cases()
            self._kinds.update(found.modes.kinds)
            self._kinds[MISSED] += len(found.modes.missed)
            masks = sum(bool(one) and not crowd for one, crowd in zip(objects.segmentations, objects.crowd))
            self._counts.update(images=1, objects=int((~objects.crowd).sum()), with_mask=masks)
            image = np.ascontiguousarray(found.image[:, :, ::-1])
            for case in cases:
                number = len(self.errors)
                self.errors.append(error_row(number, case))
                self.maps += map_rows(number, case)
                self._offer(number, case, image, Path(objects.file).name)
            yield cases

    def write(self, folder: Path, facts: Mapping[str, Any]) -> dict[str, Any]:
        """Write ``errors.csv``, ``maps.csv``, ``summary.json`` and ``index.html``.

        Args:
            folder: an existing one.
            facts: about the run, for readers.

        Returns:
            the summary, see :func:`odam_d2.evaluation.study.errors.summary.summarize_errors`.

        Raises:
            OSError: a file cannot be written.
        """
        summary = summarize_errors(self.errors, self.maps, self._kinds, self._counts)
        write_atomically(folder / "errors.csv", to_csv(self.errors, ERROR_COLUMNS))
        write_atomically(folder / "maps.csv", to_csv(self.maps, MAP_COLUMNS))
        content = summary | {"settings": self._settings.to_json(), "facts": dict(facts)}
        write_atomically(folder / "summary.json", json.dumps(content, indent=1) + "\n")
        shown = {key: [one for *_, one in sorted(own, reverse=True)] for key, own in self._shown.items()}
        write_errors_page(folder / "index.html", summary, shown, self._settings, dict(facts) | self._settings.to_json())
        return summary

    def _offer(self, number: int, case: Case, image: np.ndarray, name: str) -> None:
        """Keep the pictures of a case that is among the worst of its kind and class so far."""
        own = self._shown[case.kind, case.class_name]
        # Of equal ones the first stays.
        rank = (case.severity, -number)
        if not self._settings.pictures or (len(own) >= self._settings.pictures and rank < own[0][:2]):
            return
        title = f"{name}: {case.class_name} {case.score:.2f}"
        if case.correlation is not None:
            title += f", correlation with the map of the one before it {case.correlation:.2f}"
        shown = Shown(case.severity, number, title, case.reason, draw_case(case, image))
        heapq.heappush(own, (*rank, shown))
        if len(own) > self._settings.pictures:
            heapq.heappop(own)
