"""Maps that are measured: saved ones, missing ones, zero ones; and those for which the detector runs again."""

import json

import numpy as np
import pytest

from evaluation.explained import DETECTED, make_predictor, read_rows, register, unregister, write_dataset
from evaluation.study.runs import evaluate, settings
from odam_d2.evaluation.metrics.specification import area_under_curve
from odam_d2.evaluation.study.run import ExplanationEvaluator
from odam_d2.evaluation.study.settings import METRICS
from odam_d2.explain import ExplainSettings


def rows_without_method(path):
    return [{key: value for key, value in row.items() if key != "method"} for row in read_rows(path)]


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


def test_mixed_precision_is_for_changed_images_alone_and_the_page_says_so(predictor, dataset, tmp_path):
    for amp in (False, True):
        options = {"metrics": ("insertion_auc",), "steps": 4, "explain": ExplainSettings(amp=amp)}
        evaluate(predictor, tmp_path / str(amp), settings("odam", **options), images=["3"])
    whole, halved = (read_rows(tmp_path / str(amp) / "objects.csv") for amp in (False, True))
    assert [row["enpg_box"] for row in halved] == [row["enpg_box"] for row in whole]
    areas, near = ([float(row["insertion_auc"]) for row in rows] for rows in (whole, halved))
    assert near == pytest.approx(areas, rel=0.1) and near != areas
    assert "- amp: True" in (tmp_path / "True" / "tables.md").read_text()
    assert "- amp" not in (tmp_path / "False" / "tables.md").read_text()


def test_bbam_is_measured_beside_others_and_refused_where_there_are_no_regions(quick_weights, tmp_path):
    weights = quick_weights("faster_rcnn")
    predictor = make_predictor("faster_rcnn", weights)
    register("odam_two_stages", write_dataset(tmp_path / "data", predictor))
    counts, explain = [], ExplainSettings(bbam_steps=2)
    options = {"explain": explain, "max_images": 1, "target": "combined"}
    try:
        evaluator = ExplanationEvaluator(
            predictor,
            "odam_two_stages",
            tmp_path / "out",
            settings("odam", "bbam", **options),
            progress=lambda *event: counts.append(event),
        )
        evaluator.process([{"image_id": "1"}])
        evaluator.evaluate()
        assert evaluator.summary["bbam"]["enpg_box"] > 0
        assert evaluator.summary["counts"]["objects"] == DETECTED[0]
        steps = [event for event in counts if event[0] == "steps of BBAM"]
        assert steps == [("steps of BBAM", done, 2 * DETECTED[0]) for done in range(1, 2 * DETECTED[0] + 1)]
        assert "- bbam_steps: 2" in (tmp_path / "out" / "tables.md").read_text()
        with pytest.raises(ValueError, match="bbam has no target 'class_logit'"):
            ExplanationEvaluator(
                predictor, "odam_two_stages", tmp_path / "other", settings("bbam", target="class_logit")
            )
        dense = make_predictor("fcos", quick_weights("fcos"))
        with pytest.raises(ValueError, match="ODAMFCOS pools none"):
            ExplanationEvaluator(dense, "odam_two_stages", tmp_path / "other", settings("bbam"))
    finally:
        unregister("odam_two_stages")


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
