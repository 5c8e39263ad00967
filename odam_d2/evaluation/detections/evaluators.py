"""Detectron2 evaluators of detections."""

import contextlib
import io
import logging
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import COCOEvaluator, DatasetEvaluator
from detectron2.utils import comm

from odam_d2.data.coco_json import read_coco
from odam_d2.data.objects import check_dicts
from odam_d2.data.odgt import OdgtDetections, read_odgt
from odam_d2.evaluation.detections.crowdhuman import evaluate_crowd
from odam_d2.evaluation.detections.operating_points import operating_points


class BoxEvaluator(COCOEvaluator):
    """Detectron2's box AP, with AP50 of every class beside it: few images make stricter thresholds a lottery.

    Also precision and recall above a score, ``precision-0.5`` and ``recall-0.5`` of all classes together, from which a
    threshold for what is shown can be chosen.

    An annotation without ``area`` has that of its box, one without ``iscrowd`` is an object.

    Args:
        dataset_name: a registered dataset, as a COCO file or as a function that returns Detectron2's dicts.
        **options: of Detectron2's evaluator.

    Raises:
        FileNotFoundError: the dataset's file is missing.
        ValueError: a fault of the dataset, such as an image id that comes twice; the message names it.
    """

    def __init__(self, dataset_name: str, **options: Any):
        # Checked before hours of inference, not after, and before pycocotools trips over what is missing.
        json_file = MetadataCatalog.get(dataset_name).get("json_file")
        if json_file:
            read_coco(json_file)
        else:
            check_dicts(DatasetCatalog.get(dataset_name), dataset_name)
        super().__init__(dataset_name, **options)
        for number, annotation in enumerate(self._coco_api.dataset.get("annotations", []), start=1):
            # pycocotools takes a match with an annotation 0 for none.
            annotation["id"] = number
            annotation["iscrowd"] = annotation.get("iscrowd") or 0
            if annotation.get("area") is None:
                annotation["area"] = annotation["bbox"][2] * annotation["bbox"][3]
        with contextlib.redirect_stdout(io.StringIO()):
            self._coco_api.createIndex()

    def process(self, inputs: Sequence[dict[str, Any]], outputs: Sequence[dict[str, Any]]) -> None:
        """Take the detections of a batch, as Detectron2 does it.

        Raises:
            ValueError: a detection of a class that the dataset does not have.
        """
        names = self._metadata.get("thing_classes")
        for model_input, output in zip(inputs, outputs):
            found = output.get("instances", ())
            highest = int(found.pred_classes.max()) if len(found) else -1
            if names is not None and highest >= len(names):
                raise ValueError(
                    f"the detector found a class number {highest} in the image {model_input['image_id']}, and the "
                    f"dataset {self._metadata.name} has {len(names)} classes; evaluate on one with the detector's"
                )
        super().process(inputs, outputs)

    def _derive_coco_results(self, coco_eval, iou_type: str, class_names: list[str] | None = None) -> dict[str, float]:
        results = super()._derive_coco_results(coco_eval, iou_type, class_names)
        if coco_eval is None or class_names is None:
            return results
        # (IoU thresholds, recalls, classes, areas, detections); IoU .5 is the first threshold, "all" the first area.
        precision = coco_eval.eval["precision"][0, :, :, 0, -1]
        per_class = {}
        for name, column in zip(class_names, precision.T):
            valid = column[column > -1]
            # COCO marks classes without ground truth by -1; they have no AP.
            per_class[f"AP50-{name}"] = float(100 * np.mean(valid)) if valid.size else float("nan")
        present = [(value, name[len("AP50-") :]) for name, value in per_class.items() if not np.isnan(value)]
        listed = ", ".join(f"{name} {value:.1f}" for value, name in sorted(present, reverse=True))
        logging.getLogger(__name__).info("AP50 of each class that has objects, best first: %s", listed)
        points = operating_points(coco_eval.cocoGt, coco_eval.cocoDt)
        lines = [
            f"{point.score:.1f}: {100 * point.precision:.0f} % of {point.detections} right, "
            f"{100 * point.recall:.0f} % of the objects found"
            for point in points
            if point.detections
        ]
        logging.getLogger(__name__).info("Detections above a score (IoU 0.5):\n%s", "\n".join(lines))
        precisions = {f"precision-{point.score:.1f}": 100 * point.precision for point in points}
        return results | per_class | precisions | {f"recall-{point.score:.1f}": 100 * point.recall for point in points}


class CrowdHumanEvaluator(DatasetEvaluator):
    """AP, MR^-2, JI and recall of a dataset whose ground truth is an odgt file, over all its images.

    An image that was never processed counts as one without detections, after a warning; one that several processes saw,
    as padded samplers let happen, counts once. The classes of detections are not looked at: the dataset has one.

    Args:
        dataset_name: a registered dataset with the metadata ``odgt_file``, such as ``crowdhuman_val``.
        output_dir: folder for ``detections.jsonl``, which ``scripts/evaluate_crowdhuman.py`` reads; None for no file.

    Raises:
        ValueError: a dataset without ``odgt_file``, or a bad line in it.
        FileNotFoundError: the odgt file is missing.
    """

    def __init__(self, dataset_name: str, output_dir: str | None = None):
        odgt_file = MetadataCatalog.get(dataset_name).get("odgt_file")
        if odgt_file is None:
            raise ValueError(f"the dataset {dataset_name} names no odgt_file in its metadata")
        # Read before hours of inference, not after.
        self._ground_truth = read_odgt(odgt_file)
        self._output_dir = output_dir
        self._found: dict[str, OdgtDetections] = {}

    def reset(self) -> None:
        """Forget all images."""
        self._found = {}

    def process(self, inputs: Sequence[dict[str, Any]], outputs: Sequence[dict[str, Any]]) -> None:
        """Take the detections of a batch.

        Args:
            inputs: of the model; reads ``image_id``, the image's ID in the odgt file.
            outputs: of the model, ``instances`` in pixels of the image as it was read.

        Raises:
            ValueError: boxes or scores that are no finite numbers, or a box without a size.
        """
        for model_input, output in zip(inputs, outputs):
            instances, name = output["instances"].to("cpu"), str(model_input["image_id"])
            height, width = instances.image_size
            boxes, scores = instances.pred_boxes.tensor.double().numpy(), instances.scores.double().numpy()
            try:
                self._found[name] = OdgtDetections(name, boxes, scores, int(height), int(width))
            except ValueError as error:
                raise ValueError(f"the detections in the image {name}: {error}") from error

    def evaluate(self) -> OrderedDict[str, dict[str, float]]:
        """Measure what all processes have processed.

        Returns:
            ``{"crowd": {"AP", "MR", "JI", "Recall"}}`` in percent; empty but on the main process.

        Raises:
            ValueError: an image was processed that the odgt file does not list, or of another size.
        """
        parts = comm.gather(self._found)
        if not comm.is_main_process():
            return OrderedDict()
        found: dict[str, OdgtDetections] = {}
        for part in parts:
            found |= part
        logger = logging.getLogger(__name__)
        missing = sum(image.id not in found for image in self._ground_truth)
        if missing:
            count = f"{missing} of {len(self._ground_truth)} images"
            logger.warning("%s of the ground truth were not processed; they count as without detections", count)
        if self._output_dir is not None:
            folder = Path(self._output_dir)
            folder.mkdir(parents=True, exist_ok=True)
            with (folder / "detections.jsonl").open("w", encoding="utf-8") as file:
                file.writelines(image.to_json() + "\n" for image in found.values())
        result = evaluate_crowd(self._ground_truth, list(found.values()))
        logger.info(
            "AP %.2f, MR-2 %.2f (smaller is better), JI %.2f (scores > %.1f), Recall %.2f; %d people in %d images",
            *(result.ap, result.mr, result.ji, result.ji_threshold, result.recall, result.people, result.images),
        )
        return OrderedDict(crowd={"AP": result.ap, "MR": result.mr, "JI": result.ji, "Recall": result.recall})
