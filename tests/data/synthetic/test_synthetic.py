"""Synthetic crowds: what is written about them is in them, always the same, and about as crowded as CrowdHuman."""

import json

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO

from odam_d2.boxes import box_iou
from odam_d2.data.synthetic.dataset import crowd_statistics, make_crowd, write_dataset
from odam_d2.data.synthetic.figures import draw_person, draw_thing, paste, tight_box
from odam_d2.data.synthetic.scene import LEAST_VISIBLE

# Half of the usual sides: a quarter of the time.
SMALL = (200, 300)


@pytest.fixture(scope="module")
def crowds():
    return [make_crowd(5, index, SMALL) for index in range(12)]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A folder with synthetic_crowd/val0 of three images."""
    folder = tmp_path_factory.mktemp("root")
    write_dataset(folder / "synthetic_crowd" / "val0", 1, 3, size=SMALL)
    return folder


def close_pairs(crowd):
    boxes = crowd.full_boxes[~crowd.ignored]
    return int((box_iou(boxes, boxes)[np.triu_indices(len(boxes), 1)] > 0.5).sum())


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_same_seed_gives_the_same_bytes_however_many_images(root, tmp_path):
    write_dataset(tmp_path / "again", 1, 3, size=SMALL)
    write_dataset(tmp_path / "shorter", 1, 2, size=SMALL)
    write_dataset(tmp_path / "other", 2, 1, size=SMALL)
    first, again, shorter = (
        contents(f) for f in (root / "synthetic_crowd/val0", tmp_path / "again", tmp_path / "shorter")
    )
    assert len(first) == 5 and first == again
    images = {path: data for path, data in shorter.items() if path.suffix == ".jpg"}
    assert len(images) == 2 and images.items() <= first.items()
    assert not set(contents(tmp_path / "other").values()) & set(first.values())


@pytest.mark.slow
def test_more_workers_give_the_same_bytes(root, tmp_path):
    write_dataset(tmp_path / "again", 1, 3, size=SMALL, workers=2)
    assert contents(tmp_path / "again") == contents(root / "synthetic_crowd" / "val0")


def test_full_box_contains_visible_box_which_is_the_tight_box_of_the_mask(crowds):
    for crowd in crowds:
        assert (crowd.full_boxes[:, :2] <= crowd.visible_boxes[:, :2]).all()
        assert (crowd.full_boxes[:, 2:] >= crowd.visible_boxes[:, 2:]).all()
        for mask, box in zip(crowd.visible_masks, crowd.visible_boxes):
            y, x = np.nonzero(mask)
            assert box.tolist() == [x.min(), y.min(), x.max() + 1, y.max() + 1]


def test_masks_of_different_figures_are_disjoint(crowds):
    for crowd in crowds:
        assert crowd.visible_masks.sum(axis=0).max() == 1


def test_full_box_of_a_figure_in_sight_is_its_visible_box_and_others_leave_the_image(crowds):
    in_sight = outside = 0
    for crowd in crowds:
        limits = np.array([0, 0, 300, 200])
        outside += ((crowd.full_boxes[:, :2] < 0) | (crowd.full_boxes[:, 2:] > limits[2:])).any(axis=1).sum()
        in_sight += (crowd.full_boxes == crowd.visible_boxes).all(axis=1).sum()
        assert (crowd.visible_boxes[:, :2] >= 0).all() and (crowd.visible_boxes <= limits[[2, 3, 2, 3]]).all()
    assert outside > 6 and in_sight > 30


def test_hardly_visible_figures_are_ignored_and_only_those(crowds):
    ignored = np.concatenate([crowd.ignored for crowd in crowds])
    areas = np.concatenate([crowd.visible_masks.sum(axis=(1, 2)) for crowd in crowds])
    full = np.concatenate([(c.full_boxes[:, 2:] - c.full_boxes[:, :2]).prod(axis=1) for c in crowds])
    # A figure fills between a quarter and four fifths of its box.
    assert 0 < ignored.sum() < 0.15 * len(ignored)
    assert (areas[ignored] < LEAST_VISIBLE * 0.8 * full[ignored]).all()
    assert (areas[~ignored] > LEAST_VISIBLE * 0.25 * full[~ignored]).all()


def test_a_figure_in_front_is_where_its_mask_says(crowds):
    # Masks follow what is seen: the colours on both sides of a mask's outline differ more than inside it.
    steps_inside, steps_across = [], []
    for crowd in crowds[:5]:
        grey = crowd.image.mean(axis=2)
        step = np.abs(np.diff(grey, axis=1))
        owner = (crowd.visible_masks * np.arange(1, len(crowd.ignored) + 1)[:, None, None]).sum(axis=0)
        across = owner[:, 1:] != owner[:, :-1]
        steps_across.append(step[across].mean())
        steps_inside.append(step[~across & (owner[:, 1:] > 0)].mean())
    assert np.mean(steps_across) > 1.5 * np.mean(steps_inside)


def test_heads_lie_at_the_upper_part_of_full_boxes(crowds):
    for crowd in crowds:
        head, full = crowd.head_boxes, crowd.full_boxes
        assert (head[:, :2] >= full[:, :2]).all() and (head[:, 2:] <= full[:, 2:]).all()
        assert (head[:, 1] - full[:, 1] < 0.35 * (full[:, 3] - full[:, 1])).all()


@pytest.mark.slow
def test_crowds_are_like_crowdhuman():
    crowds = [make_crowd(5, index, SMALL) for index in range(40)]
    people = [int((~crowd.ignored).sum()) for crowd in crowds]
    assert 18 <= np.mean(people) <= 26 and max(people) <= 40 and np.std(people) > 4
    assert 1.6 <= np.mean([close_pairs(crowd) for crowd in crowds]) <= 3.2
    assert sum(len(crowd.ignore_regions) for crowd in crowds) > 10
    sides = np.concatenate([c.full_boxes[:, 2:] - c.full_boxes[:, :2] for c in crowds])
    assert ((sides[:, 1] > 1.5 * sides[:, 0]) & (sides[:, 1] < 3.6 * sides[:, 0])).mean() > 0.85


def test_crowd_level_sets_how_many_figures_stand_close(crowds):
    assert sum(close_pairs(make_crowd(5, index, SMALL, crowd_level=0)) for index in range(4)) == 0
    dense = sum(close_pairs(make_crowd(5, index, SMALL, crowd_level=3)) for index in range(4))
    assert dense > 1.5 * sum(close_pairs(crowd) for crowd in crowds[:4])


def test_annotations_in_both_formats_are_those_of_the_crowd(root):
    folder = root / "synthetic_crowd" / "val0"
    coco = COCO(str(folder / "instances.json"))
    lines = [json.loads(line) for line in (folder / "annotation.odgt").read_text().splitlines()]
    for index, (line, image) in enumerate(zip(lines, coco.dataset["images"], strict=True)):
        crowd = make_crowd(1, index, SMALL)
        saved = cv2.imread(str(folder / "images" / image["file_name"]))
        assert image["file_name"] == f"{line['ID']}.jpg" and np.abs(saved.astype(int) - crowd.image).mean() < 8
        both = list(zip(line["gtboxes"], coco.imgToAnns[index], strict=True))
        count = len(crowd.ignored)
        assert len(both) == count + len(crowd.ignore_regions)
        for i, (box, annotation) in enumerate(both):
            x, y, w, h = box["fbox"]
            source = crowd.full_boxes[i] if i < count else crowd.ignore_regions[i - count]
            assert [x, y, x + w, y + h] == source.tolist()
            assert annotation["bbox"] == box["fbox"] and annotation["visible_bbox"] == box["vbox"]
            assert annotation["iscrowd"] == box["extra"].get("ignore", 0)
            assert box["tag"] == ("person" if i < count else "mask") and annotation["category_id"] == 1
            mask = coco.annToMask(annotation).astype(bool)
            x1, y1, x2, y2 = tight_box(mask)
            assert annotation["area"] == mask.sum() and box["vbox"] == [x1, y1, x2 - x1, y2 - y1]
            if i < count:
                assert np.array_equal(mask, crowd.visible_masks[i])
                assert box["extra"]["box_id"] == i and box["extra"]["occ"] == int(box["fbox"] != box["vbox"])
                assert annotation["iscrowd"] == crowd.ignored[i]


def test_statistics_count_what_is_not_ignored(root):
    crowds = [make_crowd(1, index, SMALL) for index in range(3)]
    found = crowd_statistics(root / "synthetic_crowd" / "val0")
    assert found["images"] == 3 and found["pairs"] == pytest.approx(np.mean([close_pairs(c) for c in crowds]))
    assert found["objects"] == pytest.approx(np.mean([(~c.ignored).sum() for c in crowds]))
    assert found["ignored"] == pytest.approx(np.mean([c.ignored.sum() + len(c.ignore_regions) for c in crowds]))


def test_bad_arguments_are_named(tmp_path):
    for arguments, message in (
        ({"size": (400, 63)}, "400x63"),
        ({"seed": -1}, "seed is -1"),
        ({"index": -2}, "index -2"),
        ({"crowd_level": -0.5}, "crowd_level is -0.5"),
        ({"crowd_level": float("nan")}, "crowd_level is nan"),
        ({"crowd_level": float("inf")}, "crowd_level is inf"),
    ):
        with pytest.raises(ValueError, match=message):
            make_crowd(**({"seed": 0, "index": 0} | arguments))
    for arguments, message in (
        ({"count": 0}, "count is 0"),
        ({"workers": 0}, "workers 0"),
        ({"seed": -3}, "seed is -3"),
    ):
        with pytest.raises(ValueError, match=message):
            write_dataset(**({"folder": tmp_path / "a", "seed": 0, "count": 1} | arguments))
    (tmp_path / "file").write_text("")
    with pytest.raises(FileExistsError, match=f"{tmp_path}/file exists"):
        write_dataset(tmp_path / "file", 0, 1)
    with pytest.raises(OSError, match=f"the folder {tmp_path}/file/a cannot be written: Not a directory"):
        write_dataset(tmp_path / "file" / "a", 0, 1)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_interrupted_run_leaves_nothing(tmp_path):
    def stop():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_dataset(tmp_path / "a", 0, 2, size=SMALL, progress=stop)
    assert not list(tmp_path.iterdir())


def test_remains_of_a_killed_run_do_not_matter(tmp_path):
    (tmp_path / ".a.part" / "images").mkdir(parents=True)
    (tmp_path / ".a.part" / "images" / "old.jpg").write_bytes(b"")
    write_dataset(tmp_path / "a", 0, 1, size=(64, 96))
    assert [path.name for path in (tmp_path / "a" / "images").iterdir()] == ["crowd0_00000.jpg"]
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_smallest_and_tall_images_can_be_drawn():
    for size in ((64, 64), (300, 100)):
        crowd = make_crowd(0, 0, size)
        assert crowd.image.shape == (*size, 3) and crowd.visible_masks.shape == (len(crowd.ignored), *size)


def test_sprites_touch_all_their_sides_and_paste_cuts_what_sticks_out():
    rng = np.random.default_rng(0)
    for draw in (draw_person, draw_thing) * 10:
        sprite = draw(rng, 40.0)
        h, w = sprite.mask.shape
        assert tight_box(sprite.mask).tolist() == [0, 0, w, h]
        whole = np.zeros((3 * h, 3 * w, 3), np.float32)
        paste(whole, sprite, w, h)
        assert np.array_equal(whole[h : 2 * h, w : 2 * w], sprite.colour) and whole[:h].max() == 0
        for x, y in ((-w // 2, 0), (0, -h // 2), (w // 2, h // 2), (-w, 0), (0, 2 * h), (3 * w, -3 * h)):
            part = np.zeros((h, w, 3), np.float32)
            paste(part, sprite, x, y)
            big = np.zeros((9 * h, 9 * w, 3), np.float32)
            paste(big, sprite, x + 4 * w, y + 4 * h)
            assert np.array_equal(part, big[4 * h : 5 * h, 4 * w : 5 * w])
