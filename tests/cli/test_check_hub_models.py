"""``odam check-hub-models``, on folders in the place of the hub: a row for each model, and why one has none."""

import pytest
from PIL import Image

from helpers import random_photo
from odam_d2.cli import check_hub_models
from odam_d2.cli.check_hub_models import HEADINGS, UNIT, main
from transformer_networks import tiny_network

transformers = pytest.importorskip("transformers", reason="the extra 'transformers' is not installed")


@pytest.fixture
def folder(tmp_path):
    """What ``save_pretrained`` writes of a DETR and of what prepares its images."""
    tiny_network("detr").save_pretrained(tmp_path / "detr")
    transformers.DetrImageProcessor().save_pretrained(tmp_path / "detr")
    Image.fromarray(random_photo(64, 96)).save(tmp_path / "photo.png")
    return tmp_path


def run(call, folder, monkeypatch, *names):
    monkeypatch.setattr(check_hub_models, "MODELS", {str(folder / name): UNIT for name in names})
    return call(main, "--input", folder / "photo.png", "--output", folder / "hub.md", "--score", "0.2")


def test_a_model_has_a_row_and_one_that_is_not_there_a_reason(folder, call, monkeypatch):
    done = run(call, folder, monkeypatch, "detr", "absent")
    assert done.code == 0 and done.out.endswith(f"1 of 2 models: see {folder / 'hub.md'}\n"), done.err
    head, _, first, second = (
        [cell.strip() for cell in line.strip("|\n").split("|")] for line in (folder / "hub.md").open()
    )
    assert head == list(HEADINGS)
    row = dict(zip(head, first))
    assert row["as the library's"] == "True" and row["classes"] == "3" and int(row["detections"]) > 0
    # Of the tiny backbone three stages, the projection, the encoder, and "fpn".
    assert row["layers"] == "6" and 0 <= float(row["energy inside the box"]) <= 1
    assert second[0] == str(folder / "absent") and second[1] and not any(second[2:])


def test_without_any_model_the_table_says_why_and_the_command_fails(folder, call, monkeypatch):
    done = run(call, folder, monkeypatch, "absent")
    assert done.code == 1 and "0 of 1 models" in done.out
    assert (folder / "hub.md").read_text().count("\n") == 3
