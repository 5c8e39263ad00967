"""The code that a reader of README.md and configs/README.md copies first."""

import re
from pathlib import Path

from PIL import Image


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
    with Image.open("why.png") as sheet:
        assert sheet.mode == "RGB" and sheet.width > 320


def test_the_zoo_gives_what_its_page_says(tmp_path, monkeypatch):
    (code,) = python_blocks("configs/README.md")
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(code, names)
    assert type(names["model"]).__name__ == "ODAMFCOS"
    assert names["cfg"].MODEL.META_ARCHITECTURE == "ODAMRetinaNet"
