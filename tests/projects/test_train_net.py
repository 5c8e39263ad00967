"""``projects/ODAM/train_net.py`` on synthetic crowds: one key changes the NMS, two processes change nothing."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from odam_d2.data.synthetic.dataset import write_dataset

CONFIG = "configs/odam_nms/faster_rcnn_nanodet_g_synthetic.yaml"


@pytest.fixture(scope="module")
def crowds(tmp_path_factory):
    root = tmp_path_factory.mktemp("datasets")
    write_dataset(root / "synthetic_crowd" / "val0", seed=1, count=3)
    return root


def evaluate(root, output, *words):
    """AP, MR, JI and recall as the run prints them."""
    environment = {**os.environ, "DETECTRON2_DATASETS": str(root), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "projects/ODAM/train_net.py", "--eval-only", "--config-file", CONFIG, *words]
    command += ["DATASETS.TEST", '("synthetic_crowd_val0",)', "OUTPUT_DIR", str(output)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr
    assert not re.search("torch.jit|meshgrid|fx_tracing|copy keyword|pkg_resources", done.stdout + done.stderr)
    printed = re.search(r"copypaste: AP,MR,JI,Recall\n.*copypaste: ([\d.,]+)", done.stdout)
    assert printed, done.stdout
    return [float(value) for value in printed[1].split(",")]


@pytest.mark.slow
def test_one_key_changes_the_nms(crowds, tmp_path):
    results = {}
    for name in ("greedy", "soft", "feature", "odam"):
        results[name] = evaluate(crowds, tmp_path / name, "ODAM.NMS.NAME", name)
        ap, mr, ji, recall = results[name]
        assert recall > 50 and 0 < ap <= 100 and 0 < ji <= 100 and 0 <= mr <= 100
    assert len({tuple(measured) for measured in results.values()}) == 4


@pytest.mark.slow
def test_two_processes_give_the_numbers_of_one(crowds, tmp_path):
    one = evaluate(crowds, tmp_path / "one", "ODAM.NMS.NAME", "odam")
    two = evaluate(crowds, tmp_path / "two", "--num-gpus", "2", "ODAM.NMS.NAME", "odam")
    assert one == two


@pytest.mark.slow
def test_missing_crowds_name_the_command_that_makes_them(tmp_path):
    # Configs and weights by name, from a folder that holds neither.
    root = Path.cwd()
    environment = {**os.environ, "DETECTRON2_DATASETS": str(tmp_path)}
    environment["PYTHONPATH"] = str(root)
    command = [sys.executable, str(root / "projects/ODAM/train_net.py"), "--eval-only"]
    command += ["--config-file", CONFIG.removeprefix("configs/"), "OUTPUT_DIR", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment, cwd=tmp_path)
    assert "Loading from odam://faster_rcnn_nanodet_g_synthetic.pth" in done.stdout
    assert done.returncode != 0 and "make_synthetic_crowd.py" in done.stderr
    assert done.stderr.startswith("error: there is no "), done.stderr
