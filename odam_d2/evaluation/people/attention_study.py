"""Do detectors look where people look? Every method's maps against human attention, object by object (Table 6).

Shapes: D explained objects, (h,w) image. Boxes are XYXY in pixels of the image.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.data import MetadataCatalog

from odam_d2.data.objects import ImageObjects, load_objects
from odam_d2.evaluation.metrics.matching import box_iou
from odam_d2.evaluation.people.attention import attention_map, centre_map, crop, split_observers
from odam_d2.evaluation.people.attention_settings import CENTRE, OBSERVERS, SIMILARITIES, WINDOWS, AttentionSettings
from odam_d2.evaluation.people.fixations import Fixations, Recording, check_inside, match_images
from odam_d2.evaluation.people.similarity import Similarity, compare
from odam_d2.evaluation.study.selection import choose_evenly, match_objects
from odam_d2.evaluation.study.sources import MapSource, Progress, Scene, make_sources
from odam_d2.predictor import ODAMPredictor

# One (object, method, window).
Row = dict[str, Any]
Cut = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True, eq=False)
class ComparedImage:
    """One image in which objects were explained and compared.

    Args:
        objects: its annotations.
        image: (h,w,3) uint8 BGR.
        boxes: of the explained detections, (D,4).
        labels: class and score of each.
        attention: of everybody, (h,w).
        maps: method -> maps of the D objects, (h,w) each; None for one that is missing.
        rows: what was measured.
    """

    objects: ImageObjects
    image: np.ndarray
    boxes: np.ndarray
    labels: Sequence[str]
    attention: np.ndarray
    maps: Mapping[str, Sequence[np.ndarray | None]]
    rows: Sequence[Row]


class AttentionStudy:
    """Explains the detected objects of images that people looked at, and compares the maps with where they looked.

    An object takes part if the detector found it, see :class:`odam_d2.evaluation.study.settings.ExplanationSettings`,
    in an image with fixations. All methods explain the same objects. In the window ``object``, the parts of both maps
    in the object's annotated box are compared; where no fixation lies in it, there is nothing to compare with.

    Args:
        predictor: the detector.
        dataset_name: a registered dataset.
        recording: the fixations.
        settings: what is measured.
        folder: for D-RISE's unfinished work.
        batch: masked images that D-RISE runs at a time.
        progress: told of D-RISE's masks.

    Attributes:
        counts: ``images`` looked at, ``without_fixations`` among the dataset's, and ``left_out`` fixations.

    Raises:
        ValueError: a dataset, layer or target that cannot be used, or fixations that do not fit the dataset.
        FileNotFoundError: the dataset or a folder of maps is missing.
    """

    def __init__(
        self,
        predictor: ODAMPredictor,
        dataset_name: str,
        recording: Recording,
        settings: AttentionSettings,
        folder: Path,
        batch: int = 8,
        progress: Progress | None = None,
    ):
        self._predictor, self._settings = predictor, settings
        everything = load_objects(dataset_name)
        matched = match_images(recording.images, {name: objects.file for name, objects in everything.items()})
        fixations = {
            name: check_inside(own, everything[name].size, Path(everything[name].file).name, settings.leave_out_outside)
            for name, own in matched.items()
        }
        images = dict(islice(everything.items(), settings.explanation.max_images))
        self._images = {name: images[name] for name in images if len(fixations.get(name, ()))}
        self._fixations = fixations
        self._names = list(MetadataCatalog.get(dataset_name).get("thing_classes") or predictor.class_names)
        self._sources = make_sources(predictor, settings.explanation, batch, folder, progress)
        self._layers = ((settings.explanation.explain or predictor.settings).layer,)
        left_out = sum(len(own) for own in matched.values()) - sum(len(own) for own in fixations.values())
        without = len(images) - len(self._images)
        self.counts = {"images": len(self._images), "without_fixations": without, "left_out": left_out}

    def __len__(self) -> int:
        """Images that :meth:`run` looks at."""
        return len(self._images)

    def run(self) -> Iterator[ComparedImage | None]:
        """Compare, image by image.

        Yields:
            for every image what was found; None where no object takes part.

        Raises:
            ValueError: an image that is unreadable, or a map that cannot be compared.
        """
        chosen = self._choose()
        for name, objects in self._images.items():
            wanted = None if chosen is None else {own for image, own in chosen if image == name}
            yield None if wanted is not None and not wanted else self._compare(objects, wanted)

    def _choose(self) -> set[tuple[str, str]] | None:
        """(image, annotation) of an even choice of the objects, where fewer than all are wanted."""
        most = self._settings.explanation.max_objects
        if most is None:
            return None
        every = []
        for name, objects in self._images.items():
            found = self._predictor(objects.read_image())["instances"]
            every += [(name, objects.ids[row]) for row, _ in self._match(objects, found)]
        return set(choose_evenly(every, most))

    def _match(self, objects: ImageObjects, found: Any) -> list[tuple[int, int]]:
        parts = (found.pred_boxes.tensor, found.scores, found.pred_classes)
        arrays = (part.detach().cpu().numpy() for part in parts)
        return match_objects(objects, *arrays, self._settings.explanation)

    def _compare(self, objects: ImageObjects, wanted: set[str] | None) -> ComparedImage | None:
        image = objects.read_image()
        observation = self._predictor.observe([image], self._layers)
        (found,) = observation.detections()
        pairs = [pair for pair in self._match(objects, found) if wanted is None or objects.ids[pair[0]] in wanted]
        if not pairs:
            return None
        detections = found[torch.tensor([detection for _, detection in pairs], dtype=torch.int64)]
        trace = observation.trace_detections(0, detections)
        rows = [row for row, _ in pairs]
        scene = Scene(objects.image_id, [objects.ids[row] for row in rows], objects.size, trace)
        boxes = detections.pred_boxes.tensor.detach().cpu().numpy().astype(np.float64)
        scores = detections.scores.detach().cpu().tolist()
        looked = self._fixations[objects.image_id]
        people = _People(looked, objects.size, self._settings)
        maps = {source.name: _maps_of(source, scene) for source in self._sources}
        measured = []
        for place, row in enumerate(rows):
            facts = {
                "image_id": objects.image_id,
                "annotation_id": objects.ids[row],
                "class": self._names[objects.classes[row]],
                "score": scores[place],
                "iou": float(box_iou(objects.clipped_boxes[[row]], boxes[[place]])[0, 0]),
                "fixations": int(looked.inside(objects.clipped_boxes[row]).sum()),
            }
            own = {name: some[place] for name, some in maps.items()}
            measured += [facts | one for one in _measure(own, people, objects.clipped_boxes[row], facts["fixations"])]
        labels = [f"{self._names[objects.classes[row]]} {score:.2f}" for row, score in zip(rows, scores)]
        return ComparedImage(objects, image, boxes, labels, people.attention, maps, measured)


class _People:
    """What is known of the people who looked at an image; what does not depend on the object is worked out once."""

    def __init__(self, fixations: Fixations, size: tuple[int, int], settings: AttentionSettings):
        to_map = partial(
            attention_map, size=size, pixels_per_degree=settings.pixels_per_degree, weights=settings.weights
        )
        self.grid, self.attention, self.centre = settings.grid, to_map(fixations), centre_map(size)
        seeds = range(settings.explanation.seed, settings.explanation.seed + settings.splits)
        halves = [halves for seed in seeds if (halves := split_observers(fixations, seed)) is not None]
        self._halves = [(pair, (to_map(pair[0]), to_map(pair[1]))) for pair in halves]
        self._whole: dict[str, Similarity | None] = {}

    def references(self, box: np.ndarray | None) -> dict[str, Similarity | None]:
        """Ceiling and floor in a box, or over the whole image."""
        if box is not None:
            # Halves of which one did not look there at all agree about nothing that can be measured.
            looked = [maps for pair, maps in self._halves if all(half.inside(box).any() for half in pair)]
            return self._references(lambda values: crop(values, box), looked)
        self._whole = self._whole or self._references(lambda values: values, [maps for _, maps in self._halves])
        return self._whole

    def _references(self, cut: Cut, halves: Sequence[tuple[np.ndarray, np.ndarray]]) -> dict[str, Similarity | None]:
        agreement = [compare(cut(one), cut(other), self.grid) for one, other in halves]
        means = [float(np.mean(values)) for values in zip(*agreement)]
        return {
            OBSERVERS: Similarity(*means) if agreement else None,
            CENTRE: compare(cut(self.centre), cut(self.attention), self.grid),
        }


def _maps_of(source: MapSource, scene: Scene) -> list[np.ndarray | None]:
    maps = list(source.maps(scene))
    source.forget(scene.image_id)
    return maps


def _measure(maps: Mapping[str, np.ndarray | None], people: _People, box: np.ndarray, fixations: int) -> Iterator[Row]:
    """The rows of one object: every method and reference in every window."""
    for window in WINDOWS:
        cut = (lambda values: crop(values, box)) if window == "object" else None
        attention = people.attention if cut is None else cut(people.attention)
        parts = {name: own if own is None or cut is None else cut(own) for name, own in maps.items()}
        found = {name: None if part is None else compare(part, attention, people.grid) for name, part in parts.items()}
        for name, similarity in (found | people.references(None if cut is None else box)).items():
            own = parts.get(name)
            # In a box at which nobody looked, there is nothing to be compared with.
            comparable = similarity is not None and (cut is None or fixations > 0)
            values = similarity._asdict() if comparable else dict.fromkeys(SIMILARITIES)
            yield {
                "method": name,
                "window": window,
                **{key: None if value is None or math.isnan(value) else value for key, value in values.items()},
                "zero_map": int(own is not None and not own.any()),
                "missing": int(name in maps and own is None),
            }
