"""The pages of a study: one self-contained file a participant, in which no method is named.

Shapes: (h,w) image.
"""

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data import MetadataCatalog
from PIL import Image

from odam_d2.data.images import read_image
from odam_d2.data.objects import load_objects
from odam_d2.evaluation.people.trust.answers import ANSWERS_FORMAT, SIMILAR
from odam_d2.evaluation.people.trust.studies import DRAW, STUDIES, Item, Question, Study
from odam_d2.evaluation.study.examples import shrink_map
from odam_d2.evaluation.study.sources import map_file, read_map
from odam_d2.files import open_atomically
from odam_d2.show.overlays import draw_detections, overlay
from odam_d2.show.page import data_script, fit
from odam_d2.show.sheets import resize_heat
from odam_d2.show.template import around_data

# Longest side of a picture, and how good its JPEG is.
SIDE, QUALITY = 640, 82
# Of the box around the object that is asked about, as in the paper.
BLUE = (30, 110, 255)


def find_items(dataset_name: str, folders: Sequence[Path]) -> list[Item]:
    """The objects of a dataset of which every folder has a map.

    Args:
        dataset_name: a registered dataset.
        folders: of ``<image id>_<annotation id>.npy``, as ``odam evaluate --save-maps`` writes them.

    Raises:
        FileNotFoundError: a folder that does not exist.
        ValueError: no such object, or a dataset that cannot be used.
    """
    for folder in folders:
        if not folder.is_dir():
            raise FileNotFoundError(
                f"there is no folder of maps {folder}; odam evaluate --save-maps writes one a method"
            )
    items = []
    images = load_objects(dataset_name)
    # Detectron2 knows the classes of a COCO file once it was read.
    names = MetadataCatalog.get(dataset_name).get("thing_classes")
    for image_id, objects in images.items():
        for row, annotation_id in enumerate(objects.ids):
            if all((folder / map_file(image_id, annotation_id)).is_file() for folder in folders):
                label = int(objects.classes[row])
                name = names[label] if names and label < len(names) else str(label)
                box = tuple(float(side) for side in objects.clipped_boxes[row])
                items.append(Item(image_id, annotation_id, name, str(objects.file), tuple(objects.size), box))
    if not items:
        named = ", ".join(map(str, folders))
        raise ValueError(
            f"no object of {dataset_name} has a map in all {len(folders)} folders, {named}; make them with "
            "odam evaluate --save-maps on this dataset"
        )
    return items


def write_pages(
    folder: Path, study: Study, maps: Mapping[str, Path], done: Callable[[str], None] | None = None
) -> list[Path]:
    """Write a page for each participant, ``participant-<name>.html``.

    Args:
        folder: an existing one.
        study: who is asked what.
        maps: method -> its folder of maps.
        done: told the participant whose page is written.

    Returns:
        the pages.

    Raises:
        ValueError: an image or a map that cannot be used; the message names it.
        OSError: a page cannot be written.
    """
    before, after = around_data("odam_d2.evaluation.people", "trust.html")
    pages = []
    for participant in study.participants:
        questions = [_question(study, question, maps) for question in study.questions_of(participant)]
        data = {
            "format": ANSWERS_FORMAT,
            "study": study.id,
            "kind": study.kind,
            "participant": participant,
            "title": STUDIES[study.kind].title,
            "similar": SIMILAR,
            "questions": questions,
        }
        pages.append(folder / f"participant-{participant}.html")
        with open_atomically(pages[-1], errors="replace") as file:
            file.write(before)
            file.write(data_script("study", data))
            file.write(after)
        if done is not None:
            done(participant)
    return pages


def _question(study: Study, question: Question, maps: Mapping[str, Path]) -> dict[str, Any]:
    """What the page needs of a question; nothing in it tells a method."""
    item = study.items[question.item]
    image = read_image(item.file)
    if image.shape[:2] != tuple(item.size):
        raise ValueError(f"{item.file} has size {image.shape[:2]}; the dataset says {tuple(item.size)}")
    height, width = fit(item.size, SIDE)
    photo = Image.fromarray(np.ascontiguousarray(image[:, :, ::-1])).resize((width, height), Image.Resampling.LANCZOS)
    box = None if study.kind == DRAW else np.array(item.box) * ([width / item.size[1], height / item.size[0]] * 2)
    pictures = []
    for name in question.options:
        heat = read_map(maps[name] / map_file(item.image_id, item.annotation_id), tuple(item.size))
        small = resize_heat(shrink_map(heat, tuple(item.size)).astype(np.float32) / 255, (width, height))
        pictures.append(picture(overlay(np.asarray(photo), np.clip(small, 0, 1)), box))
    return {
        "id": question.id,
        "text": STUDIES[study.kind].text.replace("{name}", item.name),
        "width": int(item.size[1]),
        "height": int(item.size[0]),
        # Whoever draws a box sees the map alone.
        "photo": "" if study.kind == DRAW else picture(np.asarray(photo), box),
        "pictures": pictures,
    }


def picture(image: np.ndarray, box: np.ndarray | None) -> str:
    """A picture with a box, if there is one, as base64 JPEG.

    Args:
        image: (h,w,3) uint8 RGB.
        box: (4,) XYXY in pixels, or None.
    """
    drawn = image if box is None else draw_detections(image, [box], [""], [BLUE], width=3)
    buffer = io.BytesIO()
    # No metadata: nothing but pixels leaves the researcher's machine.
    Image.fromarray(drawn).save(buffer, "JPEG", quality=QUALITY)
    return base64.b64encode(buffer.getvalue()).decode()
