"""What an installed package brings along."""

import subprocess
import sys
from configparser import ConfigParser
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from odam_d2.cli.main import main


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
    for page in ("show/templates/report.html", "evaluation/study/templates/evaluation.html"):
        assert (built / "odam_d2" / page).is_file()


def test_the_console_command_is_there(built):
    parser = ConfigParser()
    parser.read(built / "odam_d2.egg-info" / "entry_points.txt")
    assert parser.options("console_scripts") == ["odam"]
    assert EntryPoint("odam", parser["console_scripts"]["odam"], "console_scripts").load() is main
