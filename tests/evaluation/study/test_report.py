"""The page of an evaluation: what stands on it, and that a browser sorts, filters and opens what it says."""

import base64
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from browser import visit
from helpers import random_photo
from odam_d2.evaluation.study.examples import ExampleStore
from odam_d2.evaluation.study.report import _heat_picture
from odam_d2.evaluation.study.results import write_results
from odam_d2.evaluation.study.settings import ExplanationSettings
from odam_d2.explain import ExplainSettings
from odam_d2.show.overlays import overlay

METHODS = ("odam", "gradcam")
METRICS = ("enpg_box", "compactness")
NASTY = "</script><!--<b>&\u2028 猫.jpg"


def row(image, annotation, method, **values):
    base = {"image_id": image, "annotation_id": annotation, "method": method, "class": "cat", "score": 0.5, "iou": 0.9}
    base |= {"x1": 3.0, "y1": 2.0, "x2": 15.0, "y2": 12.0, "zero_map": 0, "missing": 0, "has_mask": 0}
    base |= dict.fromkeys(("pg_box", "pg_mask", "enpg_mask", "odi_box", "odi_mask", "vea_auc")) | {"compactness": 1.0}
    return base | dict.fromkeys(("deletion_auc", "insertion_auc")) | {"other_objects": 0} | values


def write(folder, count, values=None, files=None):
    """``count`` images of one object each, numbered from 0: odam's energy in its box is its number, unless told."""
    settings = ExplanationSettings(methods=METHODS, metrics=METRICS, explain=ExplainSettings())
    store, entries = ExampleStore(folder / "examples", settings.names), {}
    for i in range(count):
        energy = float(i) if values is None else values[i]
        rows = [
            row(str(i), f"a{i}", "odam", enpg_box=energy, missing=int(energy is None), **{"class": f"class{i % 3}"}),
            row(str(i), f"a{i}", "gradcam", enpg_box=100.0 - i, **{"class": f"class{i % 3}"}),
        ]
        entry = entries[str(i)] = {"image_id": str(i), "size": [20, 30], "objects": 2, "rows": rows}
        maps = np.zeros((2, 1, 20, 30), np.uint8)
        maps[0, 0, 4:8, 6:12] = 255
        store.offer(entry, random_photo(20, 30), maps)
    files = files or {image: folder / f"{image} #1.jpg" for image in entries}
    summary = write_results(folder, entries, files, settings, {"dataset": "made"}, store)
    return summary, folder / "index.html"


def data(page, identifier="report"):
    found = re.findall(r'<script type="application/json" id="([^"]+)">(.*?)</script>', page.read_text(), re.DOTALL)
    return json.loads(dict(found)[identifier])


def test_the_page_says_what_was_measured(tmp_path):
    summary, page = write(tmp_path, 9, values=[None, *map(float, range(1, 9))])
    report = data(page)
    assert summary["odam"]["enpg_box"] == 4.5
    assert report["lead"][0] == "9 objects were measured, in 9 of 9 images, of 18 that are annotated there."
    assert "a score > 0.1 and an IoU with its box > 0.9" in report["lead"][1]
    localisation = report["tables"][1]
    assert localisation["headings"][3] == "enPG (box) ↑" and localisation["rows"][0][3].startswith("4.5 [")
    assert localisation["rows"][0][1] == "not run"
    assert report["counts"]["rows"] == [["odam", 8, 1, 0, "0"], ["gradcam", 9, 0, 0, "0"]]
    assert report["details"]["dataset"] == "made" and report["curves"] is None
    assert report["objects"]["values"][0][0][:3] == [None, 1.0, 2.0]
    assert report["objects"]["notes"][0][:2] == ["map missing", ""]


def test_examples_are_the_ends_of_each_method_and_bring_their_maps(tmp_path):
    report = data(write(tmp_path, 9)[1])
    groups = [(group["why"], METHODS[group["method"]], group["objects"]) for group in report["examples"]]
    assert groups == [
        ("best", "odam", [8, 7, 6]),
        ("worst", "odam", [0, 1, 2]),
        ("best", "gradcam", [0, 1, 2]),
        ("worst", "gradcam", [8, 7, 6]),
    ]
    assert [image["shown"] for image in report["images"]] == [True] * 3 + [False] * 3 + [True] * 3
    (object_,) = data(tmp_path / "index.html", "image-7")["objects"]
    assert object_["number"] == 7 and object_["box"] == [3, 2, 15, 12] and len(object_["maps"]) == 2
    assert {path.stem for path in (tmp_path / "examples").iterdir()} == set("012678")


def test_a_map_laid_over_a_dimmed_photograph_looks_like_an_overlay(tmp_path):
    heat = np.arange(256, dtype=np.uint8).reshape(16, 16)
    (tmp_path / "heat.png").write_bytes(base64.b64decode(_heat_picture(heat)))
    colours = np.asarray(Image.open(tmp_path / "heat.png").convert("RGBA")).astype(float)
    alpha = colours[..., 3:] / 255
    # On black, dimming changes nothing.
    expected = overlay(np.zeros((16, 16, 3), np.uint8), heat / 255)
    assert np.abs(alpha * colours[..., :3] - expected).max() <= 1.5


def test_nothing_measured_is_said(tmp_path):
    page = write(tmp_path, 0)[1]
    report = data(page)
    assert report["lead"][0].startswith("No object was detected well enough") and report["tables"] == []
    script = 'seen.shown = ["numbers", "drawn", "pictured", "all"].map((id) => !$(id).hidden);'
    assert visit(page, script, tmp_path)["shown"] == [False] * 4


def test_any_name_comes_back_and_the_page_asks_the_network_for_nothing(tmp_path):
    page = write(tmp_path, 1, files={"0": tmp_path / NASTY.replace("/", "∕")})[1]
    text = page.read_text(encoding="utf-8")
    assert data(page)["images"][0]["name"] == NASTY.replace("/", "∕")
    assert "http://" not in text and "https://" not in text and "default-src 'none'; img-src data:" in text


# ---- in a browser ------------------------------------------------------------------------------------------------

SCRIPT = """
const cells = (title) => {
  const at = [...document.querySelectorAll("#headings th")].findIndex((th) => th.textContent === title);
  return [...document.querySelectorAll("#rows tr")].map((tr) => tr.children[at].textContent);
};
const heading = (title) => [...document.querySelectorAll("#headings button")].find((b) => b.textContent === title);
const method = (value) => { $("method").value = value; $("method").dispatchEvent(new Event("change")); };
seen.tables = [...document.querySelectorAll("#tables table")].map((table) => table.rows.length);
seen.hidden = $("drawn").hidden;
seen.groups = [...document.querySelectorAll("#groups h3")].map((h) => h.textContent);
seen.built = document.querySelectorAll("#rows tr").length;
$("list").scrollTop = 1e6; $("list").dispatchEvent(new Event("scroll")); await settle();
seen.scrolled = document.querySelectorAll("#rows tr").length;
method("0");
seen.methods = [...new Set(cells("method"))];
seen.unsorted = cells("enPG (box) \\u2191").slice(0, 3);
heading("enPG (box) \\u2191").click();
seen.ascending = cells("enPG (box) \\u2191").slice(0, 3);
seen.aria = heading("enPG (box) \\u2191").parentElement.getAttribute("aria-sort");
heading("enPG (box) \\u2191").click();
seen.descending = cells("enPG (box) \\u2191").slice(0, 3);
const link = document.querySelector("#rows a");
seen.link = link.getAttribute("href");
link.click(); await settle();
seen.opened = [$("viewer").open, $("name").textContent, document.querySelectorAll("#figures figure").length];
seen.loaded = [...document.querySelectorAll("#figures img")].map((image) => image.naturalWidth);
$("next").click(); await settle();
seen.next = [location.hash, $("name").textContent];
$("close").click(); await settle();
seen.closed = [$("viewer").open, location.hash];
$("find").value = "CLASS1"; $("find").dispatchEvent(new Event("input"));
seen.found = [...new Set(cells("class"))];
seen.count = $("count").textContent;
heading("maps").click(); heading("maps").click();
const file = document.querySelector("#rows a");
seen.file = [file.textContent, file.href];
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("page")


@pytest.fixture(scope="module")
def seen(folder):
    """What a visitor saw of 300 objects; the first has no map by odam, the last the most energy, then the second."""
    values = [None, 298.5, *map(float, range(2, 300))]
    return visit(write(folder, 300, values=values)[1], SCRIPT, folder)


def test_the_page_opens_with_tables_and_examples(seen):
    # Three of the paper, a method a row, and the differences of the one that was measured.
    assert seen["tables"] == [3, 3, 2, 3] and seen["hidden"]
    assert seen["groups"] == ["best of odam", "worst of odam", "best of gradcam", "worst of gradcam"]


def test_rows_are_built_as_they_come_into_sight(seen):
    assert seen["built"] == 200 and seen["scrolled"] == 400


def test_a_heading_sorts_and_what_is_undefined_comes_last(seen):
    assert seen["methods"] == ["odam"] and seen["unsorted"] == ["–", "298.5", "2.0"]
    assert seen["ascending"] == ["2.0", "3.0", "4.0"] and seen["aria"] == "ascending"
    assert seen["descending"] == ["299.0", "298.5", "298.0"]


def test_a_row_leads_to_its_maps_and_on_to_the_next(seen):
    assert seen["link"] == "#object=299"
    assert seen["opened"] == [True, "class2 in 299 #1.jpg", 3]
    # The photograph; and under each method's map another.
    assert seen["loaded"] == [30] * 5
    assert seen["next"] == ["#object=1", "class1 in 1 #1.jpg"]
    assert seen["closed"] == [False, ""]


def test_the_filter_finds_classes_and_a_row_without_maps_leads_to_its_image(seen, folder):
    assert seen["found"] == ["class1"] and seen["count"] == "100 of 300 objects"
    text, address = seen["file"]
    assert text == "image" and re.fullmatch(r"\d+%20%231\.jpg", Path(address).name)
    assert address.startswith(folder.as_uri() + "/")
