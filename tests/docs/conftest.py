"""A folder that holds what the pages speak of: photographs, datasets, detections, and configs that take seconds."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
from PIL import Image
from skimage import data

from own_data import write_odgt

ROOT = Path(__file__).parents[2]
# Longest side of a photograph.
SIDE = 320
# Files under the names that pages use: what they are based on, and their own keys.
TRAINING = {
    "SOLVER": {"MAX_ITER": 1, "IMS_PER_BATCH": 1, "WARMUP_ITERS": 0},
    "INPUT": {"MIN_SIZE_TRAIN": [96], "MIN_SIZE_TEST": 96},
    "TEST": {"EVAL_PERIOD": 0},
}
# Smaller than in the configs, and large enough to find the objects in the photographs.
SMALL_IMAGES = {"INPUT": {"MIN_SIZE_TEST": 208}}
SMALL = SMALL_IMAGES | {"ODAM": {"EXPLAIN": {"DRISE_MASKS": 4, "CONFIDENCE_THRESHOLD": 0.5}}}
CONFIGS = {
    "demo/fcos_nanodet_g.yaml": ("demo/fcos_nanodet_g.yaml", SMALL),
    "demo/faster_rcnn_nanodet_g.yaml": ("demo/faster_rcnn_nanodet_g.yaml", SMALL),
    "demo/retinanet_nanodet_g.yaml": ("demo/retinanet_nanodet_g.yaml", SMALL),
    "your.yaml": ("demo/fcos_nanodet_g.yaml", SMALL),
    "your_other.yaml": ("demo/faster_rcnn_nanodet_g.yaml", SMALL),
    "odam_nms/fcos_nanodet_g_synthetic.yaml": ("odam_nms/fcos_nanodet_g_synthetic.yaml", SMALL_IMAGES),
    # Their own weights are those of a command that fetches them. RetinaNet's batch normalisation needs two images, as a
    # crop has one cell on its last level.
    **{
        f"demo/{name}_nanodet_g_train.yaml": (
            f"demo/{name}_nanodet_g_train.yaml",
            TRAINING
            | {"MODEL": {"WEIGHTS": ""}, "ODAM": {"INPUT": {"CROP_SIZE": 96}}}
            | {"SOLVER": TRAINING["SOLVER"] | {"IMS_PER_BATCH": images}},
        )
        for name, images in (("fcos", 1), ("faster_rcnn", 1), ("retinanet", 2))
    },
    **{
        f"odam_nms/{name}_nanodet_g_synthetic_train.yaml": (f"odam_nms/{name}_nanodet_g_synthetic_train.yaml", TRAINING)
        for name in ("fcos", "faster_rcnn")
    },
    "odam_kd/fcos_lcnet_050_synthetic.yaml": ("odam_kd/fcos_lcnet_050_synthetic.yaml", TRAINING),
    "odam_train/fcos_nanodet_g_synthetic.yaml": ("odam_train/fcos_nanodet_g_synthetic.yaml", TRAINING),
    # Weights that need a network: random small networks stand in.
    "odam_nms/faster_rcnn_R_50_FPN_crowdhuman.yaml": (
        "quick/faster_rcnn.yaml",
        TRAINING
        | {
            "MODEL": {"ROI_HEADS": {"NUM_CLASSES": 1}},
            "DATASETS": {"TRAIN": ["crowdhuman_train"], "TEST": ["crowdhuman_val"]},
        },
    ),
    "explain/faster_rcnn_R_50_FPN_3x.yaml": ("quick/faster_rcnn.yaml", {}),
}


@pytest.fixture(scope="session")
def contents(tmp_path_factory, quick_weights):
    """Made once; tests get a copy."""
    folder = tmp_path_factory.mktemp("pages")
    write_photos(folder)
    write_configs(folder, quick_weights("faster_rcnn"))
    write_crowds(folder)
    detectors = [folder / "demo" / f"{name}_nanodet_g.yaml" for name in ("fcos", "faster_rcnn", "retinanet")]
    write_coco(folder / "data", folder / "photos", detectors)
    write_fixations(folder / "fixations.csv", folder / "photos")
    return folder


@pytest.fixture
def folder(contents, empty_catalogs, tmp_path, monkeypatch):
    """The working folder of a page."""
    place = tmp_path / "page"
    shutil.copytree(contents, place)
    monkeypatch.chdir(place)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(place / "data"))
    return place


def write_photos(folder: Path) -> None:
    photos = {name: Image.fromarray(getattr(data, name)()) for name in ("chelsea", "astronaut", "coffee")}
    for photo in photos.values():
        photo.thumbnail((SIDE, SIDE))
    for name in ("photos", "more"):
        (folder / name).mkdir()
    photos["chelsea"].save(folder / "photo.jpg")
    photos["astronaut"].save(folder / "other.jpg")
    photos["coffee"].save(folder / "new.jpg")
    photos["chelsea"].save(folder / "photos" / "chelsea.jpg")
    photos["astronaut"].save(folder / "photos" / "astronaut.jpg")
    photos["coffee"].save(folder / "more" / "coffee.png")


def write_fixations(path: Path, photos: Path) -> None:
    """Two people who looked at the middle of each photograph, and a little beside it."""
    lines = ["image,observer,x,y,duration"]
    for file in sorted(photos.iterdir()):
        width, height = Image.open(file).size
        lines += [f"{file.name},ann,{width / 2},{height / 2},200", f"{file.name},ben,{width / 3},{height / 2},300"]
    path.write_text("\n".join(lines) + "\n")


def write_configs(folder: Path, weights: str) -> None:
    for name, (base, own) in CONFIGS.items():
        file = folder / name
        file.parent.mkdir(exist_ok=True)
        if name.startswith("explain/"):
            own = {"MODEL": {"WEIGHTS": weights}}
        # JSON is yaml.
        file.write_text(json.dumps({"_BASE_": str(ROOT / "configs" / base), **own}))


def write_crowds(folder: Path) -> None:
    """CrowdHuman's format, and an image of each split of the synthetic crowds."""
    from odam_d2.data.synthetic.dataset import SPLITS, write_dataset

    root = folder / "data" / "synthetic_crowd"
    for split, (seed, _) in SPLITS.items():
        write_dataset(root / split, seed=seed, count=1)
    (crowd,) = (root / "val0" / "images").iterdir()
    Image.open(crowd).save(folder / "crowd.jpg")
    people = {"a": [[5, 5, 20, 30], [30, 5, 20, 30]], "b": [[10, 2, 30, 36]]}
    write_odgt(folder / "Images", people)
    annotations = (folder / "Images" / "annotation.odgt").rename(folder / "annotation_val.odgt")
    lines = [
        {
            "ID": name,
            "height": 40,
            "width": 60,
            "dtboxes": [{"box": box, "score": 0.9} for box in boxes],
        }
        for name, boxes in people.items()
    ]
    (folder / "detections.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    shutil.copytree(folder / "Images", folder / "data" / "crowdhuman" / "Images")
    for split in ("train", "val"):
        shutil.copy(annotations, folder / "data" / "crowdhuman" / f"annotation_{split}.odgt")


def write_coco(folder: Path, photos: Path, configs: Sequence[Path]) -> None:
    """COCO's format: the best detections of both bundled detectors in two photographs are the truth.

    The photographs stand for those of COCO's parts, under ids of their own, and for OSIE's.
    """
    from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES

    from odam_d2 import ODAMPredictor, load_config, read_image

    categories = [category for category in COCO_CATEGORIES if category["isthing"]]
    images, annotations = [], []
    predictors = [ODAMPredictor(load_config(str(config))) for config in configs]
    for number, file in enumerate(sorted(photos.iterdir()), 1):
        image = read_image(file)
        size = {"height": image.shape[0], "width": image.shape[1]}
        images.append({"id": number, "file_name": file.name, **size})
        for predictor in predictors:
            found = predictor(image)["instances"][:1]
            for (x1, y1, x2, y2), label in zip(found.pred_boxes.tensor.tolist(), found.pred_classes.tolist()):
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": number,
                        "category_id": categories[label]["id"],
                        "bbox": [x1, y1, x2 - x1, y2 - y1],
                        "area": (x2 - x1) * (y2 - y1),
                        "iscrowd": 0,
                        "segmentation": [[x1, y1, x2, y1, x2, y2, x1, y2]],
                    }
                )
    named = [{"id": category["id"], "name": category["name"]} for category in categories]
    places = {
        "coco_mini/annotations/instances_train2017.json": "coco_mini/train2017",
        "coco_mini/annotations/instances_val2017.json": "coco_mini/val2017",
        "coco_more/annotations/instances_val2017.json": "coco_more/val2017",
        "osie/annotations/instances_pseudo.json": "osie/stimuli",
    }
    for number, (file, images_folder) in enumerate(places.items()):
        shift = 100 * number
        content = {
            "images": [{**one, "id": one["id"] + shift} for one in images],
            "annotations": [{**one, "image_id": one["image_id"] + shift, "score": 0.9} for one in annotations],
            "categories": named,
        }
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text(json.dumps(content))
        shutil.copytree(photos, folder / images_folder)
