"""``odam explain``: what it writes, and what it says when something is wrong."""

import json
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from helpers import random_photo
from odam_d2.cli.explain import main


@pytest.fixture
def run(call):
    return lambda *words: call(main, *words)


def command(kind, weights, images, output, *more):
    base = ["--config-file", f"configs/quick/{kind}.yaml", "--output", output, "--input", *images]
    return [*base, *more, "--opts", "MODEL.WEIGHTS", weights]


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for i, size in enumerate([(75, 133), (120, 90)]):
        Image.fromarray(random_photo(*size, seed=i)).save(folder / f"photo {i}.png")
    return folder


def test_a_folder_gives_sheets_maps_manifest_page_and_table(photos, quick_weights, tmp_path, run):
    (photos / "broken.jpg").write_bytes(b"\xff\xd8\xff not a photograph")
    out = tmp_path / "out"
    done = run(*command("fcos", quick_weights("fcos"), [photos], out, "--targets", "class_score,", "x2"))
    assert done.code == 0, done.err
    assert "broken.jpg" in done.err and "Traceback" not in done.err
    assert "2 images" in done.out and "ms / map" in done.out
    manifest = json.loads((out / "manifest.json").read_text())
    assert [i["name"] for i in manifest["images"]] == ["photo 0", "photo 1"]
    assert [f["file"].endswith("broken.jpg") for f in manifest["failed"]] == [True]
    assert len(manifest["run"]["weights_sha256"]) == 64 and manifest["run"]["targets"] == ["class_score", "x2"]
    assert sum(line.startswith('{"name"') for line in (out / "manifest.json").read_text().splitlines()) == 2
    for entry, size in zip(manifest["images"], [(75, 133), (120, 90)]):
        maps = np.load(out / entry["maps"])
        count = len(entry["scores"])
        assert count == len(entry["boxes"]) == len(entry["classes"]) > 0
        assert entry["size"] == [size[1], size[0]] and maps["image_size"].tolist() == list(size)
        for target in ("class_score", "x2"):
            assert maps[target].shape[0] == count and maps[target].min() >= 0
        assert Image.open(out / entry["sheet"]).size[0] > 300
    assert "photo 1.png" in (out / "index.html").read_text()


def test_limits_and_layers_of_a_two_stage_detector(photos, quick_weights, tmp_path, run):
    words = command("faster_rcnn", quick_weights("faster_rcnn"), [photos / "photo 0.png"], tmp_path / "out")
    options = ["--max-instances", "2", "--layer", "roi_pool", "--method", "gradcam++", "--targets", "combined"]
    done = run(*words[:-3], *options, *words[-3:])
    assert done.code == 0, done.err
    (entry,) = json.loads((tmp_path / "out" / "manifest.json").read_text())["images"]
    assert len(entry["scores"]) == 2


def test_drise_explains_whole_detections(photos, quick_weights, tmp_path, run):
    words = [*command("faster_rcnn", quick_weights("faster_rcnn"), [photos], tmp_path / "out", "--method", "drise")]
    done = run(*words, "ODAM.EXPLAIN.DRISE_MASKS", "4", "ODAM.EXPLAIN.CONFIDENCE_THRESHOLD", "0.0")
    assert done.code == 0, done.err
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["run"]["masks"] == 4 and manifest["run"]["targets"] == ["class_score"]
    # It has no layer, and its maps are not smoothed.
    assert not {"features", "smoothing"} & set(manifest["run"])
    page = (tmp_path / "out" / "index.html").read_text()
    assert "why this box with this class" in page and "why this class" not in page
    raw = np.load(tmp_path / "out" / "maps" / "photo 0.npz")
    assert raw["stride"] == 1 and raw["class_score"].shape == (len(raw["scores"]), *raw["network_size"])
    refused = run(*words[:-3], "--targets", "x1", *words[-3:])
    assert refused.code == 1 and "not 'x1'" in refused.err and len(refused.err.splitlines()) == 1


def test_a_class_that_was_given_by_its_number_has_its_name_in_all_results(photos, quick_weights, tmp_path, run):
    words = command("fcos", quick_weights("fcos"), [photos / "photo 0.png"], tmp_path / "out")
    done = run(*words[:-3], "--targets", "class_score[16],class_logit[traffic light]", *words[-3:])
    assert done.code == 0, done.err
    targets = ["class_score[dog]", "class_logit[traffic light]"]
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["run"]["targets"] == targets
    with np.load(tmp_path / "out" / "maps" / "photo 0.npz") as raw:
        assert set(targets) < set(raw)
    page = (tmp_path / "out" / "index.html").read_text()
    assert "what speaks for dog" in page and '"dog 0.' in page


def test_no_detections_give_an_honest_page(photos, quick_weights, tmp_path, run):
    words = command("fcos", quick_weights("fcos"), [photos], tmp_path / "out", "--confidence-threshold", "1")
    done = run(*words)
    assert done.code == 0, done.err
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert [i["boxes"] for i in manifest["images"]] == [[], []]
    assert (tmp_path / "out" / "index.html").stat().st_size > 1000


def test_same_name_in_two_folders_keeps_both(photos, quick_weights, tmp_path, run):
    other = tmp_path / "other"
    other.mkdir()
    (other / "photo 0.png").write_bytes((photos / "photo 1.png").read_bytes())
    inputs = [photos / "photo 0.png", other / "photo 0.png"]
    done = run(*command("fcos", quick_weights("fcos"), inputs, tmp_path / "out", "--targets", "class_score"))
    assert done.code == 0, done.err
    assert sorted(p.stem for p in (tmp_path / "out" / "maps").iterdir()) == ["photo 0", "photo 0_2"]


@pytest.mark.parametrize(
    ("change", "culprit"),
    [
        (["--targets", "size"], "'size'"),
        (["--targets", ","], "--targets"),
        (["--targets", "class_score[dgo]"], "the closest of its 80 classes are dog"),
        (["--method", "drise", "--targets", "class_score[dog]"], "not 'class_score[dog]'"),
        (["--method", "drise", "--layer", "res4"], "no layers"),
        (["--method", "lime"], "'lime'"),
        (["--layer", "res9"], "'res9'"),
        (["--max-instances", "0"], "--max-instances"),
        (["--confidence-threshold", "2"], "--confidence-threshold is 2.0"),
        (["--config-file", "configs/absent.yaml"], "configs/absent.yaml"),
        (["--input", "absent.png"], "absent.png"),
    ],
)
def test_each_mistake_is_one_sentence_that_names_the_culprit(change, culprit, photos, quick_weights, tmp_path, run):
    words = command("fcos", quick_weights("fcos"), [photos], tmp_path / "out")
    done = run(*words[:-3], *change, *words[-3:])
    assert done.code != 0
    assert culprit in done.err and "Traceback" not in done.err
    assert len(done.err.strip().splitlines()) == 1, done.err


@pytest.mark.parametrize(
    ("opts", "culprit"),
    [
        (["MODEL.WEIGHTS", "absent.pth"], "absent.pth"),
        (["MODEL.WEIGHTS", "README.md"], "weights README.md cannot be used: PyTorch cannot read them"),
        (["MODEL.WEIGHTS", ""], "MODEL.WEIGHTS"),
        (["MODEL.NOTHING", "1"], "MODEL.NOTHING"),
        (["MODEL.FCOS.NUM_CLASSES", "7"], "head.cls_score"),
    ],
)
def test_wrong_options_are_one_sentence_that_names_the_culprit(opts, culprit, photos, quick_weights, tmp_path, run):
    done = run(*command("fcos", quick_weights("fcos"), [photos], tmp_path / "out"), *opts)
    assert done.code != 0
    assert culprit in done.err and "Traceback" not in done.err
    assert len(done.err.strip().splitlines()) == 1, done.err


def test_only_unusable_images_is_a_failure_with_a_valid_manifest(quick_weights, tmp_path, run):
    (tmp_path / "empty.png").write_bytes(b"")
    done = run(*command("fcos", quick_weights("fcos"), [tmp_path / "empty.png"], tmp_path / "out"))
    assert done.code != 0 and "empty.png" in done.err
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["images"] == []


def test_output_that_cannot_be_written_is_refused_before_any_work(photos, quick_weights, tmp_path, run):
    (tmp_path / "file").write_text("in the way")
    done = run(*command("fcos", quick_weights("fcos"), [photos], tmp_path / "file" / "out"))
    assert done.code != 0 and "file" in done.err and "Traceback" not in done.err
    assert (tmp_path / "file").read_text() == "in the way"


def test_ctrl_c_keeps_what_is_finished(quick_weights, tmp_path):
    photos = tmp_path / "many"
    photos.mkdir()
    for i in range(200):
        Image.fromarray(random_photo(75, 133, seed=i)).save(photos / f"{i:03d}.png")
    out = tmp_path / "out"
    words = command("fcos", quick_weights("fcos"), [photos], out)
    process = subprocess.Popen(
        [sys.executable, "-m", "odam_d2.cli", "explain", *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell that runs the tests in the background has SIGINT ignored, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 90
    while not (out / "manifest.json").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    assert "interrupted" in stderr and "Traceback" not in stderr
    entries = json.loads((out / "manifest.json").read_text())["images"]
    assert 0 < len(entries) < 200
    for entry in entries:
        assert (out / entry["maps"]).exists() and (out / entry["sheet"]).exists()
    assert (out / "index.html").exists()
