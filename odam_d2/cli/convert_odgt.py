"""odgt to COCO JSON: full boxes as bbox, visible ones as visible_bbox, regions to be ignored as iscrowd."""

import argparse
import json
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from odam_d2.cli.arguments import add_output, make_parser
from odam_d2.cli.common import run_command
from odam_d2.data.crowdhuman import load_crowdhuman
from odam_d2.data.odgt import OdgtImage, read_odgt
from odam_d2.files import write_atomically


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = make_parser("convert-odgt", __doc__)
    parser.add_argument("odgt", help="odgt file, such as annotation_val.odgt")
    parser.add_argument("--images", required=True, metavar="DIR", help="folder with <ID>.jpg; the sizes are read there")
    parser.add_argument("--suffix", default=".jpg", help="of the images' names (default .jpg)")
    add_output(parser, metavar="JSON")
    return parser.parse_args(argv)


def to_coco(images: list[OdgtImage], dicts: list[dict[str, Any]]) -> dict[str, Any]:
    """The content of the COCO file; image IDs are numbers there, ``odgt_id`` keeps the original."""
    content: dict[str, Any] = {"info": {"description": "converted from odgt"}, "images": [], "annotations": []}
    content["categories"] = [{"id": 1, "name": "person"}]
    for image_id, (image, read) in enumerate(zip(images, dicts), start=1):
        content["images"].append(
            {
                "id": image_id,
                "odgt_id": image.id,
                "file_name": os.path.basename(read["file_name"]),
                "height": read["height"],
                "width": read["width"],
            }
        )
        visible = image.visible_boxes if image.visible_boxes is not None else np.full_like(image.boxes, np.nan)
        for box, ignored, seen in zip(image.boxes, image.ignored, visible):
            annotation = {
                "id": len(content["annotations"]) + 1,
                "image_id": image_id,
                "category_id": 1,
                "bbox": xywh(box),
                "area": float((box[2] - box[0]) * (box[3] - box[1])),
                "iscrowd": int(ignored),
            }
            if not np.isnan(seen).any():
                annotation["visible_bbox"] = xywh(seen)
            content["annotations"].append(annotation)
    return content


def xywh(box: np.ndarray) -> list[float]:
    """[x, y, width, height] of an XYXY box."""
    return [*box[:2].tolist(), *(box[2:] - box[:2]).tolist()]


def run(argv: Sequence[str] | None) -> int:
    """Convert, and print what the file holds."""
    args = parse_arguments(argv)
    content = to_coco(read_odgt(args.odgt), load_crowdhuman(args.odgt, args.images, args.suffix))
    args.output.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(args.output, json.dumps(content) + "\n")
    ignored = sum(annotation["iscrowd"] for annotation in content["annotations"])
    people = len(content["annotations"]) - ignored
    print(f"{args.output}: {len(content['images'])} images, {people} people, {ignored} regions to be ignored")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the exit code is 1 where a file cannot be used."""
    return run_command(lambda: run(argv))
