"""Fixations: both files they are read from, and everything that can be wrong with them."""

import math

import numpy as np
import pytest
from scipy.io import savemat

from odam_d2.evaluation.people.fixations import (
    FREE_VIEWING,
    Fixations,
    check_inside,
    match_images,
    read_fixations,
)

CSV = "image,observer,x,y,duration\na.jpg,ann,1,2,100\na.jpg,ben,3.5,4,50\nb.jpg,ann,5,6,10\n"


def write(path, text):
    path.write_text(text)
    return path


def write_mat(path, images):
    """OSIE's layout: image -> a list, a subject each, of (x, y, duration) lists."""
    records = [
        {"img": name, "subjects": [dict(zip(("fix_x", "fix_y", "fix_duration"), parts)) for parts in subjects]}
        for name, subjects in images.items()
    ]
    savemat(path, {"fixations": records})
    return path


def test_a_csv_file_is_read(tmp_path):
    recording = read_fixations(write(tmp_path / "f.csv", CSV))
    assert list(recording.images) == ["a.jpg", "b.jpg"] and recording.task == ""
    first = recording.images["a.jpg"]
    assert first.x.tolist() == [1, 3.5] and first.y.tolist() == [2, 4] and first.duration.tolist() == [100, 50]
    # Numbered in the order in which they appear in the file.
    assert first.observer.tolist() == [0, 1] and recording.images["b.jpg"].observer.tolist() == [0]


def test_a_csv_file_without_observers_is_of_one_person(tmp_path):
    recording = read_fixations(write(tmp_path / "f.csv", "image,x,y,duration\na,1,2,3\na,2,3,4\n"))
    assert recording.images["a"].observer.tolist() == [0, 0]


def test_osies_file_is_read_also_where_a_subject_has_a_single_fixation_or_none(tmp_path):
    subjects = [([1.0, 2.0], [3.0, 4.0], [50, 60]), ([7.0], [8.0], [90]), ([], [], [])]
    recording = read_fixations(write_mat(tmp_path / "f.mat", {"1.jpg": subjects, "2.jpg": subjects[1:]}))
    assert recording.task == FREE_VIEWING and "cannot be compared" in recording.task
    first = recording.images["1.jpg"]
    assert first.x.tolist() == [1, 2, 7] and first.y.tolist() == [3, 4, 8]
    assert first.duration.tolist() == [50, 60, 90] and first.observer.tolist() == [0, 0, 1]
    assert len(recording.images["2.jpg"]) == 1


@pytest.mark.parametrize(
    ("text", "culprit"),
    [
        ("image,x,y\na,1,2\n", "lacks the column duration"),
        ("image,x,y,duration\n", "holds no fixation"),
        ("", "lacks the column image"),
        ("image,x,y,duration\na,1,left,3\n", "line 2: y is 'left'"),
        ("image,x,y,duration\na,1,2,3\na,nan,2,3\n", "line 3: x is 'nan'"),
        ("image,x,y,duration\na,1,2\n", "line 2: duration is None"),
        ("image,x,y,duration\na,1,2,-3\n", "line 2: the duration -3 must be at least 0"),
    ],
)
def test_a_csv_file_with_a_fault_is_refused_by_line(text, culprit, tmp_path):
    with pytest.raises(ValueError, match=culprit):
        read_fixations(write(tmp_path / "f.csv", text))


def test_files_that_are_none_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no file of fixations"):
        read_fixations(tmp_path / "absent.csv")
    with pytest.raises(ValueError, match="cannot be read as OSIE's fixations"):
        read_fixations(write(tmp_path / "f.mat", "not MATLAB's"))
    whole = write_mat(tmp_path / "whole.mat", {"1.jpg": [([1.0, 2.0], [3.0, 4.0], [5, 6])] * 2}).read_bytes()
    for length in (5, 100, 126, 128, 130, len(whole) // 2, len(whole) - 1):
        (tmp_path / "cut.mat").write_bytes(whole[:length])
        with pytest.raises(ValueError, match="cut.mat cannot be read as OSIE's fixations"):
            read_fixations(tmp_path / "cut.mat")
    savemat(tmp_path / "other.mat", {"something": 1})
    with pytest.raises(ValueError, match="cannot be read as OSIE's fixations.*'fixations'"):
        read_fixations(tmp_path / "other.mat")
    uneven = write_mat(tmp_path / "uneven.mat", {"1.jpg": [([1.0, 2.0], [3.0], [4, 5])] * 2})
    with pytest.raises(ValueError, match="cannot be read as OSIE's fixations.*as many finite numbers each"):
        read_fixations(uneven)
    for wrong in ([math.nan, 2.0], ["left", "right"]):
        file = write_mat(tmp_path / "wrong.mat", {"1.jpg": [(wrong, [3.0, 4.0], [5, 6])] * 2})
        with pytest.raises(ValueError, match="wrong.mat cannot be read.*as many finite numbers each"):
            read_fixations(file)
    savemat(tmp_path / "nameless.mat", {"fixations": [{"img": "1.jpg", "people": 1}] * 2})
    with pytest.raises(ValueError, match="nameless.mat cannot be read.*no 'subjects'"):
        read_fixations(tmp_path / "nameless.mat")
    (tmp_path / "latin.csv").write_bytes("image,x,y,duration\n\xe4,1,2,3\n".encode("latin-1"))
    with pytest.raises(ValueError, match="no CSV file in UTF-8"):
        read_fixations(tmp_path / "latin.csv")


def test_fixations_outside_of_the_image_are_refused_or_left_out():
    fixations = Fixations.of([(0, 0, 1, 0), (40, 30, 1, 0), (40.5, 3, 1, 0), (-1, 3, 1, 1)])
    with pytest.raises(ValueError, match=r"a\.jpg: 2 of 4 fixations lie outside the image of 40 x 30.*\(40\.5, 3\)"):
        check_inside(fixations, (30, 40), "a.jpg")
    # Those on the border stay.
    assert check_inside(fixations, (30, 40), "a.jpg", leave_out=True).x.tolist() == [0, 40]
    assert check_inside(fixations[:2], (30, 40), "a.jpg").x.tolist() == [0, 40]


def test_images_are_found_by_id_and_by_file():
    one = Fixations.of([(1, 1, 1, 0)])
    files = {"7": "/photos/a.jpg", "8": "/photos/b.jpg", "9": "/photos/c.jpg"}
    # In the dataset's order, and without the image that has no fixation.
    matched = match_images({"b.jpg": one, "7": one, "9": Fixations.of([])}, files)
    assert list(matched) == ["7", "8"]


@pytest.mark.parametrize(
    ("names", "culprit"),
    [
        (["x.jpg", "a.jpg"], "the dataset does not have: x.jpg; name them"),
        (["x", "y", "z", "u", "v"], "does not have: x, y, z and 2 more"),
        (["b.jpg"], "'b.jpg' is the name of 2 images of the dataset; use their ids"),
        (["7", "8", "a.jpg"], "the fixations name one image twice, '7' and 'a.jpg'; use one of the names"),
    ],
)
def test_names_that_mean_no_image_or_two_are_refused(names, culprit):
    files = {"7": "/photos/a.jpg", "8": "/photos/b.jpg", "9": "/others/b.jpg"}
    with pytest.raises(ValueError, match=culprit):
        match_images({name: Fixations.of([(1, 1, 1, 0)]) for name in names}, files)


def test_parts_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="differ in their number"):
        Fixations(np.zeros(2), np.zeros(1), np.zeros(2), np.zeros(2, int))
    with pytest.raises(ValueError, match="must have finite x, y and duration"):
        Fixations.of([(1, np.inf, 1, 0)])
