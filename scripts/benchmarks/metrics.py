"""The metrics of explanations, apart from what the detector takes: 1000 maps of 640 x 480 pixels on one thread."""

from collections.abc import Iterator

import numpy as np

from benchmarks.measure import Options, Table, seconds
from odam_d2.data.masks import object_mask
from odam_d2.evaluation.metrics.discrimination import odi
from odam_d2.evaluation.metrics.localization import compactness, energy_pointing_game, pointing_game
from odam_d2.evaluation.metrics.matching import well_detected
from odam_d2.evaluation.metrics.specification import perturbation_scores, vea_auc, vea_curve
from odam_d2.evaluation.metrics.statistics import bootstrap_interval
from odam_d2.evaluation.study.scores import score_maps

SIZE = (480, 640)
MAPS = 1000
# Measured on so many different maps, and scaled to all; all metrics together are run on all.
SAMPLE = 40
OTHERS = 7  # COCO has 7.3 objects an image


def run(options: Options) -> Iterator[Table]:
    repeats, maps = options.repeats, options.size(MAPS, 8)
    objects = make_objects(options.size(SAMPLE, 4))
    yield Table(
        f"Metrics of {maps} maps, {SIZE[1]} x {SIZE[0]}, {OTHERS} other objects each",
        list(cheap_metrics(objects, maps, repeats)),
    )
    yield Table("Deletion and Insertion without the detector, one object of 200 x 150", list(perturbation(repeats)))
    yield Table("Beside the maps", list(others(repeats)))


def make_objects(count: int) -> list[dict]:
    """Maps with a bump on an elliptic object, as ``score_maps`` takes them."""
    generator = np.random.default_rng(0)
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    objects = []
    for _ in range(count):
        centers = generator.uniform((60, 60), (580, 420), (OTHERS + 1, 2))
        halves = generator.uniform(20, 120, (OTHERS + 1, 2))
        radii = [
            ((columns - x) / a) ** 2 + ((rows - y) / b) ** 2 for (x, y), (a, b) in zip(centers, halves, strict=True)
        ]
        boxes = np.concatenate([centers - halves, centers + halves], axis=1)
        noise = generator.random(SIZE, dtype=np.float32)
        masks = np.array(radii) < 1
        objects.append(
            {
                "heat_map": (np.exp(-radii[0]) * noise).astype(np.float32),
                "target_box": boxes[0],
                "target_mask": masks[0],
                "other_boxes": boxes[1:],
                "other_masks": masks[1:],
            }
        )
    return objects


def cheap_metrics(objects: list[dict], count: int, repeats: int) -> Iterator[dict]:
    metrics = {
        "pointing game, box": lambda o: pointing_game(o["heat_map"], o["target_box"]),
        "pointing game, mask": lambda o: pointing_game(o["heat_map"], o["target_mask"]),
        "energy pointing game, box": lambda o: energy_pointing_game(o["heat_map"], o["target_box"]),
        "energy pointing game, mask": lambda o: energy_pointing_game(o["heat_map"], o["target_mask"]),
        "compactness": lambda o: compactness(o["heat_map"], o["target_box"]),
        "ODI, boxes": lambda o: odi(o["heat_map"], o["target_box"], o["other_boxes"]),
        "ODI, masks": lambda o: odi(o["heat_map"], o["target_mask"], o["other_masks"]),
        "VEA curve and AUC": lambda o: vea_auc(vea_curve(o["heat_map"], o["target_mask"])),
    }
    for name, metric in metrics.items():
        each = seconds(lambda metric=metric: [metric(o) for o in objects], repeats) / len(objects)
        yield {"metric": name, "ms a map": 1e3 * each, f"s for {count}": count * each}
    time = seconds(lambda: [score_maps(**objects[i % len(objects)]) for i in range(count)], repeats)
    yield {"metric": "all of them (score_maps)", "ms a map": 1e3 * time / count, f"s for {count}": time}


def perturbation(repeats: int) -> Iterator[dict]:
    generator = np.random.default_rng(0)
    image = generator.integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    heat_map = generator.random(SIZE, dtype=np.float32)
    for kind in ("deletion", "insertion"):
        for protocol in ("paper", "authors"):
            images = []

            def score_of(batch, images=images):
                images.append(len(batch))
                return np.ones(len(batch))

            def call(kind=kind, protocol=protocol, score_of=score_of):
                options = {"protocol": protocol, "kind": kind, "input_size": (800, 1067)}
                return perturbation_scores(image, heat_map, [100, 100, 300, 250], score_of, **options)

            call()
            count = sum(images)
            time = seconds(call, repeats)
            yield {
                "kind": kind,
                "protocol": protocol,
                "images": count,
                "ms": 1e3 * time,
                "ms an image": 1e3 * time / count,
            }


def others(repeats: int) -> Iterator[dict]:
    generator = np.random.default_rng(0)
    corners = generator.uniform(0, 400, (100, 2))
    boxes = np.concatenate([corners, corners + generator.uniform(20, 200, (100, 2))], axis=1)
    classes, values = generator.integers(80, size=100), generator.random(10_000)
    angles = np.linspace(0, 2 * np.pi, 100)
    polygon = [np.stack([320 + 200 * np.cos(angles), 240 + 150 * np.sin(angles)], axis=1).flatten().tolist()]
    calls = {
        "well_detected, 20 objects and 100 detections": lambda: well_detected(
            boxes[:20], classes[:20], boxes, np.linspace(1, 0.2, 100), classes
        ),
        "object_mask, a polygon of 100 points": lambda: object_mask(polygon, *SIZE),
        "bootstrap_interval, 10000 values, 2000 repeats": lambda: bootstrap_interval(values),
    }
    for name, call in calls.items():
        yield {"what": name, "ms": 1e3 * seconds(call, repeats)}
