"""The users' pages: all their code runs, and what they link to is there."""

import re
from pathlib import Path

import pytest
from PIL import Image

from odam_d2.config import load_config
from pages import OWN_TESTS, check_command, find_blocks, list_pages, make_smaller, read_blocks, split_commands, walk

PAGES = list_pages()
# What is there after a page was walked.
LEAVES = {
    "README.md": ["why/sheet.png", "out/index.html", "measured/summary.json", "checked/sanity.png"],
    "docs/index.md": [
        *(f"out/{name}" for name in ("index.html", "pages", "maps/photo.npz", "results.jsonl", "run.json")),
        *(f"why/{name}" for name in ("sheet.png", "00_cat_class_score.png", "maps.npz", "detections.json")),
    ],
    "docs/explaining.md": ["out/maps/new.npz", "dog/sheets/photo.jpg", "compare.html", "zoo/index.html"],
    "docs/crowds.md": ["out/removals.csv", "out/crowd_pairs.png", "output/crowdhuman/model_final.pth"],
    "docs/figures.md": [f"figure{number}.png" for number in (1, 3, 4, 5, 6, 10, 13, 18)],
    "docs/errors.md": [f"errors/{name}" for name in ("index.html", "errors.csv", "maps.csv", "summary.json")],
    "docs/distilling.md": [
        *(f"output/odam_kd/fcos_lcnet_050_synthetic/{name}" for name in ("model_final.pth", "curves.png")),
        *("out/crowd_attention.png", "figure16.png"),
    ],
    "docs/measuring.md": [
        *(f"out/{name}" for name in ("index.html", "summary.json", "tables.md", "objects.csv", "curves.json")),
        *("out/curves.png", "checked/sanity.png", "checked/sanity.json", "study/objects.csv", "measured/index.html"),
    ],
    "docs/results/crowds.md": ["pairs/crowd_pairs.png"],
    "docs/results/detectors.md": ["output/fcos_nanodet_g.pth"],
    "docs/results/errors.md": ["errors/index.html"],
    "docs/results/maps.md": ["out_phi/index.html", "checked/sanity.png", "bbam/tables.md"],
    "docs/results/people.md": ["attention/tables.md", "power.png"],
    "projects/ODAM/README.md": ["table2/tables.md", "sanity/sanity.png"],
}
# Pages with code, but for those that have tests of their own.
WALKED = [page for page in PAGES if page not in OWN_TESTS and find_blocks(page)]


def run_lines(page, folder, monkeypatch):
    """The names that a page's only block of Python leaves behind."""
    (code,) = read_blocks(page, "python")
    monkeypatch.chdir(folder)
    names = {}
    exec(code, names)
    return names


def test_six_lines_of_python_explain_a_photograph(tmp_path, monkeypatch):
    (code,) = read_blocks("README.md", "python")
    assert len([line for line in code.splitlines() if line]) == 6
    Image.open("docs/chelsea.png").convert("RGB").crop((0, 0, 320, 240)).save(tmp_path / "photo.jpg")
    explanation = run_lines("README.md", tmp_path, monkeypatch)["explanation"]
    assert tuple(explanation.maps["x2"].shape) == (len(explanation.instances), 240, 320)
    assert (explanation.instances.scores > 0.5).all()
    assert explanation.values["class_score[dog]"].shape == explanation.instances.scores.shape
    with Image.open("why/sheet.png") as sheet:
        assert sheet.mode == "RGB" and sheet.width > 320
    for name in ("maps.npz", "detections.json"):
        assert Path("why", name).is_file()
    assert len(list(Path("why").glob("*.png"))) == 1 + 3 * len(explanation)


def test_the_zoo_gives_what_its_page_says(tmp_path, monkeypatch):
    names = run_lines("configs/README.md", tmp_path, monkeypatch)
    assert type(names["model"]).__name__ == "ODAMFCOS"
    assert names["cfg"].MODEL.META_ARCHITECTURE == "ODAMRetinaNet"


@pytest.mark.parametrize("page", PAGES)
def test_every_command_can_be_given(page):
    commands = [words for text in read_blocks(page, "bash") for words in split_commands(text)]
    for words in commands:
        check_command(words)
    configs = [words[words.index("--config-file") + 1] for words in commands if "--config-file" in words]
    for name in configs:
        # Configs of a reader's own, and those that another command of the page writes.
        if not name.startswith(("your", "output/")):
            load_config(name)


@pytest.mark.parametrize(
    "words", ["rm -r out", "odam forget", "bash scripts/absent.sh", "python scripts/benchmark.py absent"]
)
def test_a_command_that_nobody_knows_is_found(words):
    with pytest.raises((AssertionError, OSError)):
        check_command(words.split())


def test_commands_are_read_as_a_shell_reads_them():
    text = "odam explain --input 'a b' \\\n    --output x/  # a word\n\n# nothing\npip install .\n"
    assert split_commands(text) == [["odam", "explain", "--input", "a b", "--output", "x/"], ["pip", "install", "."]]


def test_smaller_settings_come_first():
    words = ["--dataset", "coco_2017_val", "--opts", "KEY", "1"]
    few = ["--max-images", "1", "--max-detections", "1"]
    assert make_smaller("sanity", words) == [*few, "--dataset", "coco_mini_val", "--opts", "KEY", "1"]


@pytest.mark.parametrize("page", [page for page in PAGES if page not in OWN_TESTS])
def test_every_yaml_holds_keys_that_exist(page, catalogs, tmp_path):
    for text in read_blocks(page, "yaml"):
        (tmp_path / "own.yaml").write_text(text)
        load_config(str(tmp_path / "own.yaml"))


@pytest.mark.parametrize("page", [page for page in OWN_TESTS if page in PAGES])
def test_pages_that_are_not_walked_have_tests_of_their_own(page):
    assert Path(OWN_TESTS[page]).is_file()


def anchors(page):
    """What a link can point to: headings as GitHub and mkdocs spell them."""
    headings = re.findall(r"^#+ (.+)$", Path(page).read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    text = re.sub(r"^```.*?^```", "", Path(page).read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"\w+:", target):
            continue
        file, _, anchor = target.partition("#")
        path = Path(page).parent / file if file else Path(page)
        if page.startswith("docs/"):
            inside = path.resolve().is_relative_to(Path("docs").resolve())
            assert inside, f"{target} leaves docs/, which is all that the site has"
            # The site's own build finds links to pages that are not there.
            if not path.exists():
                continue
        assert path.exists(), f"{target} is not there"
        if anchor.startswith("odam_d2."):  # of the API reference: the site's own build finds it
            continue
        assert not anchor or anchor in anchors(path), f"{target}: no such heading"


@pytest.mark.slow
@pytest.mark.parametrize("page", WALKED)
def test_all_code_of_a_page_runs_in_order(page, folder, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    walk(page)
    assert [name for name in LEAVES.get(page, []) if not (folder / name).exists()] == []
