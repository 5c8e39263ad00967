"""Who removed whom: cases worked out by hand, and every removed candidate accounted for."""

import pytest
import torch

from odam_d2.nms.functions import (
    feature_duplicates,
    feature_nms,
    greedy_duplicates,
    greedy_nms,
    odam_duplicates,
    odam_nms,
)
from odam_d2.nms.removals import list_removals, list_spared

# IoU of the first two is 8/12 = 2/3, of the third with either 0; scores ascend, so that positions are not ranks.
BOXES = torch.tensor([[20.0, 20.0, 30.0, 30.0], [2.0, 0.0, 12.0, 10.0], [0.0, 0.0, 10.0, 10.0]])
SCORES = torch.tensor([0.7, 0.8, 0.9])
SAME = torch.zeros(3, dtype=torch.int64)


def test_greedy_nms_names_remover_and_overlap():
    keep = greedy_nms(BOXES, SCORES, SAME, 0.5)
    removals = list_removals(BOXES, SCORES, SAME, keep, greedy_duplicates(BOXES, 0.5))
    assert (removals.removed.tolist(), removals.by.tolist()) == ([1], [2])
    assert removals.iou.tolist() == pytest.approx([2 / 3])
    assert removals.correlation is None and removals.distance is None


def test_odam_nms_states_the_correlation_that_decided():
    # The second goes by IoU 2/3 and cosine 3/5 > .2; the third stands far away, with cosine 12/13 > .8.
    maps = torch.tensor([[12.0, 5.0], [3.0, 4.0], [1.0, 0.0]])
    keep = odam_nms(BOXES, SCORES, SAME, maps)
    removals = list_removals(BOXES, SCORES, SAME, keep, odam_duplicates(BOXES, maps), maps)
    assert removals.removed.tolist() == [1, 0] and removals.by.tolist() == [2, 2]
    assert removals.iou.tolist() == pytest.approx([2 / 3, 0])
    assert removals.correlation.tolist() == pytest.approx([3 / 5, 12 / 13])


def test_feature_nms_states_the_distance_that_decided():
    points = torch.tensor([[9.0, 9.0], [0.3, 0.4], [0.0, 0.0]])
    keep = feature_nms(BOXES, SCORES, SAME, points)
    removals = list_removals(BOXES, SCORES, SAME, keep, feature_duplicates(BOXES, points), embeddings=points)
    assert removals.removed.tolist() == [1] and removals.distance.tolist() == pytest.approx([0.5])


def test_the_best_of_several_removers_is_named():
    # Both kept boxes overlap the lowest; the better one comes first in Algorithm 1.
    boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0], [4.0, 0.0, 14.0, 10.0], [2.0, 0.0, 12.0, 10.0]])
    scores = torch.tensor([0.8, 0.9, 0.7])
    keep = greedy_nms(boxes, scores, SAME, 0.5)
    removals = list_removals(boxes, scores, SAME, keep, greedy_duplicates(boxes, 0.5))
    assert keep.tolist() == [1, 0] and (removals.removed.tolist(), removals.by.tolist()) == ([2], [1])


@pytest.mark.parametrize("count", [0, 1, 400])
def test_every_candidate_is_kept_or_removed_by_a_better_one_of_its_class(count):
    generator = torch.Generator().manual_seed(count)
    corner = torch.rand(count, 2, generator=generator) * 60
    boxes = torch.cat([corner, corner + 10 + torch.rand(count, 2, generator=generator) * 40], dim=1)
    scores = torch.rand(count, generator=generator)
    classes = torch.randint(2, (count,), generator=generator)
    maps = torch.rand(count, 9, generator=generator) ** 4
    keep = odam_nms(boxes, scores, classes, maps)
    removals = list_removals(boxes, scores, classes, keep, odam_duplicates(boxes, maps), maps)
    assert sorted([*keep.tolist(), *removals.removed.tolist()]) == list(range(count))
    assert (scores[removals.by] >= scores[removals.removed]).all()
    assert (classes[removals.by] == classes[removals.removed]).all()
    limit = torch.where(removals.iou >= 0.5, 0.2, 0.8)
    assert (removals.correlation > limit - 1e-6).all()


def test_boxes_without_an_area_overlap_by_nothing_not_by_no_number():
    boxes = torch.tensor([[3.0, 3.0, 3.0, 3.0], [3.0, 3.0, 3.0, 3.0], [20.0, 20.0, 30.0, 30.0]])
    # The first two look at the same place, wherever their boxes are.
    maps = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    keep = odam_nms(boxes, SCORES, SAME, maps)
    removals = list_removals(boxes, SCORES, SAME, keep, odam_duplicates(boxes, maps), maps)
    assert len(removals) == 1 and removals.iou.tolist() == [0] and removals.correlation.tolist() == [1]
    every = torch.tensor([0, 1, 2])
    assert len(list_spared(boxes, SAME, every, 0.5, maps)) == 0


def test_a_candidate_that_nobody_removed_is_reported():
    with pytest.raises(ValueError, match="candidate 0 was not kept"):
        list_removals(BOXES, SCORES, SAME, torch.tensor([2]), greedy_duplicates(BOXES, 0.5))


def test_spared_candidates_are_those_greedy_nms_would_have_removed():
    # Overlap 2/3, but they look elsewhere (cosine 0): both stay, and the better one is named beside the other.
    maps = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    keep = odam_nms(BOXES, SCORES, SAME, maps)
    spared = list_spared(BOXES, SAME, keep, 0.5, maps)
    assert keep.tolist() == [2, 1, 0]
    assert (spared.removed.tolist(), spared.by.tolist()) == ([1], [2])
    assert spared.iou.tolist() == pytest.approx([2 / 3]) and spared.correlation.tolist() == [0]
    assert len(list_spared(BOXES, torch.tensor([0, 1, 2]), keep, 0.5, maps)) == 0
    assert len(list_spared(BOXES[:0], SAME[:0], keep[:0], 0.5, maps[:0])) == 0
