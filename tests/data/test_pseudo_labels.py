"""Labels of a detector: the unsure ones are regions, and nothing else changes."""

from odam_d2.data.pseudo_labels import mark_uncertain


def test_labels_below_the_threshold_become_regions_and_those_of_people_stay():
    boxes = [{"category_id": 3, "score": 0.39}, {"category_id": 4, "score": 0.4}, {"category_id": 5}]
    crowd = {"category_id": 6, "iscrowd": 1, "score": 0.9}
    dicts = [{"image_id": 1, "annotations": [*boxes, crowd]}, {"image_id": 2}]
    first, second = mark_uncertain(dicts, 0.4)
    assert first["annotations"] == [{"category_id": 3, "score": 0.39, "iscrowd": 1}, *boxes[1:], crowd]
    assert second == {"image_id": 2, "annotations": []}
    assert "iscrowd" not in boxes[0] and "annotations" not in dicts[1]
    assert mark_uncertain(dicts, 0.0)[0]["annotations"] == [*boxes, crowd]
