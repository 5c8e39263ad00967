"""Training batches: what was handed out is not handed out again, and each is the same whoever loads it."""

import random
from itertools import count, cycle, islice

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances

from helpers import small_cfg
from odam_d2.data.train_loader import TrainLoader, consumed, seed_generators, seeded


def test_without_groups_batches_are_consecutive():
    assert consumed(count(), 3, 4) == ([], 12)


def test_with_groups_samples_wait_for_others_of_their_kind():
    # Wide, high, high, wide, high, wide, ...: pairs are (0,3), (1,2), (4,?).
    wide = [True, False, False, True, False, True]
    assert consumed(iter(range(6)), 0, 2, wide) == ([], 0)
    assert consumed(iter(range(6)), 1, 2, wide) == ([(0, 0)], 3)  # 1 and 2 were first
    assert consumed(iter(range(6)), 2, 2, wide) == ([], 4)
    # Both kinds wait, in the order in which they came.
    assert consumed(iter([5, 1, 2, 4, 0]), 1, 3, wide) == ([(0, 5)], 4)
    assert consumed(iter([1, 5, 2, 4]), 1, 3, wide) == ([(1, 5)], 4)


def mapper(sample):
    """An image of noise: what augmentation drew."""
    noise = [random.random(), np.random.rand(), torch.rand(()).item()]
    instances = Instances((4, 4), gt_boxes=Boxes(torch.zeros(0, 4)))
    return {**sample, "noise": noise, "instances": instances}


def loader(iteration=0, seed=5, **options):
    cfg = small_cfg("fcos")
    cfg.SOLVER.IMS_PER_BATCH = 3
    for key, value in options.items():
        cfg.DATALOADER[key] = value
    sizes = cycle([(40, 30), (30, 40), (30, 30), (50, 20)])
    dicts = [{"image_id": i, "width": w, "height": h, "annotations": []} for i, (w, h) in zip(range(7), sizes)]
    found = TrainLoader(cfg, dicts, mapper)
    found.seed, found.iteration = seed, iteration
    return found


def batches(number, **options):
    return [
        [(one["image_id"], tuple(one["noise"])) for one in batch] for batch in islice(iter(loader(**options)), number)
    ]


@pytest.mark.parametrize("grouping", [True, False])
@pytest.mark.parametrize("start", [0, 1, 5])
@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_a_loader_goes_on_where_another_stopped(grouping, start, workers):
    whole = batches(9, ASPECT_RATIO_GROUPING=grouping)
    assert batches(9 - start, ASPECT_RATIO_GROUPING=grouping, iteration=start, NUM_WORKERS=workers) == whole[start:]
    # Nobody is left out: 27 samples of 7 images.
    assert {image for batch in whole for image, _ in batch} == set(range(7))
    assert len({noise for batch in whole for _, noise in batch}) == 27
    if grouping:
        wide = [[image % 4 in (0, 3) for image, _ in batch] for batch in whole]
        assert all(len(set(kinds)) == 1 for kinds in wide)


def test_another_seed_gives_another_order_and_other_augmentation():
    first, second = batches(3), batches(3, seed=6)
    assert [[image for image, _ in b] for b in first] != [[image for image, _ in b] for b in second]
    assert not {noise for b in first for _, noise in b} & {noise for b in second for _, noise in b}


@pytest.mark.parametrize("sampler", ["RepeatFactorTrainingSampler", "RandomSubsetTrainingSampler"])
def test_detectron2s_other_samplers_go_on_too(sampler):
    whole = batches(6, SAMPLER_TRAIN=sampler, REPEAT_THRESHOLD=0.5, RANDOM_SUBSET_RATIO=0.9)
    assert batches(2, SAMPLER_TRAIN=sampler, REPEAT_THRESHOLD=0.5, RANDOM_SUBSET_RATIO=0.9, iteration=4) == whole[4:]


def test_generators_are_as_before_after_a_block_with_its_own():
    def draw():
        return random.random(), np.random.rand(), torch.rand(()).item()

    seed_generators(1)
    expected = [draw(), draw()]
    seed_generators(1)
    found = [draw()]
    with seeded(4, 2):
        inside = draw()
    with pytest.raises(KeyError), seeded(4, 2):
        assert draw() == inside
        raise KeyError
    assert [*found, draw()] == expected
    with seeded(4, 3):
        assert draw() != inside
