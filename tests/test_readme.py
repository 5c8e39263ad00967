"""The code that a reader of README.md and configs/README.md copies first."""

import re
import shlex
from importlib import import_module
from pathlib import Path

import pytest
from PIL import Image

from odam_d2.cli.main import COMMANDS


def python_blocks(page):
    return re.findall(r"^```python\n(.*?)^```", Path(page).read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def test_six_lines_of_python_explain_a_photograph(tmp_path, monkeypatch):
    (code,) = python_blocks("README.md")
    assert len([line for line in code.splitlines() if line]) == 6
    Image.open("docs/chelsea.png").convert("RGB").crop((0, 0, 320, 240)).save(tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(code, names)
    explanation = names["explanation"]
    assert tuple(explanation.maps["x2"].shape) == (len(explanation.instances), 240, 320)
    assert (explanation.instances.scores > 0.5).all()
    assert explanation.values["class_score[dog]"].shape == explanation.instances.scores.shape
    with Image.open("why/sheet.png") as sheet:
        assert sheet.mode == "RGB" and sheet.width > 320
    for name in ("maps.npz", "detections.json"):
        assert Path("why", name).is_file()
    assert len(list(Path("why").glob("*.png"))) == 1 + 3 * len(explanation)


@pytest.mark.parametrize("page", ["README.md", "configs/README.md"])
def test_every_command_of_the_pages_can_be_given(page):
    blocks = re.findall(r"^```bash\n(.*?)^```", Path(page).read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    lines = "".join(blocks).replace("\\\n", "").splitlines()
    commands = [shlex.split(line) for line in lines if line.startswith("odam ")]
    assert commands
    for _, command, *words in commands:
        # Wrong words end in SystemExit.
        assert command in COMMANDS and import_module(f"odam_d2.cli.{command.replace('-', '_')}").parse_arguments(words)


def test_the_zoo_gives_what_its_page_says(tmp_path, monkeypatch):
    (code,) = python_blocks("configs/README.md")
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(code, names)
    assert type(names["model"]).__name__ == "ODAMFCOS"
    assert names["cfg"].MODEL.META_ARCHITECTURE == "ODAMRetinaNet"
