"""The arrows of the architecture: image -> modeling -> Trace -> explain -> HeatMaps -> consumers, never back."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path("odam_d2")
MODULES = sorted(PACKAGE.rglob("*.py"))
MAY_IMPORT_DETECTRON2 = (
    *("modeling", "data", "engine.py", "predictor.py", "config.py", "cli", "nms/build.py"),
    *("evaluation/detections/evaluators.py", "evaluation/study/run.py"),
)
# Rooms that see arrays and structures only.
PURE = {
    "structures": {"structures"},
    "losses": {"losses"},
    "nms": {"structures", "explain", "nms"},
    "explain": {"structures", "explain"},
    "show": {"show", "files"},
    # A detector holds objects that its config built, its NMS and its losses, and only calls them.
    "modeling": {"structures", "modeling", "nms", "losses"},
}


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_only_the_rooms_that_may_import_detectron2(path):
    if not str(path.relative_to(PACKAGE)).startswith(MAY_IMPORT_DETECTRON2):
        assert not [name for name in imports(path) if name.split(".")[0] == "detectron2"]


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_rooms_import_only_rooms_before_them(path):
    room = path.relative_to(PACKAGE).parts[0]
    allowed = PURE.get(room)
    if allowed is not None:
        used = {name.split(".")[1] for name in imports(path) if name.startswith("odam_d2.")}
        assert used <= allowed


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_one_module_calls_autograd(path):
    calls = "torch.autograd.grad(" in path.read_text()
    assert calls == (path.as_posix() == "odam_d2/explain/gradients.py")


def test_maps_can_be_made_without_detectron2_and_its_absence_is_explained():
    code = (
        "import sys; sys.modules['detectron2'] = None\n"
        "import odam_d2\n"
        "odam_d2.GradientExplainer, odam_d2.HeatMaps\n"
        "try:\n    odam_d2.ODAMPredictor\n"
        "except ModuleNotFoundError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "setup_env.sh" in done.stdout and done.stdout.count("\n") == 1


def test_public_names_exist():
    import odam_d2

    for name in odam_d2.__all__:
        assert getattr(odam_d2, name).__name__ == name
    with pytest.raises(AttributeError, match="nothing"):
        odam_d2.nothing  # noqa: B018
