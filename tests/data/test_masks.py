"""Masks from polygons and run lengths, worked out by hand, and encodings that are none."""

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from odam_d2.data.masks import check_segmentation, object_mask


def test_polygons_cover_their_union():
    # Squares of 2 x 2 pixels that share the pixel (2,2); a polygon of two points is none.
    polygons = [[1, 1, 3, 1, 3, 3, 1, 3], [2, 2, 4, 2, 4, 4, 2, 4], [0, 0, 4, 4]]
    expected = np.zeros((5, 6), bool)
    expected[1:3, 1:3] = expected[2:4, 2:4] = True
    mask = object_mask(polygons, 5, 6)
    assert mask.dtype == bool and np.array_equal(mask, expected)


def test_run_lengths_go_down_the_columns():
    # 1 out, 2 in, 3 out.
    mask = object_mask({"size": [2, 3], "counts": [1, 2, 3]}, 2, 3)
    assert mask.tolist() == [[False, True, False], [True, False, False]]


def test_compressed_encodings_may_be_bytes_or_text():
    mask = np.random.default_rng(0).random((7, 9)) < 0.5
    encoding = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    assert np.array_equal(object_mask(encoding, 7, 9), mask)
    text = {"size": [7, 9], "counts": encoding["counts"].decode()}
    assert np.array_equal(object_mask(text, 7, 9), mask)
    assert isinstance(text["counts"], str)


def test_uncompressed_encodings_equal_a_plain_loop():
    for seed in range(10):
        mask = np.random.default_rng(seed).random((6, 5)) < 0.5
        counts, value = [0], False
        for pixel in mask.T.flatten():
            if pixel != value:
                counts.append(0)
                value = pixel
            counts[-1] += 1
        assert np.array_equal(object_mask({"size": [6, 5], "counts": counts}, 6, 5), mask)


def test_wrong_segmentations_are_named():
    with pytest.raises(ValueError, match=r"\(2, 3\).*\(3, 2\)"):
        object_mask({"size": [2, 3], "counts": [6]}, 3, 2)
    with pytest.raises(ValueError, match=r"5 pixels.*\(2, 3\)"):
        object_mask({"size": [2, 3], "counts": [1, 4]}, 2, 3)
    for segmentation in ([], [[0, 0, 4, 4]]):
        with pytest.raises(ValueError, match="three points"):
            object_mask(segmentation, 5, 5)
        check_segmentation(segmentation, 5, 5)


def compressed(*counts):
    """pycocotools compresses lists of any sum."""
    return coco_mask.frPyObjects({"size": [4, 5], "counts": list(counts)}, 4, 5)["counts"]


@pytest.mark.parametrize("text", [False, True])
def test_an_encoding_that_does_not_fill_its_mask_is_no_mask(text):
    # Of what is missing pycocotools would read memory that nobody wrote.
    for counts in ([0, 3], [0, 0], [19], [3, 4, 5, 6, 7, 8]):
        code = compressed(*counts)
        for own in (counts, code.decode() if text else code):
            with pytest.raises(ValueError, match=rf"run lengths of {sum(counts)} pixels do not fill.*\(4, 5\)"):
                object_mask({"size": [4, 5], "counts": own}, 4, 5)


def test_compressed_run_lengths_of_any_size_are_summed_right():
    # Numbers of one to four groups of bits, growing and falling, so that differences of both signs occur.
    generator = np.random.default_rng(0)
    for _ in range(200):
        counts = (10 ** generator.uniform(0, 5, generator.integers(1, 9))).astype(int).tolist()
        width = sum(counts)
        code = coco_mask.frPyObjects({"size": [1, width], "counts": counts}, 1, width)["counts"]
        mask = object_mask({"size": [1, width], "counts": code}, 1, width)
        assert mask.sum() == sum(counts[1::2]) and mask[0, : counts[0]].sum() == 0
        with pytest.raises(ValueError, match=f"of {width} pixels"):
            object_mask({"size": [1, width + 1], "counts": code}, 1, width + 1)


@pytest.mark.parametrize(
    ("segmentation", "words"),
    [
        # A flat polygon, and other things that are no list of polygons.
        ([0, 0, 4, 0, 4, 4], r"holds 0 where a polygon should be; write \[\[x1, y1"),
        ("0 0 4 4", "the segmentation is '0 0 4 4'"),
        ([[0, 0, 4, 0, 4, 4, 1]], "the polygon"),
        ([["0", "0", "4", "0", "4", "4"]], "the polygon"),
        ([[0, 0, 4, None, 4, 4]], "the polygon"),
        ([[[0, 0], [4, 0], [4, 4]]], "the polygon"),
        ([[0, 0, [4], 0, 4, 4]], "the polygon"),
        # These would end the program.
        ([[0, 0, 4, 0, float("nan"), 4]], "leaves any image"),
        ([[0, 0, 4, 0, float("inf"), 4]], "leaves any image"),
        ([[0, 0, 3e8, 0, 3e8, 3e8]], "leaves any image"),
        ({"counts": [20]}, "lacks the key 'size'"),
        ({"size": [4, 5]}, "lacks the key 'counts'"),
        ({"size": 20, "counts": [20]}, "size 20 does not fit"),
        ({"size": [4, 5], "counts": [10.5, 9.5]}, "whole numbers"),
        ({"size": [4, 5], "counts": None}, "whole numbers"),
        ({"size": [4, 5], "counts": [25, -5]}, "a run of -5 pixels"),
        ({"size": [4, 5], "counts": "~"}, "the character '~'"),
        ({"size": [4, 5], "counts": "Q"}, "breaks off"),
    ],
)
def test_what_is_no_mask_is_named(segmentation, words):
    for check in (check_segmentation, object_mask):
        with pytest.raises(ValueError, match=words):
            check(segmentation, 4, 5)
