"""Parts of the benchmarks whose results are known beforehand."""

import json
import signal
import subprocess
from importlib import import_module

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model

from helpers import random_photo, small_cfg
from odam_d2 import ODAMPredictor
from odam_d2.config import load_config
from odam_d2.data.voc import load_voc
from odam_d2.distill import DISTILLERS
from odam_d2.explain.reversed.head import plan_level
from odam_d2.teaching import distiller_from_config, levels_of
from own_data import write_voc


def test_a_plan_is_named_by_the_number_of_maps_that_decides_about_it():
    paths = import_module("benchmarks.paths")
    opts = ["MODEL.FCOS.NORM", "GN", "MODEL.FCOS.NUM_CONVS", 4, "MODEL.FCOS.SCORE_THRESH_TEST", 0.0]
    opts += ["MODEL.FCOS.TOPK_CANDIDATES_TEST", 200, "MODEL.FCOS.NMS_THRESH_TEST", 1.0]
    torch.manual_seed(0)
    model = build_model(small_cfg("fcos", [*opts, "TEST.DETECTIONS_PER_IMAGE", 400]))
    # FCOS cuts negative distances to 0, and a box without a size is no detection.
    torch.nn.init.constant_(model.head.bbox_pred.bias, 2.0)
    predictor = ODAMPredictor.from_model(model, min_size=96, max_size=160, input_format="RGB")
    photo = random_photo(96, 160)
    # Of p3, first all and then two.
    (_, every) = predictor.trace(photo)
    on_p3 = [row for row, level in enumerate(every.levels) if level == "p3"]
    assert len(on_p3) > 100
    traces = [predictor.trace(photo, instances=chosen)[1] for chosen in (on_p3, on_p3[:2])]
    plans = [plan_level(trace, "p3", "auto", len(trace)) for trace in traces]
    assert plans == ["shared", "whole"]
    found = {row["plan"]: row["maps"] for row in paths.compare("a", traces, "fpn") if row["path"] == "auto"}
    assert found == {"shared": len(on_p3), "whole": 2}


def test_what_a_killed_run_lost_or_has_twice_is_counted(tmp_path):
    resume = import_module("benchmarks.resume")
    (tmp_path / "pages").mkdir()
    (tmp_path / "maps").mkdir()

    def shown(*names):
        return "".join(f'<script id="summary-{i}">{json.dumps({"name": n})}</script>' for i, n in enumerate(names))

    # Of five, b has two lines, c is on two pages, d has no page, e has no line.
    lines = [json.dumps({"file": f"/some/where/{name}.jpg"}) for name in "abbcd"]
    (tmp_path / "results.jsonl").write_text("\n".join(lines) + "\n")
    (tmp_path / "pages" / "0.html").write_text(shown("a.jpg", "b.jpg", "c.jpg"))
    (tmp_path / "pages" / "1.html").write_text(shown("c.jpg", "e.jpg"))
    (tmp_path / "index.html").write_text("x" * 1000)
    row = resume.results(tmp_path, 5)
    assert row["lines"] == 5 and row["lost"] == 2 and row["twice"] == 2
    assert row["parts"] == 2 and row["raw maps"] == 0 and row["index, MB"] == 0.001


@pytest.mark.slow
def test_the_size_of_a_process_is_its_own_and_its_largest(tmp_path):
    measure = import_module("benchmarks.measure")
    held = np.ones(2**26)  # half a gigabyte here, and none of it there
    code = (
        "import json, numpy as np\n"
        "from benchmarks.six_lines import largest_gb\n"
        "before = largest_gb(); own = np.ones(2**25); del own\n"
        "print(json.dumps([before, largest_gb()]))\n"
    )
    before, after = json.loads(measure.run_process("-c", code, device="cpu"))
    assert len(held) and after - before == pytest.approx(2**28 / 1e9, abs=0.05)
    six_lines = import_module("benchmarks.six_lines")
    assert before < six_lines.largest_gb()


def test_a_process_that_fails_says_why():
    measure = import_module("benchmarks.measure")
    with pytest.raises(RuntimeError, match="ended with 3: too bad"):
        measure.run_process("-c", "import sys; sys.stderr.write('too bad'); sys.exit(3)", device="cpu")
    hidden = measure.run_process("-c", "import os; print(os.environ.get('CUDA_VISIBLE_DEVICES'))", device="cpu")
    assert hidden == "\n"


def test_a_signal_while_a_process_is_started_ends_it_as_well(monkeypatch):
    measure, started = import_module("benchmarks.measure"), []

    class Interrupted(subprocess.Popen):
        def __init__(self, *args, **options):
            super().__init__(*args, **options)
            started.append(self)
            signal.raise_signal(signal.SIGTERM)

    def stop(*_):
        raise SystemExit(143)

    monkeypatch.setattr(measure.subprocess, "Popen", Interrupted)
    before = signal.signal(signal.SIGTERM, stop)
    try:
        with pytest.raises(SystemExit, match="143"):
            measure.run_process("-c", "import time; time.sleep(60)", device="cpu")
        assert signal.getsignal(signal.SIGTERM) is stop
    finally:
        signal.signal(signal.SIGTERM, before)
    assert started[0].returncode == -signal.SIGKILL


def test_published_weights_are_scaled_together_and_nothing_else_is():
    runs = import_module("benchmarks.odam_kd_runs")
    assert runs.weighed("cwd", 0.1) == ("ODAM.KD.DISTILLER", "cwd", "ODAM.KD.CWD.WEIGHT", pytest.approx(1.0))
    # FGD's for FCOS, as published.
    weights = dict(zip(*(iter(runs.weighed("odam_kd", 0.5)),) * 2))
    assert weights == {"ODAM.KD.DISTILLER": "odam_kd"} | {
        f"ODAM.KD.FGD.{key}": pytest.approx(value / 2)
        for key, value in {"ALPHA": 1.6e-3, "BETA": 8e-4, "GAMMA": 8e-4, "LAMBDA": 8e-6}.items()
    }
    cfg = load_config("odam_kd/fcos_lcnet_050_synthetic.yaml")
    student = build_model(cfg)

    def own(name, *changes):
        changed = load_config("odam_kd/fcos_lcnet_050_synthetic.yaml", ["ODAM.KD.DISTILLER", name, *changes])
        values = vars(distiller_from_config(changed, student, levels_of(student), 128))
        return values.get("settings") or values["weight"]

    assert set(runs.SECTIONS) == set(DISTILLERS)
    for name in runs.SECTIONS:
        assert own(name) == own(name, *runs.weighed(name, 1.0)) != own(name, *runs.weighed(name, 0.5))


def test_images_for_the_search_are_none_of_those_it_trains_on(tmp_path):
    search = import_module("benchmarks.odam_kd_search")
    names = [f"cell{i}" for i in range(9)]
    source = write_voc(tmp_path / "bccd", {name: [("RBC", (1, 1, 9, 9), 0)] for name in names}, {"train": names})
    described = search.split_training_images(source, tmp_path / "own")
    assert search.split_training_images(source, tmp_path / "own") == described
    fit, tune = (load_voc(word.partition("voc:")[2].rpartition(":")[0], word.rpartition(":")[2]) for word in described)
    assert [one["image_id"] for one in tune] == ["cell0", "cell4", "cell8"]
    assert sorted(one["image_id"] for one in [*fit, *tune]) == names
    assert [word.partition("=")[0] for word in described] == ["kd_fit", "kd_tune"]
