"""``docs/people.md``: its commands one after the other; between making and analysing, SIMULATED participants answer."""

import json
from pathlib import Path

import pytest

from evaluation.people.trust.simulated import random_ranks, write_files
from odam_d2.evaluation.people.trust.studies import read_key
from pages import read_blocks, run_command, split_commands

PAGE = "docs/people.md"
LEAVES = (
    *(f"attention/{name}" for name in ("attention.csv", "tables.md", "summary.json", "examples")),
    *("study/key.json", "study/participant-04.html", "trust/analysis.json", "trust/analysis.md", "power.png"),
)


@pytest.mark.slow
def test_the_page_can_be_followed(folder, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    for text in read_blocks(PAGE, "bash"):
        for words in split_commands(text):
            if words[1:3] == ["trust", "analyse"]:
                study = read_key(Path("study/key.json"))
                write_files(Path("answers"), study, random_ranks())
            run_command(words)
    missing = [name for name in LEAVES if not Path(name).exists()]
    assert missing == []
    assert json.loads(Path("trust/analysis.json").read_text())["counts"]["responses"] == 4


def test_the_example_of_a_csv_file_can_be_read(tmp_path):
    from odam_d2.evaluation.people.fixations import read_fixations

    (text,) = read_blocks(PAGE, "text")
    (tmp_path / "own.csv").write_text(text)
    found = read_fixations(tmp_path / "own.csv").images["chelsea.jpg"]
    assert found.x.tolist() == [120.5, 131] and found.observer.tolist() == [0, 1]
