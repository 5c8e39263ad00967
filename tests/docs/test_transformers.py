"""``docs/transformers.md``: its code as a reader runs it, with the extra."""

import pytest

from drawn_cells import draw_cells
from odam_d2.explain import METHODS
from odam_d2.modeling.transformers.families import FAMILIES
from pages import read_blocks, run_command, split_commands

PAGE = "docs/transformers.md"


def test_its_python_runs_in_order(tmp_path, monkeypatch, capsys):
    pytest.importorskip("transformers", reason="the extra 'transformers' is not installed")
    from PIL import Image
    from skimage import data

    code = read_blocks(PAGE, "python")
    photo = Image.fromarray(data.chelsea())
    photo.thumbnail((160, 160))
    photo.save(tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "page"}
    for block in code:
        exec(compile(block, PAGE, "exec"), names)
    height, width = names["image"].shape[:2]
    assert names["explanation"].maps["x1"].shape == (1, height, width) and names["explanation"].method == "game"
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["['res3', 'res4', 'res5', 'projection', 'encoder', 'fpn']", f"torch.Size([1, {height}, {width}])"]


def test_the_bundled_detector_is_explained_by_odam_attention_and_game_side_by_side(tmp_path, monkeypatch):
    pytest.importorskip("transformers", reason="the extra 'transformers' is not installed")
    (block,) = [block for block in read_blocks(PAGE, "bash") if "odam compare" in block]
    draw_cells(tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    for words in split_commands(block):
        run_command(words)
    page = (tmp_path / "cells/compare.html").read_text()
    for method in ("odam", "attention", "game"):
        assert (tmp_path / "cells" / method / "index.html").is_file() and f"<td>{method}</td>" in page.replace("\n", "")
    assert page.count("RBC") >= 3


def test_figure_8_is_made_without_a_network(tmp_path, monkeypatch):
    pytest.importorskip("transformers", reason="the extra 'transformers' is not installed")
    (block,) = [block for block in read_blocks(PAGE, "bash") if "odam figures 8" in block]
    (words,) = [words for words in split_commands(block) if "--config-file" not in words]
    draw_cells(tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    run_command(words)
    assert (tmp_path / "figure8.png").is_file()


def test_it_names_every_family_and_method():
    with open(PAGE, encoding="utf-8") as file:
        text = " ".join(file.read().split())
    assert not [family.title for family in FAMILIES.values() if family.title not in text]
    assert not [name for name, method in METHODS.items() if method.kind == "attention" and f"`{name}`" not in text]
