"""The wheel in a fresh environment and an empty folder, without the checkout: the README's lines, and a command."""

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from skimage import data

from pages import read_blocks

ROOT = Path(__file__).parents[1]
# PYTHONPATH may name the checkout.
CLEAN = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "DETECTRON2"))}
# Prints where things came from, after the README's lines.
WITNESS = """
import sys, odam_d2
from odam_d2 import model_zoo
print(odam_d2.__file__)
print(sys.path)
for name in model_zoo.list_configs():
    print(name, load_config(name).MODEL.WEIGHTS)
print(len(explanation.instances), tuple(explanation.maps["x2"].shape))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from a copy, because setuptools writes beside what it builds."""
    folder = tmp_path_factory.mktemp("wheel")
    ignored = shutil.ignore_patterns(".*", "build", "dist", "output", "datasets", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT, folder / "source", ignore=ignored)
    build = [sys.executable, "-m", "pip", "wheel", ".", "--no-deps", "--no-build-isolation", "-w", str(folder / "dist")]
    done = subprocess.run(build, cwd=folder / "source", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (made,) = (folder / "dist").glob("*.whl")
    return made


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """The ``bin`` folder of a virtual environment with the wheel, and with the packages of this one beside it."""
    folder = tmp_path_factory.mktemp("environment") / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    python = folder / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-deps", "--no-index", str(wheel)]
    done = subprocess.run(pip, capture_output=True, text=True, env=CLEAN)
    assert done.returncode == 0, done.stdout + done.stderr
    (packages,) = folder.glob("lib/python*/site-packages")
    # In contrast to a site folder, what a .pth file names is added as it is: .pth files in there, such as an editable
    # installation's, do not count.
    outer = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    (packages / "outer.pth").write_text("\n".join(outer) + "\n")
    return folder / "bin"


@pytest.fixture
def run(installed, tmp_path):
    """Run a program of the environment in an empty folder that holds a photograph."""
    Image.fromarray(data.astronaut()).save(tmp_path / "photo.jpg")

    def call(program, *words):
        command = [str(installed / program), *words]
        environment = {**CLEAN, "PYTHONWARNINGS": "ignore"}
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return call


@pytest.mark.slow
def test_the_readmes_lines_and_every_config_work_from_an_empty_folder(run, installed, tmp_path):
    (code,) = read_blocks("README.md", "python")
    (tmp_path / "lines.py").write_text(code + WITNESS)
    where, path, *configs, last = run("python", "lines.py").splitlines()
    packages = Path(where).parents[1]
    assert packages.is_relative_to(installed.parent)
    # Nothing else on the path could have been imported.
    assert [folder for folder in ast.literal_eval(path) if Path(folder, "odam_d2").is_dir()] == [str(packages)]
    assert len(configs) == len([path for path in Path("configs").rglob("*.yaml") if path.stem[:4] != "Base"])
    assert "demo/fcos_nanodet_g.yaml odam://fcos_nanodet_g.pth" in configs
    count, shape = last.split(maxsplit=1)
    assert int(count) > 0 and shape == f"({count}, 512, 512)"
    with Image.open(tmp_path / "why" / "sheet.png") as sheet:
        assert sheet.width > 512


@pytest.mark.slow
def test_the_command_explains_a_photograph_from_an_empty_folder(run, tmp_path):
    words = ["--config-file", "demo/fcos_nanodet_g.yaml", "--input", "photo.jpg", "--output", "out"]
    out = run("odam", "explain", *words)
    assert "photo" in out and "out/index.html" in out
    assert {"index.html", "results.jsonl", "pages", "maps"} <= {path.name for path in (tmp_path / "out").iterdir()}
    (page,) = (tmp_path / "out" / "pages").iterdir()
    assert "photo.jpg" in page.read_text() and "photo.jpg" in (tmp_path / "out" / "results.jsonl").read_text()
