"""``odam``: finds every command, and imports none that it does not run."""

import runpy
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from odam_d2.cli.main import COMMANDS, main

MODULES = {path.stem for path in Path("odam_d2/cli").glob("*.py")} - {"__init__", "__main__"}
# What commands share is none.
MODULES -= {
    "arguments",
    "attention_points",
    "common",
    "explain_report",
    "explained_objects",
    "main",
    "memory",
    "overlap",
    "processes",
    "settings",
}
# Fronts whose names are older than those of the commands.
NAMES = {"evaluate_explanations": "evaluate", "sanity_check": "sanity", "train_net": "train"}
# The others are no commands of odam.
FRONTS = sorted(path for path in Path("scripts").glob("*.py") if path.stem not in ("benchmark", "docs_roles"))
FRONTS += [Path("projects/ODAM/train_net.py"), Path("projects/ODAM/figures.py")]


def module_of(command):
    return f"odam_d2.cli.{command.replace('-', '_')}"


def test_every_module_is_a_command():
    assert {command.replace("-", "_") for command in COMMANDS} == MODULES


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_shows_its_options_under_its_name(command, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([command, "--help"])
    assert stopped.value.code == 0
    out = capsys.readouterr().out
    assert out.startswith(f"usage: odam {command} ") and "--features" not in out


@pytest.mark.parametrize("path", FRONTS, ids=str)
def test_every_front_runs_its_command(path):
    command = NAMES.get(path.stem, path.stem)
    assert runpy.run_path(str(path))["main"] is import_module(f"odam_d2.cli.{command}").main
    assert len(path.read_text().splitlines()) < 10


def test_every_command_has_a_front():
    assert {NAMES.get(path.stem, path.stem) for path in FRONTS} == MODULES


def run(*words):
    return subprocess.run([sys.executable, *words], capture_output=True, text=True)


def test_a_front_is_a_program(tmp_path):
    done = run("scripts/evaluate_crowdhuman.py", "--help")
    assert done.returncode == 0 and done.stdout.startswith("usage: odam evaluate-crowdhuman"), done.stderr
    done = run("scripts/evaluate_crowdhuman.py", str(tmp_path / "a"), str(tmp_path / "b"))
    assert done.returncode == 1 and done.stderr.startswith("error: ")


def test_help_lists_the_commands_without_importing_any():
    code = (
        "import sys\n"
        "from odam_d2.cli.main import main\n"
        "code = main(['--help'])\n"
        "print(code, {'torch', 'detectron2', 'cv2', 'numpy', 'PIL'} & set(sys.modules))\n"
    )
    done = run("-c", code)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[-1] == "0 set()"
    for command, what in COMMANDS.items():
        (line,) = [line for line in lines if line.split()[:1] == [command]]
        assert line.endswith(what) and len(line) <= 120


def test_the_package_is_the_same_program():
    done = run("-m", "odam_d2.cli", "evaluate-crowdhuman", "absent.json", "absent.odgt")
    assert done.returncode == 1 and done.stderr.startswith("error: there is no file"), done.stderr


@pytest.mark.parametrize(
    ("words", "what"), [(["explian"], "unknown command 'explian'"), ([], "no command was named"), (["--x"], "'--x'")]
)
def test_an_unknown_command_is_one_sentence_with_the_valid_ones(words, what, capsys):
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert not out and err.count("\n") == 1 and err.startswith("error: ") and what in err
    assert err.endswith(f"valid commands are {', '.join(COMMANDS)}\n")


def test_words_and_exit_code_go_through(monkeypatch):
    seen = []
    monkeypatch.setattr(f"{module_of('explain-nms')}.main", lambda argv: seen.append(argv) or 5)
    assert main(["explain-nms", "--input", "a b"]) == 5 and seen == [["--input", "a b"]]


def test_ctrl_c_while_the_command_is_imported_ends_as_always(monkeypatch, capsys):
    def interrupted(name):
        raise KeyboardInterrupt

    monkeypatch.setattr("odam_d2.cli.main.import_module", interrupted)
    assert main(["explain"]) == 130
    assert capsys.readouterr() == ("", "interrupted\n")


def test_a_package_that_is_not_installed_is_one_sentence():
    code = (
        "import sys\n"
        "sys.modules['detectron2'] = None\n"
        "from odam_d2.cli.main import main\n"
        "sys.exit(main(['explain', '--help']))\n"
    )
    done = run("-c", code)
    assert done.returncode == 1 and not done.stdout
    assert done.stderr.startswith("error: odam explain needs the package detectron2, which is not installed")
    assert "setup_env.sh" in done.stderr and done.stderr.count("\n") == 1
