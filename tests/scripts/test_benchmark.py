"""``scripts/benchmark.py``: what it runs, what it keeps, and that all of it runs in small sizes."""

import json
import os
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest
import torch
from detectron2.data.datasets import builtin_meta
from PIL import Image
from skimage import data

from helpers import DEVICES
from odam_d2.data.synthetic.dataset import SPLITS, write_dataset
from own_data import write_voc


@pytest.fixture
def made(monkeypatch):
    """Instead of the benchmarks, four of which the second and the third cannot be run."""
    benchmark, measure = import_module("benchmark"), import_module("benchmarks.measure")
    seen = []

    def add(name, error=None):
        def run(options):
            seen.append((name, options))
            yield measure.Table(f"{name}'s table", [{"what": "a", "ms": 2.5}])
            if error is not None:
                raise error

        module = ModuleType(name)
        module.run = run
        monkeypatch.setitem(sys.modules, f"benchmarks.{name}", module)

    add("first")
    add("broken", ZeroDivisionError("by zero"))
    add("absent", FileNotFoundError("there is no crowd.odgt; make it"))
    add("last")
    names = ("first", "broken", "absent", "last")
    monkeypatch.setattr(benchmark, "BENCHMARKS", names)
    monkeypatch.setattr(benchmark, "ON_DEVICE", names[:1])
    monkeypatch.setattr(benchmark, "keep_memory", lambda: None)
    return benchmark.main, seen


def test_all_goes_on_and_says_what_could_not_be_run(made, tmp_path, capsys):
    main, seen = made
    assert main(["all", "--device", "cpu", "--output", str(tmp_path / "out")]) == 1
    assert [name for name, _ in seen] == ["first", "broken", "absent", "last"]
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert lines == [
        "error: broken could not be run: ZeroDivisionError: by zero",
        "error: absent could not be run: there is no crowd.odgt; make it",
    ]
    # What the broken one had until then is kept.
    for name in ("first", "broken", "absent", "last"):
        saved = json.loads((tmp_path / "out" / f"{name}.json").read_text())
        assert saved["tables"] == {f"{name}'s table": [{"what": "a", "ms": 2.5}]}
        assert saved["repeats"] == 5 and not saved["quick"] and saved["machine"]["gpu"] == "not used"


def test_one_that_runs_ends_with_0_and_a_quick_one_says_so_in_its_titles(made, tmp_path, capsys):
    main, seen = made
    assert main(["last", "--device", "cpu", "--quick", "--output", str(tmp_path)]) == 0
    ((_, options),) = seen
    assert options.quick and options.repeats == 1 and options.size(100, 2) == 2
    assert "(quick: small sizes)" in " ".join(capsys.readouterr().out.split())
    assert list(json.loads((tmp_path / "last.json").read_text())["tables"]) == ["last's table (quick: small sizes)"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_refused_in_one_sentence(made, capsys):
    main, seen = made
    with pytest.raises(SystemExit) as stopped:
        main(["first", "--device", "cuda"])
    assert stopped.value.code == 2 and not seen
    assert "PyTorch finds no GPU on this machine; use --device cpu" in capsys.readouterr().err


@pytest.fixture(scope="module")
def datasets(tmp_path_factory):
    """Four photographs where coco_mini's are, and synthetic crowds of two images."""
    root = tmp_path_factory.mktemp("datasets")
    photographs = root / "coco_mini" / "val2017"
    photographs.mkdir(parents=True)
    for name in ("astronaut", "chelsea", "coffee", "rocket"):
        Image.fromarray(getattr(data, name)()).resize((160, 120)).save(photographs / f"{name}.jpg")
    write_annotated_astronaut(root / "coco_mini", 1)
    write_annotated_astronaut(root / "coco_more", 2)
    for split in SPLITS:
        write_dataset(root / "synthetic_crowd" / split, seed=SPLITS[split][0], count=2)
    return root


def write_annotated_astronaut(folder, number):
    """One photograph of a person, with her box as COCO has it."""
    file = f"{number:012d}.jpg"
    for part in ("val2017", "annotations"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    Image.fromarray(data.astronaut()).save(folder / "val2017" / file)
    annotation = {"id": number, "image_id": number, "category_id": 1, "bbox": [10, 0, 390, 512], "iscrowd": 0}
    annotation |= {"area": 390 * 512, "segmentation": [[10, 0, 400, 0, 400, 512, 10, 512]]}
    content = {
        "images": [{"id": number, "file_name": file, "height": 512, "width": 512}],
        "annotations": [annotation],
        "categories": [
            {"id": row["id"], "name": row["name"]} for row in builtin_meta.COCO_CATEGORIES if row["isthing"]
        ],
    }
    (folder / "annotations" / "instances_val2017.json").write_text(json.dumps(content))


def command(root, output, *words):
    """The words of a small benchmark, and its environment."""
    environment = {**os.environ, "DETECTRON2_DATASETS": str(root), "OMP_NUM_THREADS": "1"}
    return [sys.executable, "scripts/benchmark.py", "--quick", "--output", str(output), *words], environment


def run(root, output, *words):
    line, environment = command(root, output, *words)
    return subprocess.run(line, capture_output=True, text=True, env=environment)


@pytest.mark.slow
@pytest.mark.parametrize("device", DEVICES)
def test_everything_runs_in_small_sizes(device, datasets, tmp_path):
    done = run(datasets, tmp_path, "--device", device, "all")
    assert done.returncode == 0 and "error:" not in done.stderr, done.stderr
    benchmark = import_module("benchmark")
    names = benchmark.BENCHMARKS if device == "cpu" else benchmark.ON_DEVICE
    assert {path.stem for path in tmp_path.iterdir()} == set(names)
    tables = {name: json.loads((tmp_path / f"{name}.json").read_text())["tables"] for name in names}
    assert all(title.endswith("(quick: small sizes)") for titles in tables.values() for title in titles)
    # Fast maps are those of autograd, up to what batched maps leave out.
    exactness = next(iter(tables["paths"].values()))
    assert all(row["cosine, median"] > 0.9 for row in exactness)
    assert all(row["largest"] < 1e-4 for row in exactness if row["plan"] in ("exact", "whole", "shared"))
    (row, *_) = tables["memory"].popitem()[1]
    assert 0 < row["after loading, GB"] <= row["after explain, GB"] <= row["after save, GB"]
    if device == "cpu":
        ((row,),) = tables["resume"].values()
        assert row["lines"] == row["photographs"] == row["raw maps"] == 100 and row["lost"] == row["twice"] == 0
        assert 50 <= row["done when killed"] < 100


@pytest.mark.slow
def test_detectors_are_trained_and_tables_made_of_them(datasets, tmp_path):
    done = run(datasets, tmp_path, "--device", "cpu", "odam_train_tables")
    assert done.returncode == 0 and "error:" not in done.stderr, done.stderr
    tables = json.loads((tmp_path / "odam_train_tables.json").read_text())["tables"]
    assert len(tables) == 4 and done.stdout.count("/fcos/") == 3
    nms, maps = list(tables.values())[:2]
    assert [row["ODAM-Train"] for row in nms[:3]] == ["without", "first order", "second order"]
    assert {row["NMS"] for row in nms} == {"NMS", "Soft-NMS", "ODAM-NMS .9/.1", "ODAM-NMS .8/.2"}
    assert len(maps) == 3 and all("Deletion ↓" in row for row in maps)


@pytest.mark.slow
def test_maps_of_photographs_are_measured_once_and_told_as_the_papers_tables(datasets, tmp_path):
    done = run(datasets, tmp_path, "--device", "cpu", "photographs")
    assert done.returncode == 0 and "error:" not in done.stderr, done.stderr
    tables = json.loads((tmp_path / "photographs.json").read_text())["tables"]
    first = tables["FCOS, IoU > 0.5: Table 2 (quick: small sizes)"]
    gradients = ["odam", "gradcam", "gradcam++", "layercam", "ssgradcam++"]
    assert [row["method"] for row in first] == [*gradients, "odam, smoothed", "drise, 500 masks"]
    paired = tables["FCOS, Deletion and Insertion: Table 1, paired (quick: small sizes)"]
    assert [row["odam less"] for row in paired] == gradients[1:]
    last = tables["Faster R-CNN, the first 12 images, D-RISE with 5000 masks: Table 2 (quick: small sizes)"]
    assert [row["method"] for row in last][-2:] == ["drise, 500 masks", "drise"]
    assert any(title.startswith("RetinaNet, IoU > 0.5") for title in tables)
    # A column that nobody measured is left out.
    assert not any("not run" in row.values() for rows in tables.values() for row in rows)


@pytest.mark.slow
def test_students_are_distilled_and_tables_made_of_them(datasets, tmp_path):
    done = run(datasets, tmp_path, "--device", "cpu", "odam_kd_tables")
    assert done.returncode == 0 and "error:" not in done.stderr, done.stderr
    tables = json.loads((tmp_path / "odam_kd_tables.json").read_text())["tables"]
    assert done.stdout.count("training output/odam_kd/tables/quick/") == 6  # with what they begin with
    ablations, distillers, longer = tables.values()
    assert [row["training"][:3] for row in ablations] == ["(5)", "(6)"]
    trained = ["teacher", "student alone", "FGD", "ODAM-KD, published weights"]
    assert [row["training"] for row in distillers] == trained
    assert all(list(row)[1:] == ["AP", "AR", "APs", "APm", "APl"] for row in distillers)
    assert [row["training"] for row in longer] == ["(6) focused, background, ODAM"]


@pytest.mark.slow
def test_weights_of_distillers_are_compared_on_images_of_their_own(datasets, tmp_path):
    cells = {f"cell{i}": [("RBC", (5, 5, 30, 30), 0), ("WBC", (30, 5, 55, 35), 0)] for i in range(8)}
    cells["cell0"].append(("Platelets", (2, 30, 12, 39), 0))
    write_voc(datasets / "bccd", cells, {"train": list(cells), "val": ["cell0"]})
    done = run(datasets, tmp_path, "--device", "cpu", "odam_kd_search")
    assert done.returncode == 0 and "error:" not in done.stderr, done.stderr
    (rows,) = json.loads((tmp_path / "odam_kd_search.json").read_text())["tables"].values()
    assert [row["training"] for row in rows] == ["student alone", "fgd, weights x 1"]
    assert all(list(row)[1:] == ["AP", "AR", "APs", "APm", "APl"] for row in rows)
    assert done.stdout.count("training output/odam_kd/search/quick/") == 4  # with the teacher and the start


@pytest.mark.slow
def test_settings_of_odam_train_are_compared_on_their_own_crowds(datasets, tmp_path):
    done = run(datasets, tmp_path, "--device", "cpu", "odam_train_search")
    assert done.returncode == 0 and "error:" not in done.stderr, done.stderr
    tables = json.loads((tmp_path / "odam_train_search.json").read_text())["tables"]
    assert len(tables) == 2 and done.stdout.count("/fcos/") == 2
    for rows in tables.values():
        assert [row["setting"] for row in rows] == ["without", "weight 0.3, all"]
        assert all(len(row["ODAM-NMS .8/.2"].split(" / ")) == 4 for row in rows)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "remedy"), [("crowds", "odam make-synthetic-crowd"), ("folder", "DETECTRON2_DATASETS names the folder")]
)
def test_data_that_are_missing_are_one_sentence_with_the_remedy(name, remedy, tmp_path):
    done = run(tmp_path / "nothing", tmp_path, "--device", "cpu", name)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    (line,) = [line for line in done.stderr.splitlines() if "error" in line]
    assert line.startswith(f"error: {name} could not be run: there ") and remedy in line


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").exists(), reason="processes are looked up in /proc")
def test_a_benchmark_that_is_stopped_stops_its_training(datasets, tmp_path):
    line, environment = command(datasets, tmp_path, "--device", "cpu", "odam_kd_tables")
    with subprocess.Popen(line, stdout=subprocess.PIPE, text=True, env=environment) as process:
        while "training " not in process.stdout.readline():
            assert process.poll() is None
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        while not (training := children.read_text().split()):
            assert process.poll() is None
            time.sleep(0.01)
        process.terminate()
        assert process.wait(60) == 143
    assert not any(Path("/proc", number).exists() for number in training)
