"""The evaluator of explanations from image to tables, on detectors that find their objects perfectly."""

import json
import logging

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, DatasetMapper, build_detection_test_loader
from detectron2.evaluation import inference_on_dataset, print_csv_format

from evaluation.explained import (
    DETECTED,
    mean,
    read_rows,
)
from evaluation.study.runs import NAME, evaluate, settings
from helpers import small_cfg
from odam_d2.evaluation.study.run import ExplanationEvaluator
from odam_d2.evaluation.study.settings import CHEAP, METRICS
from odam_d2.explain import ExplainSettings
from odam_d2.predictor import ODAMPredictor

RESULTS = ("objects.csv", "summary.json", "curves.json", "index.html", "tables.md")


def test_all_methods_explain_the_same_objects_and_every_result_is_written(predictor, dataset, tmp_path):
    summary = evaluate(predictor, tmp_path, settings("odam", "gradcam", "gradcam++"), save_maps=True)
    rows = read_rows(tmp_path / "objects.csv")
    by_method = {method: [r for r in rows if r["method"] == method] for method in ("odam", "gradcam", "gradcam++")}
    (ids,) = {tuple((r["image_id"], r["annotation_id"], r["x1"]) for r in own) for own in by_method.values()}
    assert [sum(image == str(n) for image, *_ in ids) for n in (1, 2, 3)] == DETECTED
    assert all(row["iou"] > 0.99 and row["has_mask"] == 1 for row in rows)
    # Others are the other detections and the lamp; the crowd is none.
    assert {(row["image_id"], row["other_objects"]) for row in rows} == {("1", 3), ("2", 2), ("3", 1)}
    for method, own in by_method.items():
        for metric in CHEAP:
            assert summary[method][metric] == pytest.approx(mean(row[metric] for row in own)), metric
    assert summary["counts"]["objects"] == sum(DETECTED) and summary["counts"]["annotated"] == sum(DETECTED) + 3
    assert json.loads((tmp_path / "summary.json").read_text()) == summary
    tables = (tmp_path / "tables.md").read_text()
    assert tables.count("| odam |") == 3 and "6 objects" in tables and "not run" in tables
    assert (tmp_path / "curves.png").stat().st_size > 1000 and '"why": "best"' in (tmp_path / "index.html").read_text()
    assert len(list((tmp_path / "maps" / "gradcam++").glob("*.npy"))) == sum(DETECTED)


def test_energy_and_pointing_are_those_of_the_map_that_is_saved(predictor, dataset, tmp_path):
    evaluate(predictor, tmp_path, settings("odam"), save_maps=True)
    truth = {a["id"]: a["bbox"] for a in json.loads(dataset.read_text())["annotations"]}
    for row in read_rows(tmp_path / "objects.csv"):
        heat_map = np.load(tmp_path / "maps" / "odam" / f"{row['image_id']}_{row['annotation_id']}.npy").astype(float)
        x, y, width, height = truth[int(row["annotation_id"])]
        inside = heat_map[int(y) : int(np.ceil(y + height)), int(x) : int(np.ceil(x + width))]
        assert row["enpg_box"] == pytest.approx(100 * inside.sum() / heat_map.sum(), abs=1e-6)
        # The mask of a box is its left half, to a pixel.
        assert row["enpg_mask"] < row["enpg_box"]
        expected = predictor.explain(read_image(dataset, row), instances=None).heat_maps["class_score"].to_image()
        assert min(abs(expected.numpy() - heat_map).reshape(len(expected), -1).max(axis=1)) < 1e-6


def read_image(dataset, row):
    import cv2

    return cv2.imread(str(dataset.parent / f"{row['image_id']}.png"))


def test_an_interrupted_run_goes_on_and_ends_with_the_same_files(predictor, dataset, tmp_path):
    chosen = settings("odam", "gradcam")
    evaluate(predictor, tmp_path / "whole", chosen)
    first = ExplanationEvaluator(predictor, NAME, tmp_path / "parts", chosen)
    first.process([{"image_id": 2}])
    done = (tmp_path / "parts" / "objects.csv").read_text()
    assert done.count("\n") == 1 + 2 * DETECTED[1]
    # What a process leaves that is killed while it writes.
    with open(tmp_path / "parts" / "parts" / "0.jsonl", "a") as file:
        file.write('{"image_id": "3", "rows": [')
    with open(tmp_path / "parts" / "objects.csv", "a") as file:
        file.write("3,6")
    second = ExplanationEvaluator(predictor, NAME, tmp_path / "parts", chosen)
    assert (tmp_path / "parts" / "objects.csv").read_text() == done
    second._explain = forbid(second._explain, "2")
    second.process([{"image_id": name} for name in second.image_ids])
    second.evaluate()
    for name in RESULTS:
        assert (tmp_path / "parts" / name).read_text() == (tmp_path / "whole" / name).read_text(), name


def forbid(explain, image_id):
    def checked(objects, output):
        assert objects.image_id != image_id
        explain(objects, output)

    return checked


def test_a_folder_with_other_settings_is_refused(predictor, dataset, tmp_path):
    evaluate(predictor, tmp_path, settings("odam"), images=["1"])
    with pytest.raises(ValueError, match=r"holds results with iou_threshold 0\.9, not 0\.5; choose another"):
        ExplanationEvaluator(predictor, NAME, tmp_path, settings("odam", iou_threshold=0.5))
    # How much runs at a time changes nothing.
    ExplanationEvaluator(predictor, NAME, tmp_path, settings("odam"), batch=2)


def test_detectron2_runs_it_and_prints_the_means(predictor, dataset, tmp_path, caplog):
    dicts = DatasetCatalog.get(NAME)
    loader = build_detection_test_loader(dicts, mapper=DatasetMapper(predictor.cfg, is_train=False), num_workers=0)
    evaluator = ExplanationEvaluator(predictor, NAME, tmp_path, settings("odam"))
    results = inference_on_dataset(predictor.model, loader, evaluator)
    assert list(results) == ["odam"] and evaluator.summary["counts"]["objects"] == sum(DETECTED)
    with caplog.at_level(logging.INFO):
        print_csv_format(results)
    assert "pg_box" in caplog.text


def test_with_detectron2_every_image_is_detected_once_and_nothing_else_differs(predictor, dataset, tmp_path):
    chosen = settings("odam", "gradcam++")
    evaluate(predictor, tmp_path / "by id", chosen)
    dicts = DatasetCatalog.get(NAME)
    loader = build_detection_test_loader(dicts, mapper=DatasetMapper(predictor.cfg, is_train=False), num_workers=0)
    evaluator = ExplanationEvaluator(predictor, NAME, tmp_path / "by detectron2", chosen)
    calls = []
    hook = predictor.model.backbone.register_forward_hook(lambda module, given, out: calls.append(len(given[0])))
    try:
        inference_on_dataset(evaluator.model, loader, evaluator)
    finally:
        hook.remove()
    assert calls == [1, 1, 1]
    for name in RESULTS:
        assert (tmp_path / "by id" / name).read_text() == (tmp_path / "by detectron2" / name).read_text(), name


def files(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_reset_forgets_also_on_disk(predictor, dataset, tmp_path):
    chosen = settings("odam", "drise", metrics=tuple(METRICS), steps=1, explain=ExplainSettings(drise_masks=4))
    evaluator = ExplanationEvaluator(predictor, NAME, tmp_path, chosen, save_maps=True)
    begun = files(tmp_path)
    evaluator.process([{"image_id": 1}, {"image_id": 3}])
    evaluator.evaluate()
    # What a run of two processes, and D-RISE that was stopped within an image, leave.
    (tmp_path / "parts" / "1.jsonl").write_text((tmp_path / "parts" / "0.jsonl").read_text())
    (tmp_path / "drise").mkdir()
    (tmp_path / "drise" / "2.pth").write_bytes(b"unfinished")
    assert files(tmp_path) > begun | set(RESULTS) | {"curves.png", "examples/1.npz", "parts/1.jsonl", "drise/2.pth"}
    evaluator.reset()
    assert evaluator.summary == {} and {name for name in files(tmp_path) if not name.startswith("maps/")} == begun
    assert (tmp_path / "objects.csv").read_text().count("\n") == 1
    # Neither this evaluator nor a later one knows anything of it.
    evaluator.process([{"image_id": 3}])
    evaluator.evaluate()
    assert evaluator.summary["counts"]["images"] == 1
    again = ExplanationEvaluator(predictor, NAME, tmp_path, chosen)
    assert list(again._record.entries) == ["3"]


def test_a_run_after_reset_ends_with_the_files_of_a_fresh_one(predictor, dataset, tmp_path):
    chosen = settings("odam", "gradcam")
    evaluate(predictor, tmp_path / "fresh", chosen)
    evaluator = ExplanationEvaluator(predictor, NAME, tmp_path / "again", chosen)
    for _ in range(2):
        evaluator.reset()
        evaluator.process([{"image_id": name} for name in evaluator.image_ids])
        evaluator.evaluate()
    for name in RESULTS:
        assert (tmp_path / "fresh" / name).read_text() == (tmp_path / "again" / name).read_text(), name


# ---- how maps are made -------------------------------------------------------------------------------------------


def saved_maps(folder, method="odam"):
    return {path.stem: np.load(path) for path in sorted((folder / "maps" / method).glob("*.npy"))}


def configured(quick_weights, *opts):
    return ODAMPredictor(small_cfg("fcos", ["MODEL.WEIGHTS", quick_weights("fcos"), *opts]))


@pytest.mark.parametrize(("key", "value"), [("SMOOTHING", "gaussian"), ("LAYER", "res4")])
def test_the_config_governs_the_maps_that_are_measured(key, value, predictor, dataset, quick_weights, tmp_path):
    evaluate(predictor, tmp_path / "usual", settings("odam"), save_maps=True)
    own = configured(quick_weights, f"ODAM.EXPLAIN.{key}", value)
    evaluate(own, tmp_path / "own", settings("odam"), save_maps=True)
    usual, maps = saved_maps(tmp_path / "usual"), saved_maps(tmp_path / "own")
    assert list(maps) == list(usual) and len(maps) == sum(DETECTED)
    for row in read_rows(tmp_path / "own" / "objects.csv"):
        name = f"{row['image_id']}_{row['annotation_id']}"
        assert not np.allclose(maps[name], usual[name])
        # The same detection explained by the predictor, told by its box.
        asked = predictor.explain(read_image(dataset, row), **{key.lower(): value})
        box = torch.tensor([row[side] for side in ("x1", "y1", "x2", "y2")])
        (place,) = (asked.instances.pred_boxes.tensor - box).abs().amax(dim=1).lt(1e-3).nonzero()[:, 0].tolist()
        np.testing.assert_allclose(maps[name], asked.heat_maps["class_score"].to_image()[place].numpy(), atol=1e-6)
    recorded = json.loads((tmp_path / "own" / "settings.json").read_text())
    assert recorded["explain"][key.lower()] == recorded["config"]["ODAM"]["EXPLAIN"][key] == value
    assert f"{key.lower()}: {value}" in (tmp_path / "own" / "tables.md").read_text()


def test_the_path_of_the_config_governs_the_maps_that_are_measured(dataset, quick_weights, tmp_path):
    own = configured(quick_weights, "ODAM.EXPLAIN.PATH", "batched", "ODAM.EXPLAIN.LAYER", "res4")
    with pytest.raises(ValueError, match="path='batched' explains this detector at 'fpn', not at 'res4'"):
        evaluate(own, tmp_path, settings("odam"))


def test_settings_come_before_the_config_and_methods_are_the_settings_own(predictor, dataset, quick_weights, tmp_path):
    own = configured(quick_weights, "ODAM.EXPLAIN.SMOOTHING", "gaussian", "ODAM.EXPLAIN.METHOD", "gradcam")
    evaluate(own, tmp_path / "own", settings("odam", explain=ExplainSettings()), save_maps=True)
    evaluate(predictor, tmp_path / "usual", settings("odam"), save_maps=True)
    for name, heat_map in saved_maps(tmp_path / "usual").items():
        assert np.array_equal(saved_maps(tmp_path / "own")[name], heat_map)


def test_a_predictor_without_a_config_begins_anew_and_says_whose_numbers_these_are(predictor, dataset, tmp_path):
    cfg = predictor.cfg
    size = {"min_size": cfg.INPUT.MIN_SIZE_TEST, "max_size": cfg.INPUT.MAX_SIZE_TEST}
    own = ODAMPredictor.from_model(predictor.model, predictor.class_names, input_format=cfg.INPUT.FORMAT, **size)
    expected = evaluate(predictor, tmp_path / "with", settings("odam"))
    assert evaluate(own, tmp_path / "without", settings("odam")) == expected
    assert "weights: in memory" in (tmp_path / "without" / "tables.md").read_text()
    # Its weights may be others by now, and nobody could tell.
    again = ExplanationEvaluator(own, NAME, tmp_path / "without", settings("odam"))
    assert not (tmp_path / "without" / "summary.json").exists()
    for image_id in again.image_ids:
        again.process([{"image_id": image_id}])
    again.evaluate()
    assert again.summary == expected


def test_images_that_were_not_processed_are_warned_of(predictor, dataset, tmp_path, caplog):
    assert evaluate(predictor, tmp_path, settings("odam"), images=["3"])["counts"]["images"] == 1
    assert "2 of 3 images were not processed" in caplog.text
