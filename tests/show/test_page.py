"""The page: what its payloads hold, that any name survives, and that a browser shows heat where the map is hot."""

import base64
import io
import json
import os
from collections import defaultdict
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from browser import run_browser
from odam_d2.show.overlays import dim, overlay
from odam_d2.show.page import ReportImage, page_end, page_image, page_link, page_start, write_report

NASTY = "<b>\"cat\" & 'dog'</script><!--<script>\u2028 é 猫"
GREEN = (60, 120, 60)


def example(name="a.jpg", labels=("person", "cat"), **changes):
    """400 x 300, green; the second box lies inside the first; maps are 40 x 30."""
    boxes = np.array([[40.0, 60.0, 360.0, 270.0], [80.0, 90.0, 160.0, 150.0]])
    values = {
        "name": name,
        "photo": np.full((300, 400, 3), GREEN, dtype=np.uint8),
        "boxes": boxes[: len(labels)],
        "labels": list(labels),
        "scores": np.array([0.97, 0.41])[: len(labels)],
        "maps": {target: np.zeros((len(labels), 30, 40)) for target in ("class_score", "x2")},
        "facts": {"time": "0.31 s"},
    }
    return ReportImage(**{**values, **changes})


class Page(HTMLParser):
    """The tags a page opens, and the text inside the last one opened, by id where it is JSON, else by tag."""

    def __init__(self, path):
        super().__init__()
        self.tags, self.texts, self.current = [], defaultdict(str), None
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        attrs = dict(attrs)
        self.current = attrs["id"] if attrs.get("type") == "application/json" else tag

    def handle_endtag(self, tag):
        self.current = None

    def handle_data(self, data):
        self.texts[self.current] += data

    def json(self, identifier):
        return json.loads(self.texts[identifier])

    @property
    def images(self):
        return [self.json(key) for key in self.texts if key and key.startswith("summary-")]


def written(tmp_path, *images, title="Why", details=()):
    path = tmp_path / "index.html"
    write_report(path, [image.encode() for image in images], title, dict(details))
    return path


def picture(text):
    return Image.open(io.BytesIO(base64.b64decode(text)))


# ---- payloads ----------------------------------------------------------------------------------------------------


def test_a_payload_keeps_every_map_value_at_its_place():
    class_score, x2 = np.zeros((2, 3, 4)), np.zeros((2, 3, 4))
    class_score[0, 1, 2], x2[0, 2, 0], x2[1, 0, 3] = 1.0, 0.2, 0.6
    payload = json.loads(example(maps={"class_score": class_score, "x2": x2}).encode())
    first, second = (np.asarray(picture(text)) for text in payload["maps"])
    expected = np.zeros((6, 4), dtype=np.uint8)  # class_score above x2
    expected[1, 2], expected[3 + 2, 0] = 255, 51
    np.testing.assert_array_equal(first, expected)
    assert second[3 + 0, 3] == 153 and np.count_nonzero(second) == 1
    assert payload["targets"] == ["class_score", "x2"] and payload["map_size"] == [3, 4]


def test_a_payload_keeps_photograph_boxes_and_words():
    payload = json.loads(example().encode())
    photo = picture(payload["photo"])
    assert photo.size == (payload["width"], payload["height"]) == (400, 300)
    assert np.abs(np.asarray(photo).astype(int) - GREEN).max() <= 3
    assert payload["boxes"][1] == [80, 90, 160, 150]
    assert payload["labels"] == ["person", "cat"] and payload["scores"] == [0.97, 0.41]
    assert payload["facts"] == {"time": "0.31 s"} and payload["captions"] == {}
    captions = {"class_score[dog]": ("dog 0.02", "dog 0.50")}
    assert json.loads(example(captions=captions).encode())["captions"] == {"class_score[dog]": ["dog 0.02", "dog 0.50"]}


def test_a_thumbnail_is_small_and_shows_the_boxes():
    thumbnail = picture(json.loads(example().encode())["thumbnail"])
    assert thumbnail.size == (320, 240)
    changed = np.abs(np.asarray(thumbnail).astype(int) - GREEN).max(2) > 60
    # The first box: 40..360 of 400 and 60..270 of 300.
    rows, columns = np.argwhere(changed)[:, 0], np.argwhere(changed)[:, 1]
    assert abs(columns.min() - 32) <= 1 and abs(columns.max() - 287) <= 1
    assert abs(rows.min() - 48) <= 1 and abs(rows.max() - 215) <= 1


@pytest.mark.parametrize("maps", [{}, {"x1": np.zeros((0, 3, 4))}])
def test_an_image_without_detections_has_a_payload_without_maps(maps):
    payload = json.loads(example(labels=(), maps=maps).encode())
    assert payload["boxes"] == payload["labels"] == payload["scores"] == payload["maps"] == []


def test_an_image_of_one_pixel_can_be_shown():
    photo, maps = np.zeros((1, 1, 3), np.uint8), {"x1": np.ones((1, 1, 1))}
    image = example(labels=("a",), photo=photo, boxes=np.array([[0, 0, 1, 1]]), maps=maps)
    assert picture(json.loads(image.encode())["maps"][0]).getpixel((0, 0)) == 255


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"boxes": np.zeros((3, 4))}, r"boxes must be \(2, 4\)"),
        ({"boxes": np.full((2, 4), np.nan)}, "finite"),
        ({"scores": np.zeros(1)}, r"scores must be \(2,\)"),
        ({"maps": {}}, "2 detections but no maps"),
        ({"maps": {"x1": np.zeros((1, 3, 4))}}, r"maps of x1 must be \(2,mh,mw\)"),
        ({"maps": {"x1": np.zeros((2, 3, 4)), "x2": np.zeros((2, 4, 4))}}, "one size for all targets"),
        ({"maps": {"x1": np.full((2, 3, 4), np.nan)}}, r"maps of x1 must lie in \[0,1\]"),
        ({"maps": {"x1": np.full((2, 3, 4), 7.0)}}, r"maps of x1 must lie in \[0,1\]"),
        ({"photo": np.zeros((3, 4), np.uint8)}, "uint8"),
        ({"captions": {"x2": ["dog 0.02"]}}, "1 captions of x2 for 2 labels"),
    ],
)
def test_what_does_not_fit_together_is_refused_by_name(changes, message):
    with pytest.raises(ValueError, match=message):
        example(**changes)


# ---- the page ----------------------------------------------------------------------------------------------------


def test_any_name_and_label_comes_back_out_of_the_page_as_it_was(tmp_path):
    path = written(tmp_path, example(NASTY, (NASTY, "cat")), title=NASTY, details={NASTY: NASTY})
    page, plain = Page(path), Page(written(tmp_path, example()))
    report = page.json("report")
    assert page.images[0]["name"] == NASTY
    assert page.images[0]["labels"] == [NASTY, "cat"]
    assert report["title"] == page.texts["title"] == page.texts["h1"] == NASTY
    assert report["details"] == {NASTY: NASTY}
    assert page.tags == plain.tags  # no name opened a tag


def test_a_file_name_that_is_not_valid_text_does_not_cost_the_page(tmp_path):
    page = Page(written(tmp_path, example("\udcff.jpg"), title="\udcff"))
    assert page.images[0]["name"] == "\udcff.jpg"


def test_photographs_and_maps_are_apart_from_what_the_page_reads_at_once(tmp_path):
    page = Page(written(tmp_path, example("a.jpg"), example("b.jpg", labels=())))
    assert [image["name"] for image in page.images] == ["a.jpg", "b.jpg"]
    assert not {"photo", "maps"} & set(page.images[0])
    assert len(page.json("image-0")["maps"]) == 2 and page.json("image-1")["maps"] == []


def test_the_page_asks_the_network_for_nothing(tmp_path):
    page = Page(written(tmp_path, example()))
    assert "http://" not in page.source and "https://" not in page.source and "@import" not in page.source
    assert "default-src 'none'; img-src data:" in page.source
    assert set(page.tags).isdisjoint({"iframe", "object", "embed", "base"})
    assert page.tags.count("link") == 1 and '<link rel="icon" href="data:,">' in page.source


def test_a_page_replaces_the_older_one_only_when_it_is_whole(tmp_path):
    path = written(tmp_path, example("old.jpg"))
    older = path.read_text()

    def interrupted():
        yield example("new.jpg").encode()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_report(path, interrupted(), "Why", {})
    assert path.read_text() == older and os.listdir(tmp_path) == ["index.html"]
    write_report(path, [], "Why", {})
    assert Page(path).images == []
    assert os.listdir(tmp_path) == ["index.html"]


# ---- in a browser ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """Runs headless Chromium on a page and returns what it prints."""

    def run(path, hash_, *options):
        look = ("--force-color-profile=srgb", "--hide-scrollbars")
        return run_browser(f"{path.as_uri()}{hash_}", tmp_path_factory.mktemp("profile"), *look, *options)

    return run


def extent(mask):
    """First and last row and column of a mask, as edges: top, left, bottom, right."""
    found = np.argwhere(mask)
    return [*found.min(0), *(found.max(0) + 1)]


def test_a_selected_map_is_hot_on_the_screen_where_the_map_is_hot(tmp_path, browser):
    x2 = np.zeros((2, 30, 40))
    x2[1, 18:24, 28:36], x2[1, 1:5, 20:26] = 1, 0.2
    path = written(tmp_path, example(maps={"class_score": np.zeros((2, 30, 40)), "x2": x2}))
    browser(path, "#image=0&det=1&target=x2", f"--screenshot={tmp_path / 'screen.png'}")
    screen = np.asarray(Image.open(tmp_path / "screen.png").convert("RGB")).astype(int)
    green = np.full((1, 1, 3), GREEN, dtype=np.uint8)
    # Python and the page agree on the colours without heat ...
    top, left, bottom, right = extent(np.abs(screen - np.rint(dim(green))).max(2) <= 3)
    assert (right - left) / (bottom - top) == pytest.approx(4 / 3, abs=0.01) and right - left > 600
    photograph = screen[top:bottom, left:right]
    # ... and with all of it.
    hot = extent(np.abs(photograph - overlay(green, np.ones((1, 1)))).max(2) <= 3)
    # Full heat reaches from the centre of the first hot map pixel to the centre of the last.
    expected = [18.5 / 30, 28.5 / 40, 23.5 / 30, 35.5 / 40]
    found = np.divide(hot, [bottom - top, right - left] * 2)
    assert found == pytest.approx(expected, abs=0.006)  # a quarter of a map pixel
    # A fifth of the heat, in the middle of its place: the page's opacity falls as the pictures' does.
    middle = photograph[round((bottom - top) * 3 / 30), round((right - left) * 23 / 40)]
    assert np.abs(middle - overlay(green, np.full((1, 1), 0.2))).max() <= 3


# Driven from inside the page: clicks go to whatever lies on top at a place, as a pointer's would.
DRIVER = """<script>
(async () => {
  const seen = {};
  const settle = () => new Promise((done) => setTimeout(done, 150));
  const note = async (name) => { await settle(); seen[name] = decodeURIComponent(location.hash); };
  const press = (key) => document.body.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
  const click = (x, y) => {
    const { left, top, width, height } = document.querySelector("#single .stage").getBoundingClientRect();
    document.elementFromPoint(left + x * width, top + y * height).click();
  };
  const visible = (id) => document.getElementById(id).offsetParent !== null;
  document.querySelector("#grid a").click(); await note("thumbnail");
  seen.tabs = [...document.querySelectorAll("#single .tab")].map((tab) => tab.textContent);
  click(0.3, 0.4); await note("inside both boxes");
  seen.caption = document.getElementById("caption").textContent;
  click(0.8, 0.8); await note("inside the large box");
  document.querySelector("[data-target=x2]").click(); await note("target");
  seen.captioned = document.getElementById("caption").textContent;
  document.querySelectorAll("#detections button")[1].click(); await note("list");
  const canvas = document.querySelector("#single canvas");
  const alpha = (x, y) => canvas.getContext("2d").getImageData(x * canvas.width, y * canvas.height, 1, 1).data[3];
  // A map is painted once its picture is decoded.
  for (let i = 0; i < 40 && !alpha(0.8, 0.7); i++) await settle();
  seen.alpha = [alpha(0.8, 0.7), alpha(0.2, 0.2)];
  click(0.02, 0.02); await note("outside");
  press("ArrowDown"); await note("down");
  press("ArrowUp"); await note("up");
  press("c"); await note("compare");
  seen.cells = document.querySelectorAll("#all .cell").length;
  seen.words = [...document.querySelectorAll("#all .cell > span")].map((words) => words.textContent);
  press("1"); await note("digit");
  press("ArrowRight"); await note("right");
  seen.empty = document.getElementById("caption").textContent;
  press("Escape"); await note("escape");
  const field = document.getElementById("filter");
  seen.filtered = ["CAT", "B.j", "zebra", ""].map((text) => {
    field.value = text;
    field.dispatchEvent(new Event("input"));
    return [...document.querySelectorAll("#grid li")].map((item) => !item.hidden);
  });
  seen.views = [visible("overview"), visible("viewer")];
  document.body.dataset.seen = JSON.stringify(seen);
})();
</script>"""


@pytest.fixture(scope="module")
def seen(tmp_path_factory, browser):
    """What a visitor saw who clicked through a page of two images, the second without detections."""
    folder = tmp_path_factory.mktemp("clicks")
    x2 = np.zeros((2, 30, 40))
    x2[1, 18:24, 28:36] = 1
    maps = {"class_score": np.zeros((2, 30, 40)), "x2": x2}
    first = example(labels=("person", "cat"), maps=maps, captions={"x2": ["<i> 0.02", "dog 0.50"]})
    path = written(folder, first, example("b.jpg", labels=()))
    source = path.read_text(encoding="utf-8")
    path.write_text(source.replace("</body>", f"{DRIVER}</body>"), encoding="utf-8")
    body = next(line for line in browser(path, "", "--dump-dom").splitlines() if "<body" in line)
    parser = HTMLParser()
    found = {}
    parser.handle_starttag = lambda tag, attributes: found.setdefault(tag, dict(attributes))
    parser.feed(body)
    return json.loads(found["body"]["data-seen"])


def test_a_click_on_a_thumbnail_opens_the_image_with_all_boxes(seen):
    assert seen["thumbnail"] == "#image=0"
    assert seen["tabs"] == ["person 0.97", "cat 0.41"]


def test_a_click_selects_the_smallest_box_under_the_pointer(seen):
    assert seen["inside both boxes"] == "#image=0&det=1"
    assert seen["caption"] == "cat 0.41: why this class (class_score)"
    assert seen["inside the large box"] == "#image=0&det=0"
    assert seen["outside"] == "#image=0&target=x2"


def test_targets_and_list_entries_can_be_clicked(seen):
    assert seen["target"] == "#image=0&det=0&target=x2"
    assert seen["list"] == "#image=0&det=1&target=x2"
    assert seen["captioned"] == "person 0.97: why its right side is there (x2), here <i> 0.02"
    assert seen["alpha"] == [255, 0]  # hot at columns 28..36 of 40 and rows 18..24 of 30


def test_keys_walk_through_detections_maps_and_images(seen):
    assert seen["down"] == "#image=0&det=0&target=x2"
    assert seen["up"] == "#image=0&det=1&target=x2"
    assert seen["compare"] == "#image=0&det=1&target=x2&view=all"
    assert seen["cells"] == 3  # the photograph and two targets
    assert seen["words"] == [
        "photograph what was detected",
        "class_score why this class",
        "x2 why its right side is there, here dog 0.50",
    ]
    assert seen["digit"] == "#image=0&det=1&target=class_score"
    assert seen["right"] == "#image=1&target=class_score"
    assert seen["escape"] == "" and seen["views"] == [True, False]


def test_an_image_without_detections_says_so(seen):
    assert seen["empty"] == "No detections above the threshold."


def test_the_filter_finds_classes_and_file_names(seen):
    assert seen["filtered"] == [[True, False], [False, True], [False, False], [True, True]]


# ---- several pages -----------------------------------------------------------------------------------------------

FIND = """<script>
const visible = () => [...document.querySelectorAll("#grid li")].filter((item) => !item.hidden)
  .map((item) => item.querySelector("a").getAttribute("href"));
const seen = [["cat", ""], ["", "0.9"], ["cat", "0.9"], ["c.jpg", "0.3"], ["", ""]].map(([word, score]) => {
  document.getElementById("filter").value = word;
  document.getElementById("score").value = score;
  document.getElementById("score").dispatchEvent(new Event("input"));
  return visible();
});
document.body.dataset.seen = JSON.stringify([seen, document.getElementById("viewer").hidden]);
</script>"""


def body_of(text):
    found = {}
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, attributes: found.setdefault(tag, dict(attributes))
    parser.feed(text[text.index("<body") :])
    return found["body"]


def test_an_index_finds_by_class_score_and_file_and_leads_to_the_pages(tmp_path, browser):
    images = [("a.jpg", ["person", "cat"], [0.97, 0.41]), ("b.jpg", ["cat"], [0.9]), ("c.jpg", [], [])]
    links = [page_link(i, *image, f"pages/{i}.html#image=0") for i, image in enumerate(images)]
    path = tmp_path / "index.html"
    path.write_text("".join([page_start("Why"), *links, page_end("Why", {})]).replace("</body>", f"{FIND}</body>"))
    # An address of a page means nothing on the index.
    seen, no_viewer = json.loads(body_of(browser(path, "#image=0", "--dump-dom"))["data-seen"])
    a, b, c = (f"pages/{i}.html#image=0" for i in range(3))
    # The person of a.jpg is sure and its cat is not; c.jpg has nothing of any score.
    assert seen == [[a, b], [a, b], [b], [], [a, b, c]] and no_viewer


@pytest.mark.parametrize(("start", "key", "arrives"), [(0, "ArrowRight", "c.jpg"), (1, "ArrowLeft", "b.jpg")])
def test_keys_walk_from_one_page_to_the_next(start, key, arrives, tmp_path, browser):
    names = [["a.jpg", "b.jpg"], ["c.jpg", "d.jpg"]]
    for i, own in enumerate(names):
        beside = {"index": "../index.html", "previous": "0.html" if i else None, "next": None if i else "1.html"}
        images = [page_image(j, example(name).encode()) for j, name in enumerate(own)]
        text = "".join(
            [page_start("Why"), *images, page_end("Why", {}, beside={**beside, "number": i + 1, "count": 2})]
        )
        press = f'document.body.dispatchEvent(new KeyboardEvent("keydown", {{ key: "{key}", bubbles: true }}));'
        driver = f"<script>if (location.search) {press}</script>" if i == start else ""
        (tmp_path / f"{i}.html").write_text(text.replace("</body>", f"{driver}</body>"))
    # From the last image of the first page, and from the first of the second.
    text = browser(tmp_path / f"{start}.html", f"?go#image={1 - start}", "--dump-dom")
    assert f">{arrives}</h2>" in text and f"page {2 - start} of 2" in text
