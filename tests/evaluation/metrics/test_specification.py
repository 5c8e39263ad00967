"""Deletion, Insertion and VEA: curves worked out by hand, identities, and plain loops."""

import math

import numpy as np
import pytest

from odam_d2.evaluation.metrics.specification import (
    area_under_curve,
    match_score,
    perturbation_scores,
    vea_auc,
    vea_curve,
)

# A row of four white pixels, which the map ranks 1, 2, 0, 3. A random colour is white once in 2^24.
MAP = np.array([[1.0, 3.0, 2.0, 0.0]])
WHITE = np.full((1, 4, 3), 255, dtype=np.uint8)
ROW = [0, 0, 4, 1]


def share_of_white(images):
    """Score: share of pixels that are white."""
    return (images == 255).all(axis=3).mean(axis=(1, 2))


def first_pixel(images):
    """Score: 1 while the first pixel is white."""
    return (images[:, 0, 0] == 255).all(axis=1) * 1.0


# ---- Deletion and Insertion


def test_insertion_worked_by_hand():
    # Each of 4 steps puts one of the 4 pixels in: 0, 25, 50, 75, 100 %. Area: a triangle, half of 100.
    curve = perturbation_scores(WHITE, MAP, ROW, share_of_white, steps=4, kind="insertion")
    assert curve.area.tolist() == curve.percent.tolist() == [0, 25, 50, 75, 100]
    assert curve.auc == 50 and curve.start == 1 and not curve.is_undefined


def test_pixels_come_by_descending_importance():
    # The first pixel is the third to come, and the third to go.
    inserted = perturbation_scores(WHITE, MAP, ROW, first_pixel, steps=4, kind="insertion")
    assert inserted.percent.tolist() == [0, 0, 0, 100, 100]
    deleted = perturbation_scores(WHITE, MAP, ROW, first_pixel, steps=4)
    assert deleted.percent.tolist() == [100, 100, 100, 0, 0]
    # (1 + 1 + 1/2) of 4 steps.
    assert deleted.auc == 62.5


def test_deletion_worked_by_hand():
    curve = perturbation_scores(WHITE, MAP, ROW, share_of_white, steps=4)
    assert curve.percent.tolist() == [100, 75, 50, 25, 0] and curve.auc == 50


def test_equal_pixels_come_in_row_major_order():
    curve = perturbation_scores(WHITE, np.ones((1, 4)), ROW, first_pixel, steps=4)
    assert curve.percent.tolist() == [100, 0, 0, 0, 0]
    # The map is all zero: the order is the same.
    assert perturbation_scores(WHITE, np.zeros((1, 4)), ROW, first_pixel, steps=4).percent.tolist() == [100, 0, 0, 0, 0]


def test_as_many_pixels_as_the_box_has_are_perturbed_wherever_they_are():
    # A box of 2 pixels: the two most important ones, 1 and 2, come in; half of the image is white.
    curve = perturbation_scores(WHITE, MAP, [0, 0, 2, 1], share_of_white, steps=2, kind="insertion")
    assert curve.percent.tolist() == [0, 25, 50] and curve.area.tolist() == [0, 50, 100]


def test_only_the_part_of_the_box_in_the_image_counts():
    curve = perturbation_scores(WHITE, MAP, [-7, -7, 2, 9], share_of_white, steps=2, kind="insertion")
    assert curve.percent.tolist() == [0, 25, 50]


def test_scores_are_in_percent_of_the_start_score():
    curve = perturbation_scores(WHITE, MAP, ROW, lambda images: share_of_white(images) / 5, steps=4, kind="insertion")
    assert curve.start == pytest.approx(0.2)
    assert curve.percent == pytest.approx([0, 25, 50, 75, 100])


def test_steps_below_a_pixel_are_rounded_in_total_and_equal_images_are_scored_once():
    seen = []

    def score_of(images):
        seen.append(len(images))
        return share_of_white(images)

    # One pixel in 100 steps: it comes when half of it is reached. Scored: the image, black, one pixel.
    curve = perturbation_scores(WHITE, MAP, [3, 0, 4, 1], score_of, kind="insertion")
    assert len(curve.percent) == 101 and seen == [3]
    assert (curve.percent[:50] == 0).all() and (curve.percent[50:] == 25).all()


def test_images_come_in_batches():
    sizes = []

    def score_of(images):
        assert images.dtype == np.uint8 and images.shape[1:] == (10, 10, 3)
        sizes.append(len(images))
        return np.ones(len(images))

    image, heat_map = np.ones((10, 10, 3), np.uint8), np.arange(100.0).reshape(10, 10)
    perturbation_scores(image, heat_map, [0, 0, 10, 10], score_of, batch=30)
    perturbation_scores(image, heat_map, [0, 0, 10, 10], score_of, batch=60, kind="insertion")
    # 101 images, and 102 with the untouched one.
    assert sizes == [30, 30, 30, 11, 60, 42]


@pytest.mark.parametrize("kind", ["deletion", "insertion"])
def test_an_object_without_a_score_is_undefined_and_costs_one_batch(kind):
    calls = []

    def score_of(images):
        calls.append(len(images))
        return np.zeros(len(images))

    curve = perturbation_scores(WHITE, MAP, ROW, score_of, batch=2, kind=kind)
    assert curve.is_undefined and math.isnan(curve.auc) and np.isnan(curve.percent).all()
    assert len(curve.percent) == 101 and calls == [2]


def test_random_values_depend_on_the_seed_only():
    image, box = np.full((20, 20, 3), 7, np.uint8), [0, 0, 20, 20]

    def colour(images):
        return images.mean(axis=(1, 2, 3))

    generator = np.random.default_rng(0)
    one, two = (
        perturbation_scores(image, generator.random((20, 20)), box, colour, seed=seed).percent for seed in (1, 1)
    )
    other = perturbation_scores(image, generator.random((20, 20)), box, colour, seed=2).percent
    # Another order, the same end.
    assert not np.array_equal(one, two) and one[-1] == two[-1] != other[-1]
    # Uniform in 0..255: mean 127.5 with a standard error of 73.9 / sqrt(1200) = 2.1.
    assert one[-1] / 100 * 7 == pytest.approx(127.5, abs=9)


def test_the_authors_protocol_worked_by_hand():
    # 20 x 20 box in a 40 x 40 image whose network input is 30 x 60: 400 * .75 * 1.5 = 450 pixels, steps of int(4.5) =
    # 4; every 10th is recorded: 40 pixels each. Insertion stays undivided: 40 k / 1600 of the image is white.
    image, heat_map = np.full((40, 40, 3), 255, np.uint8), np.random.default_rng(0).random((40, 40))

    def score_of(images):
        return share_of_white(images) / 2

    def curve(kind, box=(0, 0, 20, 20), input_size=(30, 60)):
        return perturbation_scores(image, heat_map, box, score_of, "authors", kind=kind, input_size=input_size)

    assert curve("insertion").percent == pytest.approx([100 * 40 * k / 1600 / 2 for k in range(11)])
    assert curve("insertion").area.tolist() == list(range(0, 101, 10))
    # Deletion is in % of the start score.
    assert curve("deletion").percent == pytest.approx([100 * (1 - 40 * k / 1600) for k in range(11)])
    # At least one pixel a step: a box of 1 pixel loses 100.
    assert curve("insertion", (0, 0, 1, 1)).percent[-1] == pytest.approx(100 * 100 / 1600 / 2)


@pytest.mark.parametrize("protocol", ["paper", "authors"])
def test_deletion_fills_with_uniform_random_values_and_insertion_begins_with_a_black_canvas(protocol):
    image, box = np.full((60, 60, 3), 7, np.uint8), [0, 0, 60, 60]
    heat_map, options = np.arange(3600.0).reshape(60, 60), {"protocol": protocol, "input_size": (60, 60)}
    seen = {"deletion": [], "insertion": []}
    for kind, images in seen.items():

        def score_of(batch, images=images):
            images.extend(batch)
            return np.full(len(batch), 0.25)

        curve = perturbation_scores(image, heat_map, box, score_of, kind=kind, **options)
        # Of a constant score 100 % is left, but for the authors' Insertion: the score itself.
        assert (curve.percent == (25 if (protocol, kind) == ("authors", "insertion") else 100)).all()
    deleted = seen["deletion"][-1]
    assert np.array_equal(seen["deletion"][0], image)
    # Every value is as likely as any other: 10,800 of them, of which a quarter lies in each quarter of the range.
    assert np.bincount(deleted.ravel() // 64, minlength=4) / deleted.size == pytest.approx([0.25] * 4, abs=0.02)
    # The three channels of a pixel are drawn one by one.
    assert (deleted[..., 0] == deleted[..., 1]).mean() < 0.02
    # The image as it is gives the start score; then it grows on black.
    start, canvas, *_, whole = seen["insertion"]
    assert np.array_equal(start, image) and not canvas.any() and np.array_equal(whole, image)


def test_never_more_pixels_are_perturbed_than_the_image_has():
    seen = []

    def score_of(images):
        seen.append(len(images))
        return share_of_white(images)

    # Steps of 400 pixels in an image of 4: scored are the image, black, and the image again.
    options = {"protocol": "authors", "kind": "insertion", "input_size": (100, 400)}
    curve = perturbation_scores(WHITE, MAP, ROW, score_of, **options)
    assert curve.percent.tolist() == [0] + [100] * 10 and seen == [3]


@pytest.mark.parametrize("kind", ["deletion", "insertion"])
@pytest.mark.parametrize("protocol", ["paper", "authors"])
def test_curves_equal_a_plain_loop(kind, protocol):
    for seed in range(4):
        generator = np.random.default_rng(seed)
        image = generator.integers(0, 256, (11, 14, 3), dtype=np.uint8)
        # Ties on purpose.
        heat_map = generator.integers(0, 5, (11, 14)).astype(np.float32)
        box, input_size = [1.5, 2, 9.25, 10], (33, 40)
        weights = generator.random((11, 14, 3))

        def score_of(images, weights=weights):
            return (images * weights).sum(axis=(1, 2, 3))

        fill = np.random.default_rng(9).integers(0, 256, image.shape, dtype=np.uint8)
        ranked = sorted((-heat_map[i, j], i, j) for i in range(11) for j in range(14))
        expected = []
        for step in range(0, 101, 1 if protocol == "paper" else 10):
            area = 7.75 * 8
            if protocol == "paper":
                count = math.floor(step * area / 100 + 0.5)
            else:
                count = step * max(1, int(area * 33 * 40 / (11 * 14) / 100))
            now = image.copy() if kind == "deletion" else np.zeros_like(image)
            for _, i, j in ranked[:count]:
                now[i, j] = fill[i, j] if kind == "deletion" else image[i, j]
            expected.append(100 * float((now * weights).sum()))
        if (protocol, kind) != ("authors", "insertion"):
            expected = [value / float((image * weights).sum()) for value in expected]
        arguments = {"seed": 9, "kind": kind, "input_size": input_size, "protocol": protocol}
        curve = perturbation_scores(image, heat_map, box, score_of, **arguments)
        assert curve.percent == pytest.approx(expected)
        points = list(zip(curve.area / 100, expected))
        auc = sum((b[0] - a[0]) * (a[1] + b[1]) / 2 for a, b in zip(points, points[1:]))
        assert curve.auc == pytest.approx(auc)


def test_arguments_stay_as_they_are():
    image, heat_map = WHITE.copy(), MAP.copy()

    def spoil(images):
        images[:] = 1
        return np.ones(len(images))

    for kind in ("deletion", "insertion"):
        perturbation_scores(image, heat_map, ROW, spoil, kind=kind)
    assert np.array_equal(image, WHITE) and np.array_equal(heat_map, MAP)


def test_wrong_perturbations_are_named():
    def call(image=WHITE, heat_map=MAP, box=ROW, score_of=share_of_white, **options):
        return perturbation_scores(image, heat_map, box, score_of, **options)

    for message, options in {
        r"\(2, 2\).*\(1, 4\)": {"heat_map": np.ones((2, 2))},
        "NaN": {"heat_map": np.full((1, 4), np.nan)},
        "paper, authors": {"protocol": "ours"},
        "deletion, insertion": {"kind": "both"},
        "float64": {"image": np.ones((1, 4, 3))},
        "no area": {"box": [4, 0, 9, 1]},
        "input_size": {"protocol": "authors"},
        "multiple of 10; not 15": {"protocol": "authors", "steps": 15, "input_size": (1, 4)},
        "positive": {"batch": 0},
        "5 non-negative numbers for 5 images": {"steps": 4, "score_of": lambda images: np.ones(3)},
        "nan": {"score_of": lambda images: np.full(len(images), np.nan)},
        "-1": {"score_of": lambda images: np.full(len(images), -1.0)},
    }.items():
        with pytest.raises(ValueError, match=message):
            call(**options)


def test_the_score_is_the_best_of_the_predictions_that_still_find_the_object():
    # IoUs with the 10 x 10 object: 9/10, exactly 1/2 (not above), 6/10, 0.
    boxes = [[0, 0, 9, 10], [0, 0, 5, 10], [0, 0, 6, 10], [50, 50, 60, 60]]
    assert match_score(boxes, [0.3, 0.9, 0.4, 1.0], [0, 0, 10, 10]) == 0.4
    assert match_score(boxes[1:2], [0.9], [0, 0, 10, 10]) == 0
    assert match_score([], [], [0, 0, 10, 10]) == match_score(np.zeros((0, 4)), np.zeros(0), [0, 0, 10, 10]) == 0
    for scores in ([0.1], [0.1, np.nan, 0.2, 0.3]):
        with pytest.raises(ValueError, match="scores of 4 boxes"):
            match_score(boxes, scores, [0, 0, 10, 10])


# ---- VEA


def test_vea_worked_by_hand():
    # Scaled: 0, .5, 1, 1; mask: pixels 1 and 2. T < .5: pixels 1-3, IoU 2/3. From .5 on, strictly: 2 and 3, IoU 1/3.
    mask = np.array([[False, True, True, False]])
    curve = vea_curve([[10.0, 15, 20, 20]], mask)
    assert curve == pytest.approx([2 / 3] * 4 + [1 / 3] * 5)
    # .3 * 2/3 + .1 * 1/2 + .4 * 1/3.
    assert vea_auc(curve) == pytest.approx(0.2 + 0.05 + 0.4 / 3)


def test_a_map_equal_to_the_mask_has_the_largest_area():
    mask = np.random.default_rng(0).random((5, 6)) < 0.5
    curve = vea_curve(mask * 3.0, mask)
    assert curve.tolist() == [1] * 9 and vea_auc(curve) == pytest.approx(0.8)
    assert vea_curve(mask * 3.0, ~mask).tolist() == [0] * 9


def test_maps_and_masks_without_contrast_get_zero():
    mask = np.array([[True, False]])
    assert vea_curve([[0.0, 0.0]], mask).tolist() == vea_curve([[0.1, 0.1]], mask).tolist() == [0] * 9
    assert vea_curve([[0.0, 1.0]], np.zeros((1, 2), bool)).tolist() == [0] * 9
    assert vea_auc(np.zeros(9)) == 0


def test_vea_equals_plain_sets_of_pixels():
    for seed in range(40):
        generator = np.random.default_rng(seed)
        heat_map, mask = generator.random((8, 9)) * 5 + 2, generator.random((8, 9)) < 0.4
        low, high = heat_map.min(), heat_map.max()
        own = {(i, j) for i in range(8) for j in range(9) if mask[i, j]}
        expected = []
        for step in range(1, 10):
            cut = {(i, j) for i in range(8) for j in range(9) if (heat_map[i, j] - low) / (high - low) > step / 10}
            expected.append(len(own & cut) / len(own | cut))
        assert vea_curve(heat_map, mask) == pytest.approx(expected)


def test_the_area_under_a_curve_has_unequal_steps():
    # A triangle of 1 x 2 and a rectangle of 3 x 2.
    assert area_under_curve(np.array([0.0, 1, 4]), np.array([0.0, 2, 2])) == 7
    with pytest.raises(ValueError, match=r"\(9,\) and \(8,\)"):
        vea_auc(np.zeros(8))


def test_wrong_vea_arguments_are_named():
    with pytest.raises(ValueError, match="NaN"):
        vea_curve([[np.nan, 0.0]], np.ones((1, 2), bool))
    with pytest.raises(ValueError, match=r"\(2, 1\).*\(1, 2\)"):
        vea_curve([[1.0, 0.0]], np.ones((2, 1), bool))
