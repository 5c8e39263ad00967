"""Detectron2 evaluators over datasets."""

import logging

import numpy as np
from detectron2.evaluation import COCOEvaluator


class BoxEvaluator(COCOEvaluator):
    """Detectron2's box AP, with AP50 of every class beside it: few images make stricter thresholds a lottery."""

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
        return results | per_class
