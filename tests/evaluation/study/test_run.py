"""The evaluator of explanations from image to tables, on detectors that find their objects perfectly."""

import json
import logging
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, DatasetMapper, build_detection_test_loader
from detectron2.evaluation import inference_on_dataset, print_csv_format

from evaluation.explained import (
    DETECTED,
    THRESHOLD,
    make_predictor,
    mean,
    read_rows,
    register,
    unregister,
    write_dataset,
)
from helpers import small_cfg
from odam_d2.evaluation.metrics.specification import area_under_curve
from odam_d2.evaluation.study.run import ExplanationEvaluator
from odam_d2.evaluation.study.settings import CHEAP, METRICS, ExplanationSettings
from odam_d2.explain import ExplainSettings
from odam_d2.predictor import ODAMPredictor

NAME = "odam_explained"
RESULTS = ("objects.csv", "summary.json", "curves.json", "index.html", "tables.md")


@pytest.fixture(scope="module")
def predictor(quick_weights):
    return make_predictor("fcos", quick_weights("fcos"))


@pytest.fixture(scope="module")
def dataset(predictor, tmp_path_factory):
    path = write_dataset(tmp_path_factory.mktemp("data") / "explained", predictor)
    register(NAME, path)
    yield path
    unregister(NAME)


def settings(*methods, **options):
    return ExplanationSettings(methods, score_threshold=THRESHOLD, **options)


def evaluate(predictor, output, chosen, images=None, **options):
    evaluator = ExplanationEvaluator(predictor, NAME, output, chosen, **options)
    evaluator.process([{"image_id": name} for name in images or evaluator.image_ids])
    evaluator.evaluate()
    return evaluator.summary


def rows_without_method(path):
    return [{key: value for key, value in row.items() if key != "method"} for row in read_rows(path)]


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


def test_saved_maps_score_as_they_did(predictor, dataset, tmp_path):
    evaluate(predictor, tmp_path / "own", settings("odam"), save_maps=True)
    folder = tmp_path / "own" / "maps" / "odam"
    evaluate(predictor, tmp_path / "again", settings(map_folders=(str(folder),)))
    assert rows_without_method(tmp_path / "again" / "objects.csv") == rows_without_method(
        tmp_path / "own" / "objects.csv"
    )


def test_missing_maps_are_counted_and_leave_the_other_method_alone(predictor, dataset, tmp_path):
    folder = tmp_path / "rival"
    folder.mkdir()
    np.save(folder / "3_80.npy", np.ones((96, 96), np.float32))
    summary = evaluate(predictor, tmp_path / "out", settings("odam", map_folders=(str(folder),)))
    assert summary["counts"]["rival"]["missing"] == sum(DETECTED) - 1 and summary["counts"]["rival"]["objects"] == 1
    assert summary["counts"]["odam"]["objects"] == sum(DETECTED)
    assert "5 maps missing" in (tmp_path / "out" / "tables.md").read_text()


@pytest.mark.parametrize(
    ("heat_map", "words"),
    [
        (np.ones((95, 96)), r"3_80\.npy holds a map of size \(95, 96\); its image has size \(96, 96\)"),
        (np.full((96, 96), np.nan), "map of rival for annotation 80 of image 3 cannot be measured: .*NaN"),
        (np.full((96, 96), -1.0), "annotation 80 of image 3 cannot be measured: .*non-negative"),
        (np.full((96, 96), "a"), r"3_80\.npy holds <U1; a map holds real numbers"),
    ],
)
def test_a_map_that_cannot_be_measured_is_named(heat_map, words, predictor, dataset, tmp_path):
    (tmp_path / "rival").mkdir()
    np.save(tmp_path / "rival" / "3_80.npy", heat_map)
    with pytest.raises(ValueError, match=words):
        evaluate(predictor, tmp_path / "out", settings(map_folders=(str(tmp_path / "rival"),)), images=["3"])


def test_all_zero_and_constant_maps_are_defined_and_counted(predictor, dataset, tmp_path):
    for name, value in (("zero", 0.0), ("flat", 2.0)):
        (tmp_path / name).mkdir()
        np.save(tmp_path / name / "3_80.npy", np.full((96, 96), value))
    folders = (str(tmp_path / "zero"), str(tmp_path / "flat"))
    summary = evaluate(predictor, tmp_path / "out", settings(map_folders=folders), images=["3"])
    assert summary["zero"]["pg_box"] == summary["zero"]["enpg_box"] == summary["zero"]["vea_auc"] == 0
    assert summary["zero"]["compactness"] is None and summary["zero"]["odi_box"] is None
    undefined = {name: k for name, k in summary["counts"]["zero"]["undefined"].items() if k}
    assert undefined == {"compactness": 1, "odi_box": 1, "odi_mask": 1} and summary["counts"]["zero"]["zero_maps"] == 1
    assert summary["counts"]["flat"]["zero_maps"] == 0 and summary["flat"]["vea_auc"] == 0
    (row,) = [row for row in read_rows(tmp_path / "out" / "objects.csv") if row["method"] == "flat"]
    box = [row[side] for side in ("x1", "y1", "x2", "y2")]
    covered = (np.ceil(box[2]) - int(box[0])) * (np.ceil(box[3]) - int(box[1]))
    assert row["enpg_box"] == pytest.approx(100 * covered / 96**2, rel=0.05)


def test_deletion_and_insertion_run_the_detector_on_perturbed_images(predictor, dataset, tmp_path):
    chosen = settings("odam", "gradcam", metrics=tuple(METRICS), steps=4)
    summary = evaluate(predictor, tmp_path, chosen, images=["1"], batch=3)
    curves = json.loads((tmp_path / "curves.json").read_text())
    assert list(curves) == ["deletion_curve", "insertion_curve", "vea_curve"]
    assert curves["deletion_curve"]["x"] == [0, 25, 50, 75, 100]
    for method in ("odam", "gradcam"):
        # In % of the start score, which is that of the image as it is.
        assert curves["deletion_curve"][method][0] == pytest.approx(100)
        for kind in ("deletion", "insertion"):
            curve = curves[f"{kind}_curve"]
            area = area_under_curve(np.array(curve["x"]) / 100, np.array(curve[method]))
            assert summary[method][f"{kind}_auc"] == pytest.approx(area)
    tables = (tmp_path / "tables.md").read_text()
    assert "not run" not in tables and "- steps: 4" in tables


def test_the_authors_protocol_records_every_tenth_step(predictor, dataset, tmp_path):
    chosen = settings("odam", metrics=("deletion_auc",), steps=20, protocol="authors")
    evaluate(predictor, tmp_path, chosen, images=["3"])
    curves = json.loads((tmp_path / "curves.json").read_text())
    assert list(curves) == ["deletion_curve"] and curves["deletion_curve"]["x"] == [0, 50, 100]


class Stop(Exception):
    """Stands for Ctrl-C."""


def test_drise_stopped_within_an_image_goes_on_from_its_last_mask(predictor, dataset, tmp_path):
    chosen = settings("drise", explain=ExplainSettings(drise_masks=12))
    evaluate(predictor, tmp_path / "whole", chosen, images=["1"], batch=4)
    counts = []

    def stop_after_two_batches(what, done, total):
        counts.append((what, done, total))
        if done == 8:
            raise Stop

    with pytest.raises(Stop):
        evaluate(predictor, tmp_path / "parts", chosen, images=["1"], batch=4, progress=stop_after_two_batches)
    assert counts == [("masks of D-RISE", 4, 12), ("masks of D-RISE", 8, 12)]
    assert (tmp_path / "parts" / "drise" / "1.pth").exists()
    counts.clear()
    evaluate(predictor, tmp_path / "parts", chosen, images=["1"], batch=4, progress=lambda *event: counts.append(event))
    assert counts[0] == ("masks of D-RISE", 12, 12)
    assert not (tmp_path / "parts" / "drise" / "1.pth").exists()
    assert (tmp_path / "parts" / "objects.csv").read_text() == (tmp_path / "whole" / "objects.csv").read_text()


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
