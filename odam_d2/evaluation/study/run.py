"""How good the explanations of a detector are: every metric of section 4.2 of the paper, over a dataset.

Shapes: D explained objects, M methods, (h,w) image, (mh,mw) small map. Boxes are XYXY in pixels of the image.
"""

import logging
import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.structures import Instances
from detectron2.utils import comm

from odam_d2.data.objects import ImageObjects, load_objects
from odam_d2.evaluation.metrics.localization import CheckedMap
from odam_d2.evaluation.metrics.matching import box_iou
from odam_d2.evaluation.metrics.specification import perturbation_scores, vea_curve
from odam_d2.evaluation.study.examples import ExampleStore, shrink_map
from odam_d2.evaluation.study.perturbation import object_score
from odam_d2.evaluation.study.record import Entry, Record, Row
from odam_d2.evaluation.study.results import remove_results, write_results
from odam_d2.evaluation.study.scores import score_maps
from odam_d2.evaluation.study.selection import choose_evenly, match_objects
from odam_d2.evaluation.study.settings import CHEAP, METRICS, ExplanationSettings
from odam_d2.evaluation.study.sources import Progress, Scene, check_file_names, make_sources, map_file
from odam_d2.modeling.checkpoint import weights_sha256
from odam_d2.modeling.observing import ObservingModel
from odam_d2.predictor import ODAMPredictor

# (image id, annotation id).
ObjectId = tuple[str, str]
# Keys of a row that are no column of objects.csv.
CURVES = ("vea_curve", "deletion_curve", "insertion_curve")


class ExplanationEvaluator(DatasetEvaluator):
    """Explains the well-detected objects of a dataset by several methods and measures the maps.

    With Detectron2's ``inference_on_dataset`` use :attr:`model`, whose outputs carry what explains them: every image is
    then detected once. ``reset()``, which that function calls first, begins anew; without it a run goes on.

    An object is well detected if one of the detector's own detections (after its NMS, the best 100) of its class has a
    score and an IoU with it above the thresholds; greedily by IoU, one to one. All methods explain the same objects.

    The output folder gets ``objects.csv``, image by image, and in the end ``summary.json``, ``tables.md``,
    ``curves.json``, ``curves.png`` and ``index.html``. A run that was interrupted goes on where it stopped if it is
    started again with the same settings, but for a predictor without a config, whose weights have no name: its run
    begins anew. Several processes may share the images.

    Args:
        predictor: the detector.
        dataset_name: a registered dataset, with masks or without.
        output_dir: the output folder.
        settings: what is measured, and how; default the paper's.
        batch: perturbed or masked images that the detector gets at a time.
        save_maps: also write every map to ``maps/<method>/<image id>_<annotation id>.npy``, (h,w) float32.
        facts: about the run, for readers.
        progress: told of what takes long within an image.

    Attributes:
        summary: what :meth:`evaluate` wrote to ``summary.json``, with the counts, see
            :func:`odam_d2.evaluation.study.summary.summarize`; before, and on other processes, empty.

    Raises:
        ValueError: unknown names (the valid ones are listed), or results of other settings in the folder.
        FileNotFoundError: a missing dataset or folder of maps.
        OSError: the folder cannot be written.
    """

    def __init__(
        self,
        predictor: ODAMPredictor,
        dataset_name: str,
        output_dir: str | Path,
        settings: ExplanationSettings | None = None,
        batch: int = 8,
        save_maps: bool = False,
        facts: Mapping[str, Any] | None = None,
        progress: Progress | None = None,
    ):
        if batch < 1:
            raise ValueError(f"batch is {batch}; it must be at least 1")
        self.summary: dict[str, dict[str, Any]] = {}
        settings = settings or ExplanationSettings()
        self._settings = settings = replace(settings, explain=settings.explain or predictor.settings)
        self._predictor, self._batch, self._progress = predictor, batch, progress
        self._folder, self._save_maps, self._dataset = Path(output_dir), save_maps, dataset_name
        self._images = dict(islice(load_objects(dataset_name).items(), settings.max_images))
        check_file_names({image_id: objects.ids for image_id, objects in self._images.items()})
        self._class_names = _class_names(dataset_name, predictor, self._images)
        self._sources = make_sources(predictor, settings, batch, self._folder, progress)
        detector, config = _describe(predictor)
        detector = {"dataset": dataset_name, **detector}
        self._facts = dict(facts or {}) | detector
        everything = detector | settings.to_json() | config
        self._record = Record(self._folder, everything, comm.get_rank())
        kept = self._record.entries.values()
        self._examples = ExampleStore(self._folder / "examples", settings.names, kept)
        self._chosen = None
        if settings.max_objects is not None:
            self._chosen = self._choose(settings.max_objects)
        # The first process has now written objects.csv anew; from here on all append to it.
        comm.synchronize()
        if predictor.cfg is None:
            # Nothing tells its weights from those of an earlier run.
            self.reset()

    @property
    def image_ids(self) -> list[str]:
        """The images to process, in the dataset's order."""
        return list(self._images)

    def read_image(self, image_id: str) -> np.ndarray:
        """One of the images to process, (h,w,3) uint8 BGR."""
        return self._images[image_id].read_image()

    @property
    def model(self) -> ObservingModel:
        """The detector with outputs that :meth:`process` need not detect anew."""
        return ObservingModel(self._predictor.model, (self._settings.explain.layer,))

    def reset(self) -> None:
        """Forget what was measured, in the output folder too; only maps that were saved stay.

        All processes that share the images call it together.
        """
        self._record.reset(comm.get_world_size())
        self.summary = {}
        remove_results(self._folder)
        self._examples.reset()
        for source in self._sources:
            for image_id in self._images:
                source.forget(image_id)
        # Nobody writes before all have forgotten.
        comm.synchronize()

    def process(self, inputs: Sequence[Mapping[str, Any]], outputs: Sequence[Mapping[str, Any]] = ()) -> None:
        """Explain and measure the objects of some images; those that are finished already are passed over.

        Args:
            inputs: of the model; reads ``image_id`` alone, as the image is read at its full size.
            outputs: of :attr:`model`. Those of another model, or none, make the detector run again.

        Raises:
            ValueError: an image that is unreadable or of another size than annotated; a map that is not finite or of
                another size; an image that is not in the dataset.
        """
        for number, one in enumerate(inputs):
            image_id = str(one["image_id"])
            if image_id not in self._images:
                raise ValueError(f"image {image_id} is none of the {len(self._images)} images of {self._dataset}")
            if image_id not in self._record.entries:
                self._explain(self._images[image_id], outputs[number] if outputs else {})

    def evaluate(self) -> OrderedDict[str, dict[str, float]]:
        """Put together what all processes have measured, and write it.

        Returns:
            method -> metric -> mean over objects, NaN where there is none; empty but on the main process.

        Raises:
            OSError: the folder cannot be written.
        """
        parts = comm.gather(self._record.entries)
        if not comm.is_main_process():
            return OrderedDict()
        found: dict[str, Entry] = {}
        for part in parts:
            found |= part
        entries = {image_id: found[image_id] for image_id in self._images if image_id in found}
        if len(entries) < len(self._images):
            missing = f"{len(self._images) - len(entries)} of {len(self._images)} images"
            logging.getLogger(__name__).warning("%s were not processed; the results lack them", missing)
        self._record.write_rows(entries.values())
        files = {image_id: Path(self._images[image_id].file) for image_id in entries}
        self.summary = write_results(self._folder, entries, files, self._settings, self._facts, self._examples)
        return OrderedDict(
            (method, {name: math.nan if mean is None else mean for name, mean in self.summary[method].items()})
            for method in self._settings.names
        )

    def _explain(self, objects: ImageObjects, output: Mapping[str, Any]) -> None:
        image = objects.read_image()
        pairs, detections, scene = self._find(objects, image, output)
        rows, small = self._measure(objects, pairs, detections, scene, image) if pairs else ([], None)
        entry = {"image_id": objects.image_id, "size": list(objects.size), "objects": int((~objects.crowd).sum())}
        # First the numbers: a run that stops in between may lack a picture.
        self._record.add(entry | {"rows": rows})
        if small is not None:
            self._examples.offer(self._record.entries[objects.image_id], image, small)
        for source in self._sources:
            source.forget(objects.image_id)

    def _match(self, objects: ImageObjects, found: Instances) -> list[tuple[int, int]]:
        """(row of the object, row of its detection) of the well-detected objects."""
        parts = (found.pred_boxes.tensor, found.scores, found.pred_classes)
        return match_objects(objects, *(part.detach().cpu().numpy() for part in parts), self._settings)

    def _choose(self, most: int) -> set[ObjectId]:
        """Some of the well-detected objects, spread evenly over the images, for methods that take long.

        The detector runs once an image. Several processes share the images and get the same answer.
        """
        images, own = list(self._images.values()), {}
        for objects in images[comm.get_rank() :: comm.get_world_size()]:
            found = self._predictor(objects.read_image())["instances"]
            own[objects.image_id] = [objects.ids[row] for row, _ in self._match(objects, found)]
        by_image: dict[str, list[str]] = {}
        for part in comm.all_gather(own):
            by_image |= part
        every = [(objects.image_id, name) for objects in images for name in by_image[objects.image_id]]
        return set(choose_evenly(every, most))

    def _find(
        self, objects: ImageObjects, image: np.ndarray, output: Mapping[str, Any]
    ) -> tuple[list[int], Instances, Scene | None]:
        """Rows of the objects to explain, their detections in the same order, and what explainers need of them."""
        if self._chosen is not None and not any((objects.image_id, name) in self._chosen for name in objects.ids):
            return [], Instances(objects.size), None
        if "observation" not in output:
            (output,) = self.model([self._predictor.model_input(image)])
        found = output["instances"]
        matched = self._match(objects, found)
        if self._chosen is not None:
            matched = [pair for pair in matched if (objects.image_id, objects.ids[pair[0]]) in self._chosen]
        pairs = [row for row, _ in matched]
        detections = found[torch.tensor([detection for _, detection in matched], dtype=torch.int64)]
        trace = output["observation"].trace_detections(output["image"], detections)
        scene = Scene(objects.image_id, [objects.ids[row] for row in pairs], objects.size, trace)
        return pairs, detections.to("cpu"), scene

    def _measure(
        self, objects: ImageObjects, pairs: Sequence[int], detections: Instances, scene: Scene, image: np.ndarray
    ) -> tuple[list[Row], np.ndarray]:
        """The rows of an image, method by method, and its maps as the page shows them, (M,D,mh,mw)."""
        masks = objects.masks()
        boxes = detections.pred_boxes.tensor.numpy().astype(np.float64)
        overlap = box_iou(objects.clipped_boxes[pairs], boxes).diagonal()
        rows, small = [], []
        for source in self._sources:
            small.append([])
            for place, heat_map in enumerate(source.maps(scene)):
                row = pairs[place]
                facts = {
                    "image_id": objects.image_id,
                    "annotation_id": objects.ids[row],
                    "class": self._class_names[objects.classes[row]],
                    "method": source.name,
                    **dict(zip(("x1", "y1", "x2", "y2"), boxes[place].tolist())),
                    "score": float(detections.scores[place]),
                    "iou": float(overlap[place]),
                    "missing": int(heat_map is None),
                    "has_mask": int(masks[row] is not None),
                    "other_objects": len(objects.others(row)),
                }
                try:
                    measured = self._measure_map(heat_map, objects, row, masks, scene, image)
                except ValueError as error:
                    what = f"the map of {source.name} for annotation {objects.ids[row]} of image {objects.image_id}"
                    raise ValueError(f"{what} cannot be measured: {error}") from error
                rows.append(facts | measured)
                small[-1].append(shrink_map(heat_map, objects.size))
                if self._save_maps and heat_map is not None:
                    self._save(source.name, objects.image_id, objects.ids[row], heat_map)
                if self._progress is not None:
                    self._progress(f"objects, {source.name}", place + 1, len(pairs))
        return rows, np.array(small)

    def _measure_map(
        self,
        heat_map: np.ndarray | None,
        objects: ImageObjects,
        row: int,
        masks: Sequence[np.ndarray | None],
        scene: Scene,
        image: np.ndarray,
    ) -> Row:
        """Metrics and curves of one map; all None where it is missing."""
        measured: Row = dict.fromkeys((*METRICS, *CURVES)) | {"zero_map": 0}
        if heat_map is None:
            return measured
        heat, others = CheckedMap.of(heat_map), objects.others(row)
        other_masks = [masks[other] for other in others]
        complete = all(mask is not None for mask in other_masks)
        cheap = score_maps(
            heat, objects.boxes[row], masks[row], objects.boxes[others], other_masks if complete else None
        )
        measured |= {name: cheap[name] for name in CHEAP} | {"zero_map": int(cheap["zero_map"])}
        if masks[row] is not None:
            measured["vea_curve"] = vea_curve(heat, masks[row]).tolist()
        label, box = int(objects.classes[row]), objects.clipped_boxes[row]
        for kind in ("deletion", "insertion"):
            if f"{kind}_auc" not in self._settings.metrics:
                continue
            curve = perturbation_scores(
                image,
                heat,
                box,
                object_score(self._predictor, label, box, self._settings.explain.amp),
                self._settings.protocol,
                self._settings.steps,
                self._batch,
                self._settings.seed,
                kind,
                scene.trace.image_size,
            )
            measured[f"{kind}_auc"] = curve.auc
            measured[f"{kind}_curve"] = None if curve.is_undefined else curve.percent.tolist()
        return measured

    def _save(self, method: str, image_id: str, annotation_id: str, heat_map: np.ndarray) -> None:
        folder = self._folder / "maps" / method
        folder.mkdir(parents=True, exist_ok=True)
        np.save(folder / map_file(image_id, annotation_id), heat_map.astype(np.float32))


def _describe(predictor: ODAMPredictor) -> tuple[dict[str, Any], dict[str, Any]]:
    """Which detector the numbers belong to, for readers; and its config, for comparison with that of another run."""
    cfg = predictor.cfg
    if cfg is None:
        return {"detector": type(predictor.model).__name__, "weights": "in memory"}, {}
    facts = {
        "detector": cfg.MODEL.META_ARCHITECTURE,
        "weights": cfg.MODEL.WEIGHTS,
        "weights_sha256": weights_sha256(cfg.MODEL.WEIGHTS),
    }
    return facts, {"config": yaml.safe_load(cfg.dump())}


def _class_names(dataset_name: str, predictor: ODAMPredictor, images: Mapping[str, ImageObjects]) -> list[str]:
    """Names of the dataset's classes, which must be the detector's, or the first of them."""
    own = list(predictor.class_names)
    names = list(MetadataCatalog.get(dataset_name).get("thing_classes") or own)
    if len(names) != len(own) and names != own[: len(names)]:
        raise ValueError(
            f"the dataset {dataset_name} names {len(names)} classes and the detector has {len(own)}; measure it on a "
            "dataset of its own classes"
        )
    highest = max((int(objects.classes.max()) for objects in images.values() if len(objects.classes)), default=-1)
    if highest >= len(names):
        raise ValueError(f"the dataset {dataset_name} has a class number {highest} and {len(names)} classes")
    return names
