"""What is measured on: datasets without masks or of other classes, fewer objects, other detectors, processes."""

import json
import os
import subprocess
import sys

import pytest
import torch

from evaluation.explained import (
    DETECTED,
    make_predictor,
    read_rows,
    register,
    unregister,
    write_dataset,
)
from evaluation.study.runs import NAME, evaluate, settings
from odam_d2.evaluation.study.run import ExplanationEvaluator
from odam_d2.evaluation.study.settings import METRICS, ExplanationSettings
from odam_d2.explain import ExplainSettings


def test_without_masks_their_metrics_are_not_available(predictor, dataset, tmp_path):
    content = json.loads(dataset.read_text())
    for one in content["annotations"]:
        del one["segmentation"]
    path = dataset.parent / "boxes.json"
    path.write_text(json.dumps(content))
    register("odam_boxes", path)
    try:
        evaluator = ExplanationEvaluator(predictor, "odam_boxes", tmp_path, settings("odam"))
        evaluator.process([{"image_id": name} for name in evaluator.image_ids])
        evaluator.evaluate()
        summary = evaluator.summary
    finally:
        unregister("odam_boxes")
    masked = [name for name, metric in METRICS.items() if metric.needs_mask]
    assert all(summary["odam"][name] is None for name in masked) and summary["counts"]["with_mask"] == 0
    assert summary["odam"]["enpg_box"] is not None
    assert (tmp_path / "tables.md").read_text().count("not available") == 5
    assert not (tmp_path / "curves.png").exists()


def test_a_dataset_of_other_classes_is_refused_and_one_of_the_first_classes_is_measured(predictor, dataset, tmp_path):
    content = json.loads(dataset.read_text())
    names = [category["name"] for category in content["categories"]]
    for count, rename in ((2, lambda name: f"my {name}"), (90, lambda name: name)):
        own = [{"id": i, "name": rename(name)} for i, name in enumerate([*names, *names][:count])]
        (dataset.parent / "other.json").write_text(json.dumps(content | {"categories": own, "annotations": []}))
        register("odam_other", dataset.parent / "other.json")
        try:
            with pytest.raises(ValueError, match=f"odam_other names {count} classes and the detector has 80"):
                ExplanationEvaluator(predictor, "odam_other", tmp_path / str(count), settings("odam"))
        finally:
            unregister("odam_other")
    first = content | {"categories": [{"id": 1, "name": names[0]}], "annotations": []}
    (dataset.parent / "first.json").write_text(json.dumps(first))
    register("odam_first", dataset.parent / "first.json")
    try:
        evaluator = ExplanationEvaluator(predictor, "odam_first", tmp_path / "first", settings("odam"))
        assert evaluator.image_ids == ["1", "2", "3"]
    finally:
        unregister("odam_first")


def test_no_well_detected_object_is_said_and_the_files_are_there(predictor, dataset, tmp_path):
    summary = evaluate(predictor, tmp_path, ExplanationSettings(("odam",), score_threshold=0.99))
    assert summary["counts"]["objects"] == 0 and summary["odam"]["pg_box"] is None
    assert "nothing was measured" in (tmp_path / "tables.md").read_text()
    assert (tmp_path / "objects.csv").read_text().count("\n") == 1 and (tmp_path / "index.html").exists()


def test_fewer_objects_are_an_even_choice(predictor, dataset, tmp_path):
    evaluate(predictor, tmp_path / "all", settings("odam"))
    evaluate(predictor, tmp_path / "two", settings("odam", max_objects=2))
    every = read_rows(tmp_path / "all" / "objects.csv")
    # Of objects 0 to 5 the middles of the halves.
    assert read_rows(tmp_path / "two" / "objects.csv") == [every[1], every[4]]


def test_the_first_images_alone(predictor, dataset, tmp_path):
    evaluator = ExplanationEvaluator(predictor, NAME, tmp_path, settings("odam", max_images=2))
    assert evaluator.image_ids == ["1", "2"]
    with pytest.raises(ValueError, match="image 3 is none of the 2 images"):
        evaluator.process([{"image_id": 3}])


@pytest.mark.parametrize("kind", ["retinanet", "faster_rcnn"])
def test_other_detectors(kind, quick_weights, tmp_path):
    other = make_predictor(kind, quick_weights(kind))
    register("odam_other", write_dataset(tmp_path / "data", other))
    try:
        chosen = settings("odam", "drise", metrics=tuple(METRICS), steps=2, explain=ExplainSettings(drise_masks=4))
        evaluator = ExplanationEvaluator(other, "odam_other", tmp_path / "out", chosen)
        evaluator.process([{"image_id": 3}])
        evaluator.evaluate()
        summary = evaluator.summary
    finally:
        unregister("odam_other")
    assert summary["counts"]["objects"] == DETECTED[2]
    for method in ("odam", "drise"):
        assert all(0 <= summary[method][name] <= 100 for name in ("pg_box", "enpg_mask", "odi_box"))
        assert summary[method]["deletion_auc"] >= 0


def test_an_image_of_another_size_than_annotated_is_named(predictor, dataset, tmp_path):
    content = json.loads(dataset.read_text())
    content["images"][0]["height"] = 76
    path = dataset.parent / "wrong.json"
    path.write_text(json.dumps(content))
    register("odam_wrong", path)
    try:
        evaluator = ExplanationEvaluator(predictor, "odam_wrong", tmp_path, settings("odam"))
        with pytest.raises(ValueError, match=r"1\.png has size \(75, 133\); the dataset says \(76, 133\)"):
            evaluator.process([{"image_id": 1}])
    finally:
        unregister("odam_wrong")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"methods": ("lime",)}, "unknown method 'lime'; valid methods are odam, .*drise"),
        ({"methods": ()}, "no method"),
        ({"methods": ("odam", "odam")}, "a name of its own.*'odam'"),
        ({"map_folders": ("maps/counts",)}, "'counts'"),
        ({"metrics": ("pg",)}, "unknown metric 'pg'; valid metrics are pg_box, "),
        ({"target": "size"}, "'size'"),
        ({"iou_threshold": 1.0}, r"iou_threshold is 1\.0"),
        ({"protocol": "ours"}, "unknown protocol 'ours'; valid protocols are paper, authors"),
        ({"protocol": "authors", "steps": 15}, "steps is 15; it must be a positive multiple of 10"),
        ({"max_objects": 0}, "max_objects is 0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        ExplanationSettings(**{"methods": ("odam",), **options})


WORKER = """
import sys
from pathlib import Path
import torch
from detectron2.data.samplers import InferenceSampler
from detectron2.engine import launch
sys.path.insert(0, "tests")
from evaluation.explained import make_predictor, register
from odam_d2.evaluation.study.run import ExplanationEvaluator
from odam_d2.evaluation.study.settings import ExplanationSettings


def main(weights, path, output):
    torch.set_num_threads(1)
    register("odam_explained", Path(path))
    chosen = ExplanationSettings(("odam", "gradcam"), score_threshold=0.0, max_objects=4)
    evaluator = ExplanationEvaluator(make_predictor("fcos", weights), "odam_explained", output, chosen)
    names = evaluator.image_ids
    evaluator.process([{"image_id": names[place]} for place in InferenceSampler(len(names))])
    evaluator.evaluate()


if __name__ == "__main__":
    launch(main, int(sys.argv[4]), dist_url="auto", args=tuple(sys.argv[1:4]))
"""


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.device_count() == 1, reason="Detectron2 launches one process for each GPU")
def test_two_processes_write_what_one_writes(dataset, quick_weights, tmp_path):
    (tmp_path / "worker.py").write_text(WORKER)
    for count in ("1", "2"):
        words = [sys.executable, tmp_path / "worker.py", quick_weights("fcos"), dataset, tmp_path / count, count]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([os.getcwd(), *sys.path])}
        done = subprocess.run(
            list(map(str, words)), capture_output=True, text=True, timeout=600, env=environment, cwd=os.getcwd()
        )
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "2" / "parts" / "1.jsonl").stat().st_size > 0
    for name in ("objects.csv", "summary.json", "curves.json", "index.html"):
        assert (tmp_path / "1" / name).read_text() == (tmp_path / "2" / name).read_text(), name
