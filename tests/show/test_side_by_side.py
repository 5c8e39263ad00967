"""The page over several runs: its rows and words, that its links lead somewhere, and what a browser makes of it."""

import os
import re
from html import escape
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from PIL import Image

from browser import run_browser, visit
from explained_folders import RUN, write_explained
from odam_d2.show.side_by_side import FEW_PHOTOGRAPHS, write_side_by_side
from odam_d2.show.template import read_template

NASTY = "<b>&\"'<!-- title --> #1 50% é 猫.png"


class Page(HTMLParser):
    """The text of a page by headings, its links and its pictures."""

    def __init__(self, path):
        super().__init__()
        self.links, self.images, self.tags, self.text, self.ids = [], [], [], "", []
        self.folder = path.parent
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source.partition("<body>")[2])
        self.text = re.sub(r"\s*(\|\s*)+", " | ", re.sub(r"\s+", " ", self.text))

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.tags.append(tag)
        self.ids += [attrs["id"]] if "id" in attrs else []
        # What stands apart on the page stands apart in the text.
        self.text += "" if tag in ("a", "b", "span") else " | "
        if tag == "a":
            self.links.append(attrs["href"])
        if tag == "img":
            self.images.append(attrs)

    def handle_data(self, data):
        self.text += data

    def place(self, link):
        """The file that a link leads to."""
        address = urlsplit(link)
        assert not address.scheme and not address.netloc and not address.query, link
        return self.folder / unquote(address.path)

    def section(self, number):
        """The text about one photograph."""
        return re.split(r'<section class="photograph"', self.source)[number]

    def row(self, values):
        """The table's row that starts with a fact."""
        return re.search(rf'<tr([^>]*)><th scope="row">{values}</th>(.*)</tr>', self.source)


def compared(tmp_path, *folders, **options):
    path = tmp_path / "page.html"
    return write_side_by_side(path, folders, **options), Page(path)


@pytest.fixture
def two(tmp_path):
    """Two runs: a cat and a dog, and nothing; nothing, and a cat."""
    return [
        write_explained(tmp_path / "out" / "a", {"/p/1.png": 2, "/p/2.png": 0, "/p/3.png": 1}),
        write_explained(
            tmp_path / "b",
            {"/p/2.png": 1, "/p/1.png": 0},
            {"/p/3.png": "it is <empty>"},
            meta_architecture="ODAMRetinaNet",
        ),
    ]


def test_each_photograph_has_a_row_for_each_detector(two, tmp_path):
    (shared, others), page = compared(tmp_path, *two)
    assert shared == ["/p/1.png", "/p/2.png"] and [one.file for one in others] == ["/p/3.png"]
    assert "| FCOS and RetinaNet side by side | 2 photographs, each explained by 2 runs." in page.text
    assert "1 more photograph is not in all of them." in page.text
    # 2 detections with 2 maps each, at 0.02 s a map.
    assert (
        "| 1.png | /p/1.png, 40 x 30 pixels | FCOS | 2 detections: cat, dog; best score 0.90 "
        "| detected in 0.100 s, 4 maps in 0.080 s; look closer on its own page | RetinaNet "
        "| no detections above the threshold of 0.5 | detected in 0.100 s; look closer on its own page | "
        "2.png | /p/2.png, 40 x 30 pixels | FCOS | no detections above the threshold of 0.5 "
        "| detected in 0.100 s; look closer on its own page | RetinaNet | 1 detection: cat; best score 0.90 "
        "| detected in 0.100 s, 2 maps in 0.040 s; look closer on its own page |"
    ) in page.text
    assert "/p/3.png (FCOS: explained; RetinaNet: left out, it is <empty>)" in page.text


def test_links_are_relative_and_lead_to_sheets_and_to_the_photographs_own_place(two, tmp_path):
    _, page = compared(tmp_path, *two)
    assert [image["src"] for image in page.images] == [
        *("out/a/sheets/1.jpg", "b/sheets/1.jpg", "out/a/sheets/2.jpg", "b/sheets/2.jpg"),
    ]
    own = [link for link in page.links if "#image=" in link]
    assert own == [
        f"{place}/pages/00-0000.html#image={i}" for place, i in (("out/a", 0), ("b", 1), ("out/a", 1), ("b", 0))
    ]
    within = [link for link in page.links if link.startswith("#")]
    assert set(within) == {"#unshared", "#photograph-1", "#photograph-2"} and {link[1:] for link in within} <= set(
        page.ids
    )
    for link in set(page.links) - set(within):
        assert page.place(link).is_file(), link
    assert {"out/a/index.html", "b/index.html"} < set(page.links)


def test_a_page_beside_below_or_above_its_folders_finds_them(two, tmp_path, monkeypatch):
    (tmp_path / "deep" / "er").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "deep")
    folders = [Path("../out/a"), tmp_path / "b"]
    for path in (Path("page.html"), Path("er/page.html"), tmp_path / "out" / "a" / "page.html"):
        write_side_by_side(path, folders)
        page = Page(path)
        for link in [image["src"] for image in page.images] + page.links:
            assert link.startswith("#") or page.place(link).is_file(), link


def test_a_photograph_is_called_as_the_first_run_calls_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link.png").symlink_to(tmp_path / "1.png")
    folders = [write_explained(Path("a"), {"link.png": 1}), write_explained(Path("b"), {str(tmp_path / "1.png"): 1})]
    _, page = compared(tmp_path, *folders)
    assert "| link.png | link.png, 40 x 30 pixels | FCOS (a) |" in page.text and str(tmp_path) not in page.source


def test_sheets_have_one_scale(tmp_path):
    wide = write_explained(tmp_path / "a", {"1.png": 1}, targets=["class_score", "x1", "x2"])
    narrow = write_explained(tmp_path / "b", {"1.png": 1}, targets=["class_score"])
    _, page = compared(tmp_path, wide, narrow)
    # 230 pixels a column, and 10 beside: 4 columns and 2.
    assert [image["width"] for image in page.images] == ["930", "470"]
    assert all(Image.open(page.place(i["src"])).size == (int(i["width"]), int(i["height"])) for i in page.images)
    assert "--width: 930px" in page.source
    assert [image["style"] for image in page.images] == [
        "width: 100.000%; max-width: 930px",
        "width: 50.538%; max-width: 470px",
    ]


def test_the_most_detections_that_are_explained_are_said_to_be_that(tmp_path):
    folders = [write_explained(tmp_path / name, {"1.png": 3}, max_instances=3) for name in "ab"]
    _, page = compared(tmp_path, *folders)
    assert "3 detections, the most that were to be explained: cat ×2, dog; best score 0.90" in page.text


def test_runs_that_differ_in_the_detector_alone_get_no_warning(two, tmp_path):
    _, page = compared(tmp_path, *two)
    assert "warning" not in page.ids
    assert page.row("method")[1] == "" and page.row("method")[2] == "<td>odam</td><td>odam</td>"
    assert page.row("confidence threshold")[2] == "<td>0.5</td><td>0.5</td>"
    assert page.row("targets")[2] == "<td>class_score, x1</td>" * 2
    # Of the photographs shown, FCOS has 4 maps and none, RetinaNet none and 2.
    times = "".join(f"<td>0.100 s to detect, {s} s for {n} maps</td>" for s, n in (("0.040", "2.0"), ("0.020", "1.0")))
    assert page.row("mean time of these photographs")[2] == times
    assert page.row("meta architecture")[1] == ' class="differs"'
    assert "| class_score | why this class | x1 | why its left side is there |" in page.text


@pytest.mark.parametrize(
    ("fact", "value", "words"),
    [
        ("method", "gradcam", "method (odam or gradcam) affects the maps"),
        ("layer", "res4", "layer (fpn or res4) affects the maps"),
        ("smoothing", "gaussian", "smoothing (none or gaussian) affects the maps"),
        ("targets", ["x1"], "targets (class_score, x1 or x1) affects the columns"),
        ("confidence_threshold", 0.25, "confidence threshold (0.5 or 0.25) affects the number of detections"),
        ("max_instances", 4, "max instances (10 or 4) affects the number of detections"),
        ("device", "cuda", "device (cpu or cuda) affects the times"),
    ],
)
def test_runs_that_differ_in_more_get_a_warning(fact, value, words, tmp_path):
    folders = [
        write_explained(tmp_path / "a", {"1.png": 1}),
        write_explained(tmp_path / "b", {"1.png": 1}, **{fact: value}),
    ]
    _, page = compared(tmp_path, *folders)
    assert "warning" in page.ids and page.text.count(" affects ") == 1 and words in page.text
    assert page.row(fact.replace("_", " "))[1] == ' class="differs"'


def test_a_method_without_layers_is_another_method_and_may_mean_something_else(tmp_path):
    first = write_explained(tmp_path / "a", {"1.png": 1})
    own = {"method": "drise", "layer": None, "smoothing": None, "masks": 40, "targets": ["class_score"]}
    second = write_explained(tmp_path / "b", {"1.png": 1}, meta_architecture="ODAMRetinaNet", **own)
    meanings = {"drise": {"class_score": "why this box with this class"}}
    _, page = compared(tmp_path, first, second, own_meanings=lambda method: meanings.get(method, {}))
    assert [words.split(" (")[0] for words in re.findall(r"(\w+ \([^)]*\)) affects", page.text)] == [
        "method",
        "targets",
    ]
    assert page.row("layer")[2] == "<td>fpn</td><td>none</td>"
    assert "| class_score | why this class (FCOS); why this box with this class (RetinaNet) |" in page.text
    assert "| x1 | why its left side is there (FCOS) |" in page.text


def test_given_names_stand_everywhere(two, tmp_path):
    _, page = compared(tmp_path, *two, names=["one & all", "<i>"])
    assert "one & all and <i> side by side" in page.text and "i" not in page.tags
    assert page.text.count("| <i> |") == 4  # in both tables and at both photographs
    assert "a row for each of one & all's detections" in page.images[0]["alt"]


def test_any_name_of_a_file_and_a_folder_comes_back(tmp_path):
    folders = [write_explained(tmp_path / f"{NASTY} {name}", {f"/p/{NASTY}": 1}) for name in "ab"]
    _, page = compared(tmp_path, *folders)
    assert f"| {NASTY} | /p/{NASTY}, 40 x 30 pixels" in page.text
    assert all(page.place(image["src"]).is_file() for image in page.images) and len(page.images) == 2
    assert all(page.place(link).is_file() for link in page.links if not link.startswith("#"))
    assert page.tags.count("h1") == 1 and "<!-- " not in page.source.partition("<body>")[2]


def test_a_file_name_that_is_no_text_does_not_cost_the_page(tmp_path):
    name = os.fsdecode(b"/p/a\xff.png")
    _, page = compared(tmp_path, *(write_explained(tmp_path / folder, {name: 1}) for folder in "ab"))
    assert "/p/a?.png" in page.text and page.images[0]["src"] == "a/sheets/a%FF.jpg"


def test_the_list_of_many_photographs_is_closed(tmp_path):
    def lists(count):
        folders = [
            write_explained(tmp_path / f"{name}{count}", {f"/{i}.png": 0 for i in range(count)}) for name in "ab"
        ]
        return compared(tmp_path, *folders)[1]

    assert f"<details open><summary>{FEW_PHOTOGRAPHS} photographs</summary>" in lists(FEW_PHOTOGRAPHS).source
    assert f"<details><summary>{FEW_PHOTOGRAPHS + 1} photographs</summary>" in lists(FEW_PHOTOGRAPHS + 1).source


def test_the_page_has_no_script_asks_no_network_and_looks_like_the_others(two, tmp_path):
    _, page = compared(tmp_path, *two)
    assert "script" not in page.tags and "http" not in page.source.replace("http-equiv", "")
    assert "default-src 'none'; img-src 'self' file: data:; style-src 'unsafe-inline'" in page.source
    report = read_template("odam_d2.show", "report.html")
    own, other = (re.search(r":root \{.*?\n\}\n@media.*?\n\}\n", text, re.DOTALL)[0] for text in (page.source, report))
    assert own == other


# ---- what is refused ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("absent/page.html", "there is no folder .*absent; make it first"),
        (".", "which is a folder; name a file, .*page.html"),
        ("b/index.html", "b/index.html is the page of the run into .*b; name another file"),
    ],
)
def test_a_place_that_cannot_hold_the_page_is_refused(place, words, two, tmp_path):
    before = (tmp_path / "b" / "index.html").read_bytes()
    with pytest.raises(ValueError, match=words):
        write_side_by_side(tmp_path / place, two)
    assert (tmp_path / "b" / "index.html").read_bytes() == before


def test_an_older_page_stays_where_a_new_one_cannot_be_made(two, tmp_path):
    path = tmp_path / "page.html"
    path.write_text("older")
    with pytest.raises(ValueError, match="no photograph"):
        write_side_by_side(path, [*two, write_explained(tmp_path / "c", {"/p/9.png": 1})])
    assert path.read_text() == "older"


# ---- in a browser ------------------------------------------------------------------------------------------------

# A window is at least 500 pixels wide; a frame may be as narrow as a telephone.
FRAME = (
    '<html><body style="margin: 0"><iframe style="width: {}px; height: 900px; border: 0" srcdoc="{}"></iframe></body>'
)
SCRIPT = """
const frame = document.querySelector("iframe");
const ready = (page) => page.querySelector("main") && page.readyState === "complete";
while (!ready(frame.contentDocument)) await settle();
const page = frame.contentDocument;
const all = (selector) => [...page.querySelectorAll(selector)];
all("img").forEach((image) => { image.loading = "eager"; });
while (!all("img").every((image) => image.complete)) await settle();
await settle();
seen.loaded = all("img").map((image) => [image.naturalWidth, image.getBoundingClientRect().width]);
seen.room = page.documentElement.clientWidth;
seen.page = page.documentElement.scrollWidth;
seen.wide = all(".photograph .wide").map((box) => box.scrollWidth > box.clientWidth);
const [box, words] = [all(".photograph .wide")[0], all(".words")[0]];
box.scrollLeft = 100;
await settle();
const [outer, inner] = [box, words].map((element) => element.getBoundingClientRect());
seen.words = [inner.left - outer.left, outer.right - inner.right];
"""


@pytest.fixture
def shown(tmp_path):
    """A page of three runs with long names and many targets."""
    names = ("a_folder_with_a_name_that_is_longer_than_a_telephone_is_wide", "b", "c d #")
    folders = [
        write_explained(
            tmp_path / name, {f"/{'very_long' * 9}/1.png": 2, "/2.png": 0}, targets=[*RUN["targets"], "x2", "y2"]
        )
        for name in names
    ]
    compared(tmp_path, *folders)
    return tmp_path / "page.html"


@pytest.mark.parametrize("width", [400, 1400])
def test_pictures_load_and_the_page_never_scrolls_sideways(width, shown, tmp_path):
    framed = tmp_path / "framed.html"
    framed.write_text(FRAME.format(width, escape(shown.read_text())))
    seen = visit(framed, SCRIPT, tmp_path)
    # Less a scroll bar.
    assert width - 20 <= seen["room"] <= width and seen["page"] <= seen["room"]
    # 5 columns of 230 pixels and 10 beside; of nothing but a photograph, one column.
    assert [natural for natural, _ in seen["loaded"]] == [1160] * 3 + [240] * 3
    # Never larger than they are, and on a telephone still large enough to be read.
    assert [actual for _, actual in seen["loaded"][:3]] == pytest.approx(
        [1160 if width == 1400 else 0.55 * 1160] * 3, abs=1
    )
    assert seen["wide"] == [width == 400, False]
    # Words stay in sight while maps scroll.
    left, right = seen["words"]
    assert left == pytest.approx(1, abs=0.5) and right > 0


def test_the_browser_complains_about_nothing(shown, tmp_path):
    def console(page):
        profile = tmp_path / f"profile {page.stem}"
        run_browser(page.as_uri(), profile, "--dump-dom", "--enable-logging", seconds=120)
        return [line for line in (profile / "chrome_debug.log").read_text().splitlines() if "CONSOLE" in line]

    assert console(shown) == []
    # It would, of what the page does not allow.
    (tmp_path / "other.html").write_text(shown.read_text().replace("</body>", "<script>let a</script></body>"))
    assert "Content Security Policy" in console(tmp_path / "other.html")[0]
