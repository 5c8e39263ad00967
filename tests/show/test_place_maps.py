"""Attention of places on the page: what a payload holds, and that a click in a browser shows the place's own map."""

import base64
import io
import json

import numpy as np
import pytest
from PIL import Image

from browser import visit
from odam_d2.show.page import PlaceMaps, ReportImage, page_image, write_report

PHOTO = np.full((300, 400, 3), (60, 120, 60), dtype=np.uint8)


def example(places, labels=("person",)):
    count = len(labels)
    maps = {target: np.zeros((count, 30, 40)) for target in ("class_score", "x2")}
    boxes = np.tile([40.0, 60.0, 360.0, 270.0], (count, 1))
    return ReportImage("a.jpg", PHOTO, boxes, labels, np.full(count, 0.9), maps, {}, places=places)


def own_places():
    """3 x 4 places, each of which attends to its own part of the image: two rows and two columns of 6 x 8."""
    maps = np.zeros((12, 6, 8))
    for place in range(12):
        row, column = divmod(place, 4)
        maps[place, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2] = 1
    return PlaceMaps((3, 4), maps)


def test_a_payload_holds_the_map_of_each_place_where_the_place_is():
    # Place (0,1) attends to the lower left, (1,0) to the upper right pixel of 2 x 3.
    maps = np.zeros((4, 2, 3))
    maps[1, 1, 0], maps[2, 0, 2] = 1.0, 0.2
    payload = json.loads(example(PlaceMaps((2, 2), maps)).encode())
    assert payload["places"] == {"cells": [2, 2], "map_size": [2, 3]}
    tiles = np.asarray(Image.open(io.BytesIO(base64.b64decode(payload["place_maps"]))))
    expected = np.zeros((4, 6), dtype=np.uint8)
    expected[0 + 1, 3 + 0], expected[2 + 0, 0 + 2] = 255, 51
    np.testing.assert_array_equal(tiles, expected)
    summary, lazy = page_image(0, json.dumps(payload)).splitlines()[::-1]
    assert '"places"' in summary and '"place_maps"' not in summary and '"place_maps"' in lazy


def test_an_image_without_places_has_none_of_it():
    payload = json.loads(example(None).encode())
    assert not {"places", "place_maps"} & set(payload)


@pytest.mark.parametrize(
    ("maps", "message"),
    [
        (np.zeros((3, 2, 3)), r"2 x 2 places need as many maps \(P,mh,mw\), not \(3, 2, 3\)"),
        (np.full((4, 2, 3), 2.0), r"maps of places must lie in \[0,1\]"),
    ],
)
def test_maps_that_do_not_fit_are_refused(maps, message):
    with pytest.raises(ValueError, match=message):
        PlaceMaps((2, 2), maps)


SCRIPT = """
const note = async (name) => { await settle(); seen[name] = location.hash; };
const press = (key) => document.body.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
const stage = () => document.querySelector("#single .stage");
const click = (x, y) => {
  const { left, top, width, height } = stage().getBoundingClientRect();
  const at = { clientX: left + x * width, clientY: top + y * height, bubbles: true };
  document.elementFromPoint(at.clientX, at.clientY).dispatchEvent(new MouseEvent("click", at));
};
// The browser decodes in a thread of its own, and its clock runs ahead of it: only work takes time.
const painted = async () => {
  for (let i = 0; i < 40 && stage().querySelector("canvas").hidden; i++) {
    for (let n = 0; n < 2e7; n++) Math.sqrt(n);
    await new Promise((done) => setTimeout(done, 5));
  }
};
const heat = () => [0.125, 0.375, 0.625, 0.875].map((x) => [1 / 6, 0.5, 5 / 6].map((y) => {
  const canvas = stage().querySelector("canvas");
  return canvas.getContext("2d").getImageData(x * canvas.width, y * canvas.height, 1, 1).data[3];
}));
const visible = (id) => document.getElementById(id).offsetParent !== null;
location.hash = "#image=0"; await note("opened");
seen.offered = visible("attend");
document.getElementById("attend").click(); await note("asked");
seen.pressed = document.getElementById("attend").getAttribute("aria-pressed");
await painted(); seen.middle = heat();
const low = () => document.getElementById("low").textContent;
seen.ends = [low()];
seen.caption = document.getElementById("caption").textContent;
click(0.1, 0.9); await note("outside the box");
await painted(); seen.corner = heat();
const mark = stage().querySelector(".place").style;
seen.mark = [parseFloat(mark.left), parseFloat(mark.top)];
click(0.6, 0.5); await note("inside the box");
press("ArrowDown"); await note("down");
press("ArrowDown"); await note("end");
press("ArrowLeft"); await note("left");
seen.marks = document.querySelectorAll(".place").length;
press("Escape"); await note("left alone");
seen.ends.push(low());
seen.after = [document.querySelectorAll(".place").length, stage().querySelector("canvas").hidden];
click(0.5, 0.5); await note("a box again");
document.getElementById("attend").click(); await note("asked again");
document.querySelector("#detections button").click(); await note("from the list");
document.getElementById("attend").click(); await settle();
document.getElementById("compare").click(); await note("compared");
location.hash = "#image=1&at=3"; await note("without detections"); await painted();
seen.alone = [visible("attend"), visible("controls"), heat()[3]];
location.hash = "#image=2&at=3"; await note("without places");
seen.none = [visible("attend"), document.querySelectorAll(".place").length];
"""


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    """What a visitor saw who clicked on places."""
    folder = tmp_path_factory.mktemp("places")
    images = [example(own_places()), example(own_places(), labels=()), example(None)]
    write_report(folder / "index.html", [image.encode() for image in images], "Why", {})
    return visit(folder / "index.html", SCRIPT, folder)


def hot(column, row):
    """Full heat at one of 4 x 3 parts, and none elsewhere; columns first."""
    return [[255 * ((i, j) == (column, row)) for j in range(3)] for i in range(4)]


def test_the_middle_is_where_it_begins(seen):
    assert seen["opened"] == "#image=0" and seen["offered"]
    assert seen["asked"] == "#image=0&at=6" and seen["pressed"] == "true"
    assert seen["middle"] == hot(2, 1) and seen["caption"].startswith("What the encoder attends to at the marked place")


def test_a_click_shows_the_map_of_the_nearest_place_inside_boxes_too(seen):
    assert seen["ends"] == ["0 = no attention", "0 = no support"]
    assert seen["outside the box"] == "#image=0&at=8" and seen["corner"] == hot(0, 2)
    assert seen["mark"] == pytest.approx([12.5, 100 * 2.5 / 3], abs=0.01)
    assert seen["inside the box"] == "#image=0&at=6"


def test_arrow_keys_move_the_place_and_escape_ends_it(seen):
    assert [seen[name] for name in ("down", "end", "left")] == [f"#image=0&at={at}" for at in (10, 10, 9)]
    assert seen["marks"] == 1 and seen["left alone"] == "#image=0" and seen["after"] == [0, True]


def test_every_other_choice_ends_it(seen):
    assert seen["a box again"].startswith("#image=0&det=0") and "at=" in seen["asked again"]
    assert "det=0" in seen["from the list"] and "at=" not in seen["from the list"]
    assert seen["compared"].endswith("view=all") and "at=" not in seen["compared"]


def test_it_needs_no_detection_and_is_not_offered_without_maps(seen):
    assert seen["alone"] == [True, False, [255, 0, 0]]
    assert seen["none"] == [False, 0]
