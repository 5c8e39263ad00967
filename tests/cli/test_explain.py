"""``odam explain``: what it writes, and what it says when something is wrong."""

import json
import os
import re
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


def lines(out):
    """The entries of a folder: of the images that were explained, and of those that were left out."""
    entries = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    explained, left_out = ([e for e in entries if ("left_out" in e) is out] for out in (False, True))
    return explained, left_out


def facts(out):
    return json.loads((out / "run.json").read_text())["run"]


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for i, size in enumerate([(75, 133), (120, 90)]):
        Image.fromarray(random_photo(*size, seed=i)).save(folder / f"photo {i}.png")
    return folder


def test_a_folder_gives_maps_lines_sheets_page_and_table(photos, quick_weights, tmp_path, run):
    (photos / "broken.jpg").write_bytes(b"\xff\xd8\xff not a photograph")
    out = tmp_path / "out"
    done = run(*command("fcos", quick_weights("fcos"), [photos], out, "--sheets", "--targets", "class_score,", "x2"))
    assert done.code == 0, done.err
    assert "broken.jpg" in done.err and "Traceback" not in done.err
    assert "2 images" in done.out and "ms / map" in done.out
    explained, left_out = lines(out)
    assert [entry["name"] for entry in explained] == ["photo 0", "photo 1"]
    assert [entry["file"].endswith("broken.jpg") for entry in left_out] == [True]
    assert len(facts(out)["weights_sha256"]) == 64 and facts(out)["targets"] == ["class_score", "x2"]
    for entry, size in zip(explained, [(75, 133), (120, 90)]):
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
    ((entry,), _) = lines(tmp_path / "out")
    assert len(entry["scores"]) == 2
    # Nobody asked for a contact sheet.
    assert "sheet" not in entry and not (tmp_path / "out" / "sheets").exists()


def test_drise_explains_whole_detections(photos, quick_weights, tmp_path, run):
    words = [*command("faster_rcnn", quick_weights("faster_rcnn"), [photos], tmp_path / "out", "--method", "drise")]
    done = run(*words, "ODAM.EXPLAIN.DRISE_MASKS", "4", "ODAM.EXPLAIN.CONFIDENCE_THRESHOLD", "0.0")
    assert done.code == 0, done.err
    run_facts = facts(tmp_path / "out")
    assert run_facts["masks"] == 4 and run_facts["targets"] == ["class_score"]
    # It has no layer, and its maps are not smoothed.
    assert not {"layer", "smoothing"} & set(run_facts)
    page = (tmp_path / "out" / "index.html").read_text()
    assert "why this box with this class" in page and "why this class" not in page
    raw = np.load(tmp_path / "out" / "maps" / "photo 0.npz")
    assert raw["stride"] == 1 and raw["class_score"].shape == (len(raw["scores"]), *raw["network_size"])
    refused = run(*words[:-3], "--targets", "x1", *words[-3:])
    assert refused.code == 1 and "not 'x1'" in refused.err and len(refused.err.splitlines()) == 1


def test_bbam_explains_both_heads_unless_asked_for_one(photos, quick_weights, tmp_path, run):
    photo = photos / "photo 0.png"
    words = command("faster_rcnn", quick_weights("faster_rcnn"), [photo], tmp_path / "out", "--method", "bbam")
    opts = ["ODAM.EXPLAIN.BBAM_STEPS", "2", "ODAM.EXPLAIN.CONFIDENCE_THRESHOLD", "0.0"]
    opts += ["ODAM.EXPLAIN.MAX_INSTANCES", "2"]
    done = run(*words, *opts)
    assert done.code == 0, done.err
    run_facts = facts(tmp_path / "out")
    assert run_facts["steps"] == 2 and run_facts["targets"] == ["combined"]
    assert "the least that keeps class and box" in (tmp_path / "out" / "index.html").read_text()
    raw = np.load(tmp_path / "out" / "maps" / "photo 0.npz")
    assert 16 <= raw["stride"] <= 64 and raw["combined"].shape[0] == 2 and raw["combined"].max() <= 1
    one = command("faster_rcnn", quick_weights("faster_rcnn"), [photo], tmp_path / "one", "--method", "bbam")
    done = run(*one[:-3], "--targets", "x1", *one[-3:], *opts)
    assert done.code == 0 and facts(tmp_path / "one")["targets"] == ["x1"], done.err


def test_a_class_that_was_given_by_its_number_has_its_name_in_all_results(photos, quick_weights, tmp_path, run):
    words = command("fcos", quick_weights("fcos"), [photos / "photo 0.png"], tmp_path / "out")
    done = run(*words[:-3], "--targets", "class_score[16],class_logit[traffic light]", *words[-3:])
    assert done.code == 0, done.err
    targets = ["class_score[dog]", "class_logit[traffic light]"]
    assert facts(tmp_path / "out")["targets"] == targets
    with np.load(tmp_path / "out" / "maps" / "photo 0.npz") as raw:
        assert set(targets) < set(raw)
    page = (tmp_path / "out" / "index.html").read_text()
    assert "what speaks for dog" in page and '"dog 0.' in page


def test_no_detections_give_an_honest_page(photos, quick_weights, tmp_path, run):
    words = command("fcos", quick_weights("fcos"), [photos], tmp_path / "out", "--confidence-threshold", "1")
    done = run(*words)
    assert done.code == 0, done.err
    explained, _ = lines(tmp_path / "out")
    assert [entry["boxes"] for entry in explained] == [[], []]
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
        (["--method", "bbam"], "published for two-stage detectors, and ODAMFCOS pools none"),
        (
            ["--method", "bbam", "--targets", "class_logit"],
            "bbam has no target 'class_logit'; its targets are combined",
        ),
        (["--method", "lime"], "'lime'"),
        (["--layer", "res9"], "'res9'"),
        (["--max-instances", "0"], "--max-instances"),
        (["--confidence-threshold", "2"], "--confidence-threshold is 2.0"),
        (["--config-file", "configs/absent.yaml"], "configs/absent.yaml"),
        (["--input", "absent.png"], "absent.png"),
        (["--num-gpus", "0"], "--num-gpus is 0"),
        (["--num-machines", "2", "--machine-rank", "2"], "--machine-rank is 2; it must lie between 0 and 1"),
        (["--num-machines", "2"], "give --dist-url tcp://"),
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


def test_only_unusable_images_is_a_failure_with_its_lines(quick_weights, tmp_path, run):
    (tmp_path / "empty.png").write_bytes(b"")
    done = run(*command("fcos", quick_weights("fcos"), [tmp_path / "empty.png"], tmp_path / "out"))
    assert done.code != 0 and "empty.png" in done.err
    explained, left_out = lines(tmp_path / "out")
    assert not explained and "empty.png is empty" in left_out[0]["left_out"]
    assert "There is nothing to show" in (tmp_path / "out" / "index.html").read_text()


def test_output_that_cannot_be_written_is_refused_before_any_work(photos, quick_weights, tmp_path, run):
    (tmp_path / "file").write_text("in the way")
    done = run(*command("fcos", quick_weights("fcos"), [photos], tmp_path / "file" / "out"))
    assert done.code != 0 and "file" in done.err and "Traceback" not in done.err
    assert (tmp_path / "file").read_text() == "in the way"


def stopped(words, out, sign, count=1):
    """The command, sent a signal as soon as that many images have their line."""
    process = subprocess.Popen(
        [sys.executable, "-m", "odam_d2.cli", "explain", *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # As many threads as in this process: sums in another order differ in their last digits.
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        # A shell that runs the tests in the background has SIGINT ignored, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    results = out / "results.jsonl"
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline and not (results.exists() and results.read_bytes().count(b"\n") >= count):
        time.sleep(0.02)
    process.send_signal(sign)
    _, stderr = process.communicate(timeout=60)
    return process.returncode, stderr


@pytest.fixture
def many(tmp_path):
    folder = tmp_path / "many"
    folder.mkdir()
    for i in range(60):
        Image.fromarray(random_photo(75, 133, seed=i % 3)).save(folder / f"{i:03d}.png")
    return folder


@pytest.mark.slow
def test_ctrl_c_keeps_what_is_finished(many, quick_weights, tmp_path):
    out = tmp_path / "out"
    code, stderr = stopped(command("fcos", quick_weights("fcos"), [many], out), out, signal.SIGINT)
    assert code == 130, stderr
    assert "interrupted" in stderr and "--resume goes on" in stderr and "Traceback" not in stderr
    entries, _ = lines(out)
    assert 0 < len(entries) < 60
    assert all((out / entry["maps"]).exists() for entry in entries)
    assert (out / "index.html").read_text().count('id="summary-') == len(entries)


@pytest.mark.slow
def test_a_killed_run_goes_on_with_nothing_lost_and_nothing_twice(many, quick_weights, tmp_path, run):
    (many / "broken.jpg").write_bytes(b"")
    out, whole = tmp_path / "out", tmp_path / "whole"
    words = command("fcos", quick_weights("fcos"), [many], out, "--targets", "x1")
    code, _ = stopped(words, out, signal.SIGKILL, count=5)
    assert code == -signal.SIGKILL and not (out / "index.html").exists()
    refused = run(*words)
    assert refused.code == 1 and "add --resume to go on" in refused.err
    other = run(*command("fcos", quick_weights("fcos"), [many], out, "--resume", "--targets", "x2"))
    assert other.code == 1 and "was made with targets ['x1'], not ['x2']" in other.err
    same = command("fcos", quick_weights("fcos"), [many], out, "--resume", "--targets", "x1")
    other = run(*same, "INPUT.MIN_SIZE_TEST", "50")
    assert other.code == 1 and "INPUT.MIN_SIZE_TEST" in other.err and len(other.err.splitlines()) == 1
    done = run(*same)
    assert done.code == 0, done.err
    assert run(*command("fcos", quick_weights("fcos"), [many], whole, "--targets", "x1")).code == 0
    assert same_results(out) == same_results(whole)
    assert len(lines(out)[0]) == 60 and len(lines(out)[1]) == 1
    page = (out / "index.html").read_text()
    names = [json.loads(text)["name"] for text in re.findall(r'id="summary-\d+">(.*?)</script>', page)]
    assert names == [f"{i:03d}.png" for i in range(60)]
    # Nothing is left to do, and nothing is done.
    before = (out / "results.jsonl").read_bytes()
    again = run(*same)
    assert again.code == 0 and "61 of these images were there before" in again.out
    assert (out / "results.jsonl").read_bytes() == before


def same_results(out):
    """All that two runs of the same have in common: no times, and no places of files."""
    apart = ("seconds_detection", "seconds_maps", "page", "page_bytes")
    entries = [{key: e[key] for key in e if key not in apart} for found in lines(out) for e in found]
    maps = {}
    for entry in entries:
        if "maps" in entry:
            with np.load(out / entry["maps"]) as raw:
                maps[entry["file"]] = {key: raw[key].tolist() for key in raw}
    return sorted(entries, key=lambda entry: entry["file"]), maps


def test_the_table_says_what_the_user_waited_for(photos, quick_weights, tmp_path, run):
    start = time.perf_counter()
    done = run(*command("fcos", quick_weights("fcos"), [photos], tmp_path / "out", "--targets", "x1"))
    waited = time.perf_counter() - start
    words = re.search(r"([\d.]+) s to start, then ([\d.]+) s for 2 images, all written, ([\d.]+) s an image", done.out)
    first, rest, each = (float(word) for word in words.groups())
    assert 0 <= first + rest <= waited + 0.1 and each == pytest.approx(rest / 2, abs=0.051)
    explained, _ = lines(tmp_path / "out")
    # Detection and maps are a part of it.
    assert sum(entry["seconds_detection"] + entry["seconds_maps"] for entry in explained) <= rest + 0.05


@pytest.mark.slow
def test_two_processes_give_what_one_gives(photos, quick_weights, tmp_path, run):
    for i in range(2, 7):
        Image.fromarray(random_photo(75, 133, seed=i)).save(photos / f"photo {i}.png")
    (photos / "broken.jpg").write_bytes(b"")
    words = command("fcos", quick_weights("fcos"), [photos], tmp_path / "one", "--targets", "class_score,combined")
    assert run(*words).code == 0
    words = command("fcos", quick_weights("fcos"), [photos], tmp_path / "two", "--targets", "class_score,combined")
    line = [sys.executable, "-m", "odam_d2.cli", "explain", *map(str, [*words[:-3], "--num-gpus", "2", *words[-3:]])]
    done = subprocess.run(line, capture_output=True, text=True, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0 and "7 images" in done.stdout, done.stderr
    assert done.stderr.count("left out:") == 1
    assert same_results(tmp_path / "two") == same_results(tmp_path / "one")
    assert [entry["name"] for entry in lines(tmp_path / "two")[0]] == [f"photo {i}" for i in range(7)]
    assert not list((tmp_path / "two").glob("results.*.jsonl"))
    index = (tmp_path / "two" / "index.html").read_text()
    # The broken one comes first.
    assert index.count("pages/00-0000.html#image=") == 3 and index.count("pages/01-0000.html#image=") == 4
