"""NMS of every kind: cases worked out by hand, identities, and Algorithm 1 as a plain loop."""

import math
import subprocess
import sys

import pytest
import torch
from torchvision.ops import batched_nms, box_iou

from helpers import DEVICES
from odam_d2.nms import functions as nms
from odam_d2.nms.functions import feature_nms, greedy_nms, odam_nms, pair_correlations, soft_nms, unit_maps

# IoU of the first two is 8/12 = 2/3, of the third with either 0; scores descend.
BOXES = torch.tensor([[0.0, 0.0, 10.0, 10.0], [2.0, 0.0, 12.0, 10.0], [20.0, 20.0, 30.0, 30.0]])
SCORES = torch.tensor([0.9, 0.8, 0.7])
SAME = torch.zeros(3, dtype=torch.int64)


def vectors(*rows):
    return torch.tensor(rows)


def crowd(count, seed, classes=2, maps=12, device="cpu"):
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator) * 60
    boxes = torch.cat([corner, corner + 10 + torch.rand(count, 2, generator=generator) * 40], dim=1)
    scores = torch.rand(count, generator=generator)
    labels = torch.randint(classes, (count,), generator=generator)
    heat = torch.rand(count, maps, generator=generator) ** 4
    return boxes.to(device), scores.to(device), labels.to(device), heat.to(device)


def algorithm_1(boxes, scores, classes, is_duplicate):
    """The paper's pseudo-code, one candidate after the other."""
    kept = []
    for p in scores.argsort(descending=True).tolist():
        if not any(classes[p] == classes[d] and is_duplicate(p, d) for d in kept):
            kept.append(p)
    return kept


def test_odam_nms_keeps_an_overlapping_box_that_looks_elsewhere():
    maps = vectors([1.0, 0, 0], [0, 1.0, 0], [0, 0, 1.0])
    assert odam_nms(BOXES, SCORES, SAME, maps).tolist() == [0, 1, 2]
    assert greedy_nms(BOXES, SCORES, SAME).tolist() == [0, 2]


def test_odam_nms_removes_an_overlapping_box_that_looks_at_the_same_place():
    # cos = 3/5 > .2.
    assert odam_nms(BOXES, SCORES, SAME, vectors([1.0, 0], [3.0, 4.0], [0, 1.0])).tolist() == [0, 2]


def test_odam_nms_removes_a_distant_box_that_looks_at_the_same_place():
    # cos of the third with the first is 12/13 > .8, with IoU 0.
    assert odam_nms(BOXES, SCORES, SAME, vectors([1.0, 0], [0, 1.0], [12.0, 5.0])).tolist() == [0, 1]


def test_a_correlation_equal_to_a_threshold_is_no_duplicate():
    maps = vectors([1.0, 0, 0], [3.0, 4.0, 0], [4.0, 0, 3.0])
    corr = float(unit_maps(maps)[0] @ unit_maps(maps)[1])
    assert odam_nms(BOXES, SCORES, SAME, maps, corr_low=corr).tolist() == [0, 1, 2]
    assert odam_nms(BOXES, SCORES, SAME, maps, corr_low=math.nextafter(corr, 0) - 1e-7).tolist() == [0, 2]


def test_an_iou_equal_to_the_threshold_counts_as_much_overlap():
    # 10 x 10 in 10 x 20: IoU exactly 1/2, correlation .6 between corr_low and corr_high.
    boxes = torch.tensor([[0.0, 0.0, 10.0, 20.0], [0.0, 0.0, 10.0, 10.0]])
    maps = vectors([1.0, 0], [3.0, 4.0])
    assert odam_nms(boxes, SCORES[:2], SAME[:2], maps, iou_threshold=0.5).tolist() == [0]
    assert odam_nms(boxes, SCORES[:2], SAME[:2], maps, iou_threshold=0.51).tolist() == [0, 1]


def test_a_removed_candidate_removes_nothing():
    # The second is removed by the first; the third duplicates only the second, and stays.
    boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0], [4.0, 0.0, 14.0, 10.0], [8.0, 0.0, 18.0, 10.0]])
    maps = vectors([1.0, 1.0], [1.0, 1.0], [1.0, 1.0])
    keep = odam_nms(boxes, SCORES, SAME, maps, iou_threshold=0.4, corr_high=1.0, corr_low=-1.0)
    assert keep.tolist() == greedy_nms(boxes, SCORES, SAME, 0.4).tolist() == [0, 2]


def test_classes_do_not_touch_each_other():
    classes = torch.tensor([0, 1, 0])
    maps = vectors([1.0, 0], [1.0, 0], [1.0, 0])
    assert odam_nms(BOXES, SCORES, classes, maps).tolist() == [0, 1]
    assert greedy_nms(BOXES, SCORES, classes).tolist() == [0, 1, 2]
    assert feature_nms(BOXES, SCORES, classes, maps).tolist() == [0, 1, 2]
    _, decayed = soft_nms(BOXES, SCORES, classes)
    assert torch.equal(decayed, SCORES)


def test_a_zero_map_is_correlated_with_nothing():
    maps = vectors([0.0, 0], [0.0, 0], [1.0, 0])
    assert odam_nms(BOXES, SCORES, SAME, maps).tolist() == [0, 1, 2]
    assert unit_maps(maps)[:2].abs().sum() == 0


def test_pearson_correlation_subtracts_the_mean():
    # (1,2,3) and (3,2,1): cosine 10/14, Pearson -1. (1,2,3) and (2,4,6): both 1.
    maps = vectors([1.0, 2, 3], [3.0, 2, 1], [2.0, 4, 6])
    cosine, pearson = (unit_maps(maps, kind) @ unit_maps(maps, kind).t() for kind in ("cosine", "pearson"))
    assert cosine[0].tolist() == pytest.approx([1, 10 / 14, 1])
    assert pearson[0].tolist() == pytest.approx([1, -1, 1], abs=1e-6)
    assert unit_maps(torch.full((1, 7), 0.1), "pearson").abs().sum() == 0
    assert odam_nms(BOXES, SCORES, SAME, maps, corr_high=1.0, correlation="pearson").tolist() == [0, 1, 2]
    assert odam_nms(BOXES, SCORES, SAME, maps, corr_high=1.0).tolist() == [0, 2]


def test_correlations_of_pairs_by_hand():
    # Cosines of (1,0) and (3,4), of (3,4) and (4,3), of a map and itself, and with an all-zero map.
    maps = torch.tensor([[1.0, 0.0], [3.0, 4.0], [4.0, 3.0], [0.0, 0.0]]).view(4, 1, 2)
    first, second = torch.tensor([0, 1, 2, 3]), torch.tensor([1, 2, 2, 0])
    assert pair_correlations(maps, first, second).tolist() == pytest.approx([3 / 5, 24 / 25, 1, 0])
    # Two values less their mean are opposite or equal.
    assert pair_correlations(maps, first, second, "pearson").tolist() == pytest.approx([-1, -1, 1, 0])
    assert pair_correlations(maps[:0], first[:0], second[:0]).shape == (0,)


def test_tiny_and_huge_maps_correlate_like_others():
    maps = vectors([1e-30, 0], [3e30, 4e30])
    assert float(unit_maps(maps)[0] @ unit_maps(maps)[1]) == pytest.approx(0.6)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("block", [1, 7, 256])
@pytest.mark.parametrize("correlation", ["cosine", "pearson"])
def test_odam_nms_equals_algorithm_1_as_a_plain_loop(block, correlation, device, monkeypatch):
    monkeypatch.setattr(nms, "BLOCK", block)
    for seed in range(12):
        boxes, scores, classes, maps = crowd(60, seed, device=device)
        iou, unit = box_iou(boxes, boxes), unit_maps(maps, correlation)
        corr = unit @ unit.t()

        def is_duplicate(p, d, iou=iou, corr=corr):
            return (iou[p, d] >= 0.4 and corr[p, d] > 0.3) or (iou[p, d] < 0.4 and corr[p, d] > 0.7)

        expected = algorithm_1(boxes, scores, classes, is_duplicate)
        found = odam_nms(boxes, scores, classes, maps, 0.4, 0.7, 0.3, correlation)
        assert found.tolist() == expected and len(expected) < 60


@pytest.mark.parametrize("device", DEVICES)
def test_odam_nms_without_correlations_is_torchvisions_nms(device):
    for seed in range(30):
        boxes, scores, classes, maps = crowd(300, seed, classes=3, device=device)
        found = odam_nms(boxes, scores, classes, maps, corr_high=1.0, corr_low=-1.0)
        assert torch.equal(found, batched_nms(boxes, scores, classes, 0.5))
        assert torch.equal(greedy_nms(boxes, scores, classes), found)


def test_maps_may_be_flat_or_not():
    boxes, scores, classes, maps = crowd(40, 0)
    assert torch.equal(odam_nms(boxes, scores, classes, maps), odam_nms(boxes, scores, classes, maps.view(40, 3, 4)))


def test_feature_nms_worked_by_hand():
    # IoU 2/3 lies between the thresholds: the embeddings decide, strictly below the distance.
    for first, kept in (([3.0, 4.0], [0, 1, 2]), ([0.6, 0.7], [0, 2])):
        embeddings = vectors(first, [0.0, 0.0], [0.0, 0.0])
        assert feature_nms(BOXES, SCORES, SAME, embeddings).tolist() == kept
    # Above the high threshold the embeddings do not matter, nor below the low one.
    far = vectors([9.0], [0.0], [9.0])
    assert feature_nms(BOXES, SCORES, SAME, far, iou_high=0.6).tolist() == [0, 2]
    near = vectors([0.0], [0.0], [0.0])
    assert feature_nms(BOXES, SCORES, SAME, near, iou_low=0.7).tolist() == [0, 1, 2]


def test_feature_nms_equals_algorithm_1_as_a_plain_loop():
    for seed in range(12):
        boxes, scores, classes, points = crowd(60, seed)
        iou, distance = box_iou(boxes, boxes), torch.cdist(points, points)

        def is_duplicate(p, d, iou=iou, distance=distance):
            return iou[p, d] > 0.7 or (iou[p, d] > 0.2 and distance[p, d] < 1.0)

        expected = algorithm_1(boxes, scores, classes, is_duplicate)
        assert feature_nms(boxes, scores, classes, points, 0.7, 0.2, 1.0).tolist() == expected


def test_soft_nms_worked_by_hand():
    # IoU 2/3: the second decays to .8 exp(-(4/9)/.5) = .3289, and comes after the third.
    keep, decayed = soft_nms(BOXES, SCORES, SAME)
    assert keep.tolist() == [0, 2, 1]
    assert decayed.tolist() == pytest.approx([0.9, 0.7, 0.8 * math.exp(-(4 / 9) / 0.5)])
    keep, decayed = soft_nms(BOXES, SCORES, SAME, method="linear")
    assert decayed.tolist() == pytest.approx([0.9, 0.7, 0.8 / 3])
    # Linear decay leaves an overlap up to its threshold alone; the final threshold is strict.
    assert soft_nms(BOXES, SCORES, SAME, "linear", iou_threshold=0.7)[1].tolist() == pytest.approx([0.9, 0.8, 0.7])
    assert soft_nms(BOXES, SCORES, SAME, score_threshold=0.7)[0].tolist() == [0]
    # The same box twice decays by 1 - IoU = 0.
    twice = soft_nms(BOXES[[0, 0]], SCORES[:2], SAME[:2], method="linear")
    assert twice[0].tolist() == [0]


@pytest.mark.parametrize("method", ["gaussian", "linear"])
def test_soft_nms_equals_a_plain_loop(method):
    for seed in range(8):
        boxes, scores, classes, _ = crowd(40, seed)
        iou, left = box_iou(boxes, boxes), dict(enumerate(scores.tolist()))
        expected = []
        while left:
            best = max(left, key=left.get)
            expected.append((best, left.pop(best)))
            for other in left:
                if classes[other] == classes[best]:
                    overlap = float(iou[best, other])
                    left[other] *= (
                        math.exp(-(overlap**2) / 0.5) if method == "gaussian" else 1 - overlap * (overlap > 0.3)
                    )
        expected = [(i, s) for i, s in expected if s > 0.05]
        keep, decayed = soft_nms(boxes, scores, classes, method)
        assert keep.tolist() == [i for i, _ in expected]
        assert decayed.tolist() == pytest.approx([s for _, s in expected], rel=1e-4)


@pytest.mark.parametrize("method", ["gaussian", "linear"])
def test_soft_nms_keeps_boxes_without_an_area(method):
    # Two points at one place share nothing, as for every other NMS here; the box around them overlaps neither.
    boxes = torch.tensor([[3.0, 3.0, 3.0, 3.0], [3.0, 3.0, 3.0, 3.0], [0.0, 0.0, 10.0, 10.0]])
    keep, decayed = soft_nms(boxes, SCORES, SAME, method)
    assert keep.tolist() == [0, 1, 2] and torch.equal(decayed, SCORES)
    assert greedy_nms(boxes, SCORES, SAME).tolist() == [0, 1, 2]
    assert odam_nms(boxes, SCORES, SAME, torch.eye(3)).tolist() == [0, 1, 2]
    assert feature_nms(boxes, SCORES, SAME, torch.zeros(3, 2)).tolist() == [0, 1, 2]


def test_iou_by_hand():
    boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0], [2.0, 0.0, 12.0, 10.0], [5.0, 5.0, 5.0, 5.0]])
    expected = torch.tensor([[1, 2 / 3, 0], [2 / 3, 1, 0], [0, 0, 0]])
    assert torch.allclose(nms.iou(boxes, boxes), expected)


@pytest.mark.parametrize("look_up", [0, 1, 5, 2048])
@pytest.mark.parametrize("block", [1, 7, 256])
def test_soft_nms_takes_the_same_candidates_however_it_looks_overlaps_up(block, look_up, monkeypatch):
    crowds = [crowd(60, seed) for seed in range(6)]
    expected = [soft_nms(*one[:3]) for one in crowds]
    monkeypatch.setattr(nms, "BLOCK", block)
    monkeypatch.setattr(nms, "LOOK_UP", look_up)
    for one, (keep, decayed) in zip(crowds, expected):
        found = soft_nms(*one[:3])
        assert torch.equal(found[0], keep) and torch.equal(found[1], decayed)


MANY = """
import resource

import torch

from odam_d2.nms import soft_nms

# Threads that wait for each other on a busy machine cost more than they save.
torch.set_num_threads(1)
generator = torch.Generator().manual_seed(0)
corner = torch.rand(24000, 2, generator=generator) * 1000
boxes = torch.cat([corner, corner + 10 + torch.rand(24000, 2, generator=generator) * 90], dim=1)
scores, classes = torch.rand(24000, generator=generator), torch.arange(24000) % 80
keep, decayed = soft_nms(boxes, scores, classes)
own = classes == 3
alone, score = soft_nms(boxes[own], scores[own], classes[own])
assert torch.equal(own.nonzero()[alone, 0], keep[own[keep]]) and torch.equal(score, decayed[own[keep]])
assert (decayed.diff() <= 0).all() and len(keep) > 20000
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
def test_soft_nms_of_24000_candidates_of_80_classes_takes_less_than_2_gb():
    done = subprocess.run([sys.executable, "-c", MANY], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    # In KiB; all overlaps alone would be 2.3 GB, and several of them are needed at a time.
    assert int(done.stdout) < 2 * 2**20


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("box_type", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("score_type", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_every_type_of_boxes_and_scores_is_compared_in_full_precision(score_type, box_type, autocast):
    boxes, scores = BOXES.to(box_type), SCORES.to(score_type)
    with torch.autocast("cpu", enabled=autocast):
        assert greedy_nms(boxes, scores, SAME).tolist() == [0, 2]
        # 2/3 is beyond the threshold by a thousandth, which halves cannot tell.
        assert greedy_nms(boxes, scores, SAME, 2 / 3 + 1e-3).tolist() == [0, 1, 2]
        assert greedy_nms(boxes, scores, SAME, 2 / 3 - 1e-3).tolist() == [0, 2]
        assert odam_nms(boxes, scores, SAME, torch.eye(3)).tolist() == [0, 1, 2]
        assert feature_nms(boxes, scores, SAME, torch.zeros(3, 2)).tolist() == [0, 2]
        keep, decayed = soft_nms(boxes, scores, SAME)
    assert keep.tolist() == [0, 2, 1] and decayed.dtype == torch.float32
    expected = [0.9, 0.7, 0.8 * math.exp(-(4 / 9) / 0.5)]
    assert decayed.tolist() == pytest.approx(expected, rel=1e-5 if scores.dtype.itemsize > 2 else 4e-3)


def test_equal_scores_keep_the_order_of_the_candidates():
    maps = vectors([1.0, 0], [1.0, 0], [0, 1.0])
    assert odam_nms(BOXES, torch.full((3,), 0.5), SAME, maps).tolist() == [0, 2]
    # Also of several classes.
    assert soft_nms(BOXES, torch.full((3,), 0.5), torch.tensor([1, 0, 1]))[0].tolist() == [0, 1, 2]


@pytest.mark.parametrize("device", DEVICES)
def test_no_candidates(device):
    boxes, scores = torch.zeros(0, 4, device=device), torch.zeros(0, device=device)
    classes = torch.zeros(0, dtype=torch.int64, device=device)
    for keep in (
        greedy_nms(boxes, scores, classes),
        odam_nms(boxes, scores, classes, torch.zeros(0, 5, 7, device=device)),
        feature_nms(boxes, scores, classes, torch.zeros(0, 3, device=device)),
        *soft_nms(boxes, scores, classes)[:1],
    ):
        assert keep.shape == (0,) and keep.dtype == torch.int64


def test_arguments_are_left_alone():
    arguments = crowd(50, 0)
    before = [a.clone() for a in arguments]
    odam_nms(*arguments)
    soft_nms(*arguments[:3])
    feature_nms(*arguments)
    assert all(torch.equal(a, b) for a, b in zip(arguments, before))


def test_bad_arguments_are_named():
    ill = BOXES.clone()
    ill[1, 2] = torch.nan
    for call, words in (
        (lambda: odam_nms(ill, SCORES, SAME, torch.ones(3, 2)), "NaN"),
        (lambda: greedy_nms(BOXES, SCORES[:2], SAME), r"\(D,4\), \(D,\) and \(D,\)"),
        (lambda: odam_nms(BOXES, SCORES, SAME, torch.ones(2, 2)), "2 heat maps for 3 boxes"),
        (lambda: odam_nms(BOXES, SCORES, SAME, torch.full((3, 2), torch.nan)), "heat maps must not contain NaN"),
        (lambda: odam_nms(BOXES, SCORES, SAME, torch.ones(3, 2), correlation="iou"), "cosine, pearson"),
        (lambda: soft_nms(BOXES, SCORES, SAME, "hard"), "gaussian, linear"),
        (lambda: feature_nms(BOXES, SCORES, SAME, torch.ones(2, 2)), r"shape \(3, E\)"),
    ):
        with pytest.raises(ValueError, match=words):
            call()
