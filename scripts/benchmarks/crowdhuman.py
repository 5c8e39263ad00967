"""The CrowdHuman measures on a made-up validation set of the real one's size: 4,370 images of about 22 people."""

import statistics
import time
from collections.abc import Iterator

import numpy as np

from benchmarks.measure import Options, Table
from odam_d2.data.odgt import OdgtDetections, OdgtImage
from odam_d2.evaluation.detections.crowd_matching import count_pairs, match_by_score, measure_overlaps
from odam_d2.evaluation.detections.crowdhuman import JI_THRESHOLDS, CrowdResult, evaluate_crowd

IMAGES, PEOPLE, DETECTIONS = 4370, 22, 500
# Of the detections, those that are shifted copies of people, as before or after a careless NMS; the rest is scattered.
COPIES = 250
HEIGHT, WIDTH = 1000, 1400


def run(options: Options) -> Iterator[Table]:
    count = options.size(IMAGES, 20)
    images = [made_crowd(seed) for seed in range(count)]
    measured = [one_run(images) for _ in range(options.repeats)]
    result = measured[-1][1]
    names = list(measured[0][0])
    rows = []
    for name in names:
        value = statistics.median(times[name] for times, _ in measured)
        rows.append({"what": name, "s": value, "ms an image": value * 1e3 / count})
    note = (
        f"{result.people / count:.1f} people an image; AP {result.ap:.1f}, MR {result.mr:.1f}, JI {result.ji:.1f} "
        f"at {result.ji_threshold}, recall {result.recall:.1f}"
    )
    yield Table(f"{count} images, {DETECTIONS} detections each, one core", rows, note)


def one_run(images: list[tuple[OdgtImage, OdgtDetections]]) -> tuple[dict[str, float], CrowdResult]:
    """Seconds of each part, and of the whole, which does the same parts again."""
    times = dict.fromkeys(("overlaps (IoU, ignore regions)", "matching for AP, MR, recall", "matchings for JI"), 0.0)
    for truth, found in images:
        start = time.perf_counter()
        overlaps = measure_overlaps(truth, found)
        measured = time.perf_counter()
        match_by_score(overlaps)
        matched = time.perf_counter()
        count_pairs(overlaps, JI_THRESHOLDS)
        for name, seconds in zip(times, (measured - start, matched - measured, time.perf_counter() - matched)):
            times[name] += seconds
    start = time.perf_counter()
    result = evaluate_crowd([truth for truth, _ in images], [found for _, found in images])
    times["evaluate_crowd, all"] = time.perf_counter() - start
    return times, result


def made_crowd(seed: int) -> tuple[OdgtImage, OdgtDetections]:
    """People in three clusters, so that many are a candidate for several detections and the other way round."""
    generator = np.random.default_rng(seed)
    people = generator.poisson(PEOPLE) + 1
    centres = generator.uniform(200, 800, (3, 2))[generator.integers(3, size=people)]
    truth = boxes_around(generator, centres + generator.normal(0, 80, (people, 2)), generator.uniform(30, 90, people))
    regions = np.tile(generator.uniform(0, 900, (generator.integers(3), 2)), 2) + [0, 0, 150, 100]
    chosen = generator.integers(people, size=COPIES)
    sides = truth[chosen, 2:] - truth[chosen, :2]
    copies = truth[chosen] + generator.normal(0, 0.15, (COPIES, 4)) * np.tile(sides, 2)
    # Noise may turn a side around; sorting turns it back.
    copies = np.stack([np.sort(copies[:, ::2]), np.sort(copies[:, 1::2])], axis=2).reshape(-1, 4)
    scattered = boxes_around(
        generator, generator.uniform(0, 1000, (DETECTIONS - COPIES, 2)), generator.uniform(20, 90, DETECTIONS - COPIES)
    )
    scores = np.concatenate([generator.beta(2, 3, COPIES), generator.beta(1, 8, DETECTIONS - COPIES)])
    ignored = np.arange(people + len(regions)) >= people
    return (
        OdgtImage(str(seed), np.concatenate([truth, regions]), ignored),
        OdgtDetections(str(seed), np.concatenate([copies, scattered]), scores, HEIGHT, WIDTH),
    )


def boxes_around(generator: np.random.Generator, centres: np.ndarray, widths: np.ndarray) -> np.ndarray:
    """(N,4) boxes of people: two to three times as high as wide."""
    half = np.stack([widths, widths * generator.uniform(2, 3, len(widths))], axis=1) / 2
    return np.concatenate([centres - half, centres + half], axis=1)
