"""Tables, curves and examples of an evaluation of explanations, from rows made by hand."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from helpers import random_photo
from odam_d2.evaluation.metrics.statistics import Interval
from odam_d2.evaluation.study.curves import draw_curves, mean_curves
from odam_d2.evaluation.study.examples import ExampleStore, extreme_objects, shrink_map
from odam_d2.evaluation.study.record import COLUMNS, Record
from odam_d2.evaluation.study.settings import CHEAP, METRICS, choose_metrics
from odam_d2.evaluation.study.sources import check_file_names, map_file
from odam_d2.evaluation.study.summary import summarize
from odam_d2.evaluation.study.tables import format_interval, make_tables, write_tables


def row(image, annotation, method="odam", **values):
    base = dict.fromkeys((*COLUMNS, "vea_curve", "deletion_curve", "insertion_curve"))
    base |= {"image_id": image, "annotation_id": annotation, "method": method, "class": "cat", "iou": 0.95}
    base |= {"x1": 1.0, "y1": 2.0, "x2": 30.0, "y2": 40.0, "score": 0.5}
    return base | {"zero_map": 0, "missing": 0, "has_mask": 1, "other_objects": 1} | values


def test_means_leave_out_what_is_undefined_or_missing_and_count_it():
    rows = [
        row("1", "1", odi_box=20.0),
        row("1", "2", odi_box=60.0),
        row("2", "3", odi_box=0.0, other_objects=0),
        row("3", "4", odi_box=None, zero_map=1),
        row("4", "5", odi_box=None, missing=1),
    ]
    summary = summarize(rows, ["odam"], ["odi_box"])
    assert summary["odam"] == {"odi_box": pytest.approx(80 / 3), "odi_box_multi": 40.0}
    assert summary["counts"] == {
        "objects": 5,
        "multi_object": 4,
        "with_mask": 5,
        "odam": {"objects": 4, "missing": 1, "zero_maps": 1, "undefined": {"odi_box": 1}},
    }
    tables = write_tables(make_tables(rows, summary, ["odam"], ["odi_box"]), {"dataset": "made"})
    line = next(one for one in tables.splitlines() if one.startswith("| odam") and "26.7" in one)
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[0] == "odam" and cells[1].startswith("26.7 [") and cells[3].startswith("40.0 [")
    assert cells[2] == cells[4] == "not run"
    assert "Each method: 4 objects, 1 undefined in odi_box, 1 maps missing, 1 all-zero maps." in tables
    assert "4 of 5 objects share their image with others" in tables and "- dataset: made" in tables


def test_what_is_true_of_several_methods_is_said_once():
    rows = [row("1", "1", method, odi_box=20.0 if method != "c" else None) for method in "abc"]
    tables = make_tables(rows, summarize(rows, "abc", ["odi_box"]), "abc", ["odi_box"])
    # Medians beside the two means that one detection can decide; means over several objects beside both ODIs.
    sizes = [("Table 1", 6), ("Table 2", 6), ("Table 3", 5), ("Table 3, paired", 5)]
    assert [(table.title, len(table.headings)) for table in tables] == sizes
    assert tables[2].note.startswith("a, b: 1 objects, 0 undefined. c: 1 objects, 1 undefined in odi_box.")
    assert [line[0] for line in tables[2].rows] == ["a", "b", "c"]


def test_methods_are_compared_object_by_object():
    values = {"odam": (90.0, 50.0, None, 10.0), "gradcam": (80.0, 40.0, 30.0, 0.0), "layercam": (91.0, None, 3.0, 9.0)}
    rows = [
        row("1", str(number), method, deletion_auc=value, missing=int(method == "layercam" and number == 3))
        for method, own in values.items()
        for number, value in enumerate(own)
    ]
    methods, metrics = list(values), ["deletion_auc"]
    whole, paired, *_ = make_tables(rows, summarize(rows, methods, metrics), methods, metrics)
    assert whole.headings[1:3] == ["Deletion ↓", "Deletion ↓, median"]
    # Means of odam's 90, 50, 10 are far apart; its differences from gradcam are 10 on each of the three objects.
    assert whole.rows[0][1].startswith("50.0 [") and [line[2] for line in whole.rows] == ["50.0", "35.0", "47.0"]
    assert paired.title == "Table 1, paired" and paired.headings[:2] == ["odam less", "Deletion ↓"]
    assert paired.rows[0][:2] == ["gradcam", "10.0 [10.0, 10.0]"]
    # One object is left of which both have a map and a number.
    assert paired.rows[1][:2] == ["layercam", "-1.0 [-1.0, -1.0]"] and paired.rows[1][2:] == ["not run", "not run"]
    text = write_tables([whole, paired], {})
    assert "**Table 1, paired.** odam less each other method, on the same objects." in text


def test_an_interval_is_written_with_its_metrics_digits():
    assert format_interval(Interval(0.1634, 0.1, 0.2, 9, 0), 3) == "0.163 [0.100, 0.200]"
    assert format_interval(Interval(np.nan, np.nan, np.nan, 0, 4), 1) == "–"


def test_metrics_by_name_group_and_in_order():
    assert choose_metrics(["odi_box", "pg_box", "pg_box"]) == ("pg_box", "odi_box")
    assert choose_metrics(["cheap"]) == CHEAP and choose_metrics(["all"]) == tuple(METRICS)
    assert choose_metrics(["deletion_auc", "cheap"]) == (*CHEAP, "deletion_auc")
    with pytest.raises(ValueError, match="no metric was named"):
        choose_metrics([])


def test_a_mean_curve_is_over_the_objects_that_have_one(tmp_path):
    rows = [
        row("1", "1", deletion_curve=[100.0, 50.0, 0.0]),
        row("1", "2", deletion_curve=[100.0, 100.0, 50.0]),
        row("2", "3", deletion_curve=None),
        row("1", "1", "gradcam", deletion_curve=[100.0, 90.0, 80.0]),
    ]
    curves = mean_curves(rows, ["odam", "gradcam"])
    expected = {"x": [0, 50, 100], "odam": [100, 75, 25], "gradcam": [100, 90, 80]}
    assert curves == {"deletion_curve": expected}
    draw_curves(tmp_path / "curves.png", curves)
    assert (tmp_path / "curves.png").read_bytes()[:4] == b"\x89PNG"


def test_best_and_worst_are_named_and_no_object_is_both():
    values = [("1", "1", 10.0), ("1", "2", 90.0), ("2", "3", 50.0), ("2", "4", 50.0), ("3", "5", 70.0)]
    entries = [{"image_id": i, "rows": [row(i, a, enpg_box=v)]} for i, a, v in values]
    reasons = extreme_objects(entries, ["odam"], each=2)
    assert reasons == {
        ("1", "2"): ["best of odam"],
        ("3", "5"): ["best of odam"],
        ("1", "1"): ["worst of odam"],
        ("2", "3"): ["worst of odam"],
    }
    assert extreme_objects(entries[:1], ["odam"], each=2) == {("1", "1"): ["best of odam"]}
    assert extreme_objects([{"image_id": "9", "rows": [row("9", "9")]}], ["odam"]) == {}


def test_the_final_examples_were_kept_in_whatever_order_images_come(tmp_path):
    generator = np.random.default_rng(0)
    entries = [
        {"image_id": str(i), "size": [20, 30], "rows": [row(str(i), "0", enpg_box=float(generator.integers(20)))]}
        for i in range(40)
    ]
    store = ExampleStore(tmp_path / "examples", ["odam"])
    for entry in [entries[i] for i in generator.permutation(40)]:
        store.offer(entry, random_photo(20, 30), np.zeros((1, 1, 20, 30), np.uint8))
    kept = {path.stem for path in (tmp_path / "examples").iterdir()}
    wanted = {image for image, _ in extreme_objects(entries, ["odam"])}
    assert wanted <= kept < {str(i) for i in range(40)}
    store.drop_but(wanted)
    assert {path.stem for path in (tmp_path / "examples").iterdir()} == wanted and len(wanted) == 6


def test_a_kept_image_comes_back_as_it_was_offered(tmp_path):
    entry = {"image_id": "1", "size": [20, 30], "rows": [row("1", str(i), enpg_box=float(i)) for i in range(8)]}
    store = ExampleStore(tmp_path / "examples", ["odam"])
    maps = np.random.default_rng(0).integers(0, 256, (1, 8, 20, 30), dtype=np.uint8)
    photo = np.full((20, 30, 3), (200, 100, 50), np.uint8)
    assert store.load(entry) is None
    store.offer(entry, photo, maps)
    encoded, kept = store.load(entry)
    assert np.array_equal(kept, maps)
    # Offered as BGR.
    assert np.abs(np.asarray(Image.open(io.BytesIO(encoded))).astype(int) - (50, 100, 200)).max() <= 3


def test_a_small_map_keeps_place_and_maximum():
    heat_map = np.zeros((400, 600), np.float32)
    heat_map[200:204, 300:303] = 5
    small = shrink_map(heat_map, (400, 600))
    assert small.shape == (133, 200) and small.max() == 255
    row_, column = np.unravel_index(small.argmax(), small.shape)
    assert abs(row_ - 67) <= 1 and column == 100
    # A background that is not 0, as D-RISE's, is none on the page.
    assert np.array_equal(shrink_map(heat_map + 3, (400, 600)), small)
    assert not shrink_map(None, (400, 600)).any() and not shrink_map(0 * heat_map, (400, 600)).any()


def test_the_record_reads_what_it_wrote_and_cuts_half_a_line(tmp_path):
    record = Record(tmp_path, {"a": 1})
    record.add({"image_id": "1", "objects": 2, "rows": [row("1", "1", pg_box=100.0, compactness=float("nan"))]})
    with open(tmp_path / "parts" / "0.jsonl", "a") as file:
        file.write('{"image_id": "2"')
    again = Record(tmp_path, {"a": 1})
    assert again.entries == record.entries and again.entries["1"]["rows"][0]["compactness"] is None
    again.add({"image_id": "3", "objects": 0, "rows": []})
    assert list(Record(tmp_path, {"a": 1}, process=1).entries) == ["1", "3"]
    header, line = (tmp_path / "objects.csv").read_text().splitlines()
    assert header == ",".join(COLUMNS) and line.startswith("1,1,cat,odam,1.0,2.0,30.0,40.0,0.5,0.95,100.0,")
    with pytest.raises(ValueError, match="holds results with a 1, not 2"):
        Record(tmp_path, {"a": 2})
    Record(tmp_path / "nested", {"config": {"MODEL": {"DEPTH": 50, "NORM": "BN"}}})
    with pytest.raises(ValueError, match="holds results with config.MODEL.DEPTH 50, not 18; choose"):
        Record(tmp_path / "nested", {"config": {"MODEL": {"DEPTH": 18, "NORM": "BN"}}})
    (tmp_path / "settings.json").write_text("no settings")
    with pytest.raises(ValueError, match=r"settings\.json is not what an evaluation wrote"):
        Record(tmp_path, {"a": 1})


def test_ids_that_are_paths_make_file_names():
    assert map_file("train/1,a", "7") == "train_1,a_7.npy"


def test_ids_that_would_share_a_file_are_named():
    check_file_names({"train/1": ["7", "8"], "val/1": ["7", "8"], "2": []})
    with pytest.raises(ValueError, match="images train/1 and train_1 would share the file name train_1"):
        check_file_names({"train/1": [], "train_1": []})
    with pytest.raises(ValueError, match="images 1, annotation 2_3 and 1_2, annotation 3 would .* 1_2_3.npy"):
        check_file_names({"1": ["2_3"], "1_2": ["3"]})


def test_an_undefined_number_is_null_in_every_json_file(tmp_path):
    record = Record(tmp_path, {"a": 1})
    record.add({"image_id": "1", "objects": 1, "rows": [row("1", "1", deletion_auc=float("nan"))]})
    json.loads((tmp_path / "parts" / "0.jsonl").read_text(), parse_constant=lambda name: pytest.fail(name))
