"""The arrows of the architecture: image -> modeling -> Trace -> explain -> HeatMaps -> consumers, never back."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path("odam_d2")
MODULES = sorted(PACKAGE.rglob("*.py"))
# Rooms that need torch alone, or less.
TORCH_ONLY = (
    "structures",
    "explain",
    "nms",
    "losses",
    "distill",
    "show",
    "evaluation/metrics",
    "evaluation/people/attention.py",
    "evaluation/people/fixations.py",
    "evaluation/people/similarity.py",
    *(f"evaluation/people/trust/{name}.py" for name in ("agreement", "analysis", "answers", "power", "studies")),
    "files.py",
    "boxes.py",
)
# What a room may import: those below it, and of these everything.
BELOW = {
    "boxes": set(),
    "files": set(),
    "notices": set(),
    "structures": set(),
    "losses": set(),
    "distill": {"structures"},
    "explain": {"structures"},
    "nms": {"structures", "explain"},
    "show": {"files"},
    # A detector holds objects that its config built, its NMS and its losses, and only calls them.
    "modeling": {"files", "structures", "explain", "nms", "losses"},
    # Between detectors, which know no distiller, and the trainer.
    "teaching": {"config", "structures", "explain", "distill", "modeling"},
    "model_zoo": {"config", "modeling"},
    "data": {"boxes", "files", "notices"},
    "evaluation": {"boxes", "files", "structures", "explain", "modeling", "data", "show", "predictor"},
}


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module


def dotted(path):
    return ".".join(path.with_suffix("").parts).removesuffix(".__init__")


def test_torch_only_rooms_can_be_imported_without_detectron2():
    """All of them in one process in which no import of Detectron2 succeeds, direct or by way of another module."""
    modules = [dotted(p) for p in MODULES if str(p.relative_to(PACKAGE)).startswith(TORCH_ONLY)]
    assert len(modules) > 30
    code = (
        "import importlib, sys; sys.modules['detectron2'] = None\n"
        f"for name in {modules!r}:\n    importlib.import_module(name)\n"
        "print([name for name in sys.modules if name.startswith('detectron2.')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_rooms_import_only_rooms_below_them(path):
    room = path.relative_to(PACKAGE).with_suffix("").parts[0]
    used = {name.split(".")[1] for name in imports(path) if name.startswith("odam_d2.")}
    assert used <= BELOW.get(room, used) | {room}


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_one_module_calls_autograd(path):
    calls = "torch.autograd.grad(" in path.read_text()
    assert calls == (path.as_posix() == "odam_d2/explain/gradients.py")


def test_maps_can_be_made_without_detectron2_and_its_absence_is_explained():
    code = (
        "import sys; sys.modules['detectron2'] = None\n"
        "import odam_d2\n"
        "odam_d2.GradientExplainer, odam_d2.HeatMaps, odam_d2.read_image\n"
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
