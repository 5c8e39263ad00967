"""What an installed package brings along, and what it needs."""

import ast
import re
import subprocess
import sys
from configparser import ConfigParser
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import yaml

import odam_d2
from odam_d2.cli.main import main

# A user brings these: installing odam_d2 must not replace them.
OWN = {"torch", "torchvision", "detectron2", "cv2"}
# Packages that are imported under another name than they are installed under.
NAMES = {"PIL": "Pillow", "yaml": "PyYAML"}
# Imported where they are needed alone: under which name they are installed, and the extra that brings them.
OPTIONAL = {"ot": ("POT", "people")}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The package as ``pip install .`` would copy it."""
    folder = tmp_path_factory.mktemp("built")
    command = [sys.executable, "setup.py", "-q", "egg_info", "--egg-base", folder, "build_py", "--build-lib", folder]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


def test_every_module_and_the_pages_are_in_the_package(built):
    modules = [str(path) for path in Path("odam_d2").rglob("*.py")]
    assert not [path for path in modules if not (built / path).is_file()]
    pages = (
        "show/templates/base.css",
        "show/templates/report.html",
        "show/templates/side_by_side.html",
        "evaluation/people/templates/marker.html",
        "evaluation/people/templates/signed.js",
        "evaluation/people/templates/trust.html",
        "evaluation/study/templates/errors.html",
        "evaluation/study/templates/evaluation.html",
    )
    for page in pages:
        assert (built / "odam_d2" / page).is_file()


def test_the_type_information_is_in_the_package(built):
    assert (built / "odam_d2" / "py.typed").read_bytes() == b""


def test_every_config_and_all_weights_are_in_the_package_byte_for_byte(built):
    zoo = built / "odam_d2" / "model_zoo"
    # Configs of transformers may name a json.
    folders = (("configs", "configs", ("yaml", "json")), ("projects/ODAM/weights", "weights", ("pth",)))
    for source, target, suffixes in folders:
        files = [path for suffix in suffixes for path in Path(source).rglob(f"*.{suffix}")]
        expected = {path.relative_to(source): path.read_bytes() for path in files}
        found = {
            path.relative_to(zoo / target): path.read_bytes() for path in (zoo / target).rglob("*") if path.is_file()
        }
        assert found == expected
        assert {Path("demo/fcos_nanodet_g.yaml"), Path("fcos_nanodet_g.pth")} & set(found)


def test_what_an_earlier_build_left_is_not_packed(tmp_path):
    stale = tmp_path / "odam_d2" / "model_zoo" / "configs" / "stale.yaml"
    stale.parent.mkdir(parents=True)
    stale.touch()
    command = [sys.executable, "setup.py", "-q", "build_py", "--build-lib", str(tmp_path)]
    subprocess.run(command, check=True, capture_output=True)
    assert not stale.exists() and (stale.parent / "demo" / "fcos_nanodet_g.yaml").is_file()


def test_exactly_the_packages_that_are_imported_are_required(built):
    lines = (built / "odam_d2.egg-info" / "requires.txt").read_text().splitlines()
    required = {re.match(r"[\w-]+", line)[0] for line in lines[: lines.index("")]}
    imported = {name.split(".")[0] for path in Path("odam_d2").rglob("*.py") for name in imported_by(path)}
    imported -= set(sys.stdlib_module_names) | OWN | {"odam_d2"} | OPTIONAL.keys()
    assert {NAMES.get(name, name) for name in imported} == required


@pytest.mark.parametrize("name", OPTIONAL)
def test_packages_for_one_purpose_are_an_extra(name, built):
    """They are imported where they are needed alone, inside of a function."""
    package, extra = OPTIONAL[name]
    text = (built / "odam_d2.egg-info" / "requires.txt").read_text()
    assert re.search(rf"^\[{extra}\]\n{package}\b", text, re.MULTILINE)
    tops = [node for path in Path("odam_d2").rglob("*.py") for node in ast.parse(path.read_text()).body]
    assert not [node for node in tops if isinstance(node, ast.ImportFrom) and node.module == name]


def imported_by(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module


def test_the_version_stands_in_one_place(built):
    metadata = (built / "odam_d2.egg-info" / "PKG-INFO").read_text()
    assert f"\nVersion: {odam_d2.__version__}\n" in metadata
    assert "\nLicense-Expression: Apache-2.0\n" in metadata
    for path in ("pyproject.toml", "setup.py", "CITATION.cff"):
        assert not re.search(rf"\b{re.escape(odam_d2.__version__)}\b", Path(path).read_text()), path
    assert f"\n## {odam_d2.__version__}\n" in Path("CHANGELOG.md").read_text()


def test_the_article_to_cite_is_the_readmes():
    article = yaml.safe_load(Path("CITATION.cff").read_text())["preferred-citation"]
    names = " and ".join(f"{author['family-names']}, {author['given-names']}" for author in article["authors"])
    (entry,) = re.findall(r"^```bibtex\n(.*?)^```", Path("README.md").read_text(), re.DOTALL | re.MULTILINE)
    for field, value in (("title", article["title"]), ("author", names), ("year", article["year"])):
        assert f"{field} = {{{value}}}" in " ".join(entry.split()), field


def test_the_extras_are_named(built):
    lines = (built / "odam_d2.egg-info" / "requires.txt").read_text().splitlines()
    assert {line for line in lines if line.startswith("[")} == {
        "[transformers]",
        "[clip]",
        "[people]",
        "[docs]",
        "[dev]",
    }


def test_the_console_command_is_there(built):
    parser = ConfigParser()
    parser.read(built / "odam_d2.egg-info" / "entry_points.txt")
    assert parser.options("console_scripts") == ["odam"]
    assert EntryPoint("odam", parser["console_scripts"]["odam"], "console_scripts").load() is main
