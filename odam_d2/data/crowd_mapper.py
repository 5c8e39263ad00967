"""Training samples that keep the regions which a crowd data set marks as neither object nor background.

Shapes: N annotations of an image.
"""

from typing import Any

from detectron2.data import DatasetMapper


class CrowdMapper(DatasetMapper):
    """Detectron2's mapper, but annotations with ``iscrowd`` = 1 stay, as instances marked by ``gt_ignore``.

    The instances carry the field ``gt_ignore``, (N,) bool: True for regions to ignore, False for objects. Boxes only:
    regions have no masks and no keypoints.

    All boxes are clipped to the image, as Detectron2 does it, amodal full boxes of CrowdHuman too: its evaluation clips
    detections and ground truth alike, so that what lies outside counts for nothing.
    """

    def _transform_annotations(self, dataset_dict: dict[str, Any], transforms: Any, image_shape: Any) -> None:
        """Overrides Detectron2's, which drops ``iscrowd`` annotations."""
        # The class carries the mark, as a negative number, through Detectron2's transforms and its filter of empty
        # boxes, so that mark and box stay together whatever is filtered.
        dataset_dict["annotations"] = [
            {**annotation, "iscrowd": 0, "category_id": -1 - annotation["category_id"]}
            if annotation.get("iscrowd", 0)
            else annotation
            for annotation in dataset_dict["annotations"]
        ]
        super()._transform_annotations(dataset_dict, transforms, image_shape)
        instances = dataset_dict["instances"]
        marked = instances.gt_classes
        instances.gt_ignore = marked < 0
        instances.gt_classes = marked.where(marked >= 0, -1 - marked)
