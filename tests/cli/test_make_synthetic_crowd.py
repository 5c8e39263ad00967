"""``odam make-synthetic-crowd``: makes what is missing, and leaves what is there."""

import pytest

from odam_d2.cli.make_synthetic_crowd import main
from odam_d2.data.synthetic.dataset import SPLITS


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_is_missing_is_made_and_its_statistics_printed(tmp_path, monkeypatch, call):
    for split, seed in (("val0", 1), ("val1", 2), ("val2", 3)):
        monkeypatch.setitem(SPLITS, split, (seed, 2))
    done = call(main, "--root", tmp_path, "--splits", "val0", "--workers", "1")
    assert done.code == 0 and not done.err, done.err
    assert done.out.startswith("val0: 2 images, ") and "made in" in done.out and done.out.count("\n") == 1
    before = contents(tmp_path)
    assert len(before) == 4  # two photographs, two files of annotations
    done = call(main, "--root", tmp_path, "--splits", "val0,", "val2", "--workers", "1")
    assert [line.split(":")[0] for line in done.out.splitlines()] == ["val0", "val2"]
    assert "existed" in done.out.splitlines()[0] and "made in" in done.out.splitlines()[1]
    after = contents(tmp_path)
    assert {path: after[path] for path in before} == before and len(after) == 8


@pytest.mark.parametrize(
    ("change", "culprit"),
    [
        (["--crowd-level", "-1"], "crowd_level is -1"),
        (["--splits", "test"], "unknown split 'test'; valid splits are train, val0, val1, val2, tune"),
        (["--splits", ","], "--splits names no split"),
    ],
)
def test_each_mistake_is_one_sentence(change, culprit, tmp_path, call):
    done = call(main, "--root", tmp_path / "new", "--workers", "1", *change)
    assert done.code == 1 and not done.out and culprit in done.err
    assert done.err.startswith("error: ") and done.err.count("\n") == 1
    assert not (tmp_path / "new" / "train").exists()
