"""Crowds for the tests of CrowdHuman's measures: a few boxes by hand, and random ones."""

import numpy as np

from odam_d2.data.odgt import OdgtDetections, OdgtImage

PERSON = (0, 0, 10, 10)
# IoU with PERSON 80 / 120 = 2/3.
BESIDE = (2, 0, 12, 10)
FAR = (50, 50, 60, 60)


def truth(people, regions=(), name="a", size=(None, None)):
    boxes = np.array([*people, *regions], dtype=np.float64).reshape(-1, 4)
    return OdgtImage(name, boxes, np.arange(len(boxes)) >= len(people), *size)


def found(boxes, scores=None, name="a", size=(100, 200)):
    scores = np.linspace(0.99, 0.95, len(boxes)) if scores is None else scores
    return OdgtDetections(name, np.array(boxes, dtype=np.float64).reshape(-1, 4), np.array(scores, np.float64), *size)


def crowd(seed, images=6, people=5, detections=14):
    """Random crowds: many detections near people, tied scores, regions, boxes over the border."""
    generator = np.random.default_rng(seed)
    ground_truth, results = [], []
    for i in range(images):
        # Close to each other, so that people are rivals for detections.
        centres = generator.uniform(0, 50, 2) + generator.normal(0, 5, (generator.integers(people + 1), 2))
        persons = np.concatenate([centres - 12, centres + generator.uniform(8, 16, centres.shape)], axis=1)
        corner = generator.uniform(0, 50, (generator.integers(3), 2))
        regions = np.concatenate([corner, corner + generator.uniform(5, 35, corner.shape)], axis=1)
        starts = generator.uniform(-5, 55, (generator.integers(detections), 2))
        boxes = np.concatenate([starts, starts + generator.uniform(10, 30, starts.shape)], axis=1)
        for j in range(len(boxes)):
            if len(persons) and j % 3:
                boxes[j] = persons[generator.integers(len(persons))] + generator.normal(0, 3, 4)
        scores = generator.integers(0, 21, len(boxes)) / 20
        ground_truth.append(truth(persons, regions, name=str(i)))
        results.append(found(boxes, scores, name=str(i), size=(55, 65)))
    return ground_truth, results
