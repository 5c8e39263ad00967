"""Notices of other packages: commands and the README's lines are silent, and nobody's own warning is hidden."""

import logging
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from PIL import Image

from evaluation.explained import make_predictor, write_dataset
from odam_d2.notices import WARNINGS, hidden_notices, hide_notices

# As PyTorch, pycocotools and setuptools say it.
NOTICES = [
    (FutureWarning, "`torch.jit.script` is deprecated. Please switch to `torch.compile` or `torch.export`."),
    (DeprecationWarning, "`torch.jit.script_method` is deprecated. Please switch to `torch.compile`."),
    (UserWarning, "torch.meshgrid: in an upcoming release, it will be required to pass the indexing argument."),
    (DeprecationWarning, "__array__ implementation doesn't accept a copy keyword, so passing copy=False failed."),
    (UserWarning, "pkg_resources is deprecated as an API. See https://setuptools.pypa.io/"),
    (DeprecationWarning, "pkg_resources is deprecated as an API. See https://setuptools.pypa.io/"),
]
OTHERS = [
    (RuntimeWarning, "`torch.jit.script` is deprecated. Please switch to `torch.compile` or `torch.export`."),
    (FutureWarning, "torch.load with weights_only=False"),
    (UserWarning, "my own torch.meshgrid: in an upcoming release"),
]


def run(words, cwd, **environment):
    """A process that shows all warnings that Python shows by default."""
    inherited = {key: value for key, value in os.environ.items() if key != "PYTHONWARNINGS"}
    everything = {**inherited, "PYTHONPATH": str(Path.cwd()), "OMP_NUM_THREADS": "1", **environment}
    words = [sys.executable, *map(str, words)]
    return subprocess.run(words, capture_output=True, text=True, timeout=300, cwd=cwd, env=everything)


def shown():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        hide_notices()
        for category, message in [*NOTICES, *OTHERS]:
            warnings.warn(message, category, stacklevel=1)
    return [(one.category, str(one.message)) for one in caught]


def test_exactly_these_messages_are_hidden():
    assert len(NOTICES) == len(WARNINGS)
    assert shown() == OTHERS


def test_after_a_block_everything_is_shown_as_before(caplog):
    before, logger = list(warnings.filters), logging.getLogger("torch.fx._symbolic_trace")
    filters = list(logger.filters)
    for one in filters:
        logger.removeFilter(one)
    try:
        with hidden_notices():
            assert warnings.filters != before and len(logger.filters) == 1
            news, notice = (
                logger.makeRecord(logger.name, logging.WARNING, "", 0, text, (), None)
                for text in ("something else", "is_fx_tracing will return true for both fx.symbolic_trace and ...")
            )
            assert logger.filter(news) and not logger.filter(notice)
        assert warnings.filters == before and not logger.filters
    finally:
        for one in filters:
            logger.addFilter(one)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["fcos", "faster_rcnn"])
def test_commands_say_nothing_on_stderr(kind, quick_weights, tmp_path):
    weights = quick_weights(kind)
    folder = tmp_path / "coco_mini"
    (folder / "annotations").mkdir(parents=True)
    path = write_dataset(folder / "val2017", make_predictor(kind, weights))
    (folder / "annotations" / "instances_val2017.json").write_text(path.read_text())
    base = ["--config-file", f"quick/{kind}.yaml", "--output"]
    opts = ["--opts", "MODEL.WEIGHTS", weights]
    words = ["-m", "odam_d2.cli", "evaluate", *base, "evaluated", "--dataset", "coco_mini_val", "--methods", "odam"]
    done = run([*words, "--score-threshold", "0", *opts], tmp_path, DETECTRON2_DATASETS=str(tmp_path))
    assert done.returncode == 0 and done.stderr == ""
    front = Path("scripts/explain.py").resolve()
    done = run(
        [front, *base, "explained", "--input", folder / "val2017" / "1.png", "--confidence-threshold", "0", *opts],
        tmp_path,
    )
    assert done.returncode == 0 and done.stderr == ""


@pytest.mark.slow
def test_the_lines_of_the_readme_say_nothing_and_hide_nothing_of_the_users(tmp_path):
    (code,) = re.findall(r"^```python\n(.*?)^```", Path("README.md").read_text(encoding="utf-8"), re.DOTALL | re.M)
    Image.open("docs/chelsea.png").convert("RGB").crop((0, 0, 320, 240)).save(tmp_path / "photo.jpg")
    own = "import warnings\nwarnings.warn('`torch.jit.script` is deprecated, and I say it', FutureWarning)\n"
    done = run(["-c", code + own], tmp_path)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"<string>:\d+: FutureWarning: `torch.jit.script` is deprecated, and I say it\n", done.stderr)
