"""``odam evaluate`` and ``odam sanity`` on a user's own datasets: one word of the command line, all three formats."""

import json

import pytest
import torch
from detectron2.modeling import build_model

from helpers import random_photo, small_cfg
from odam_d2.cli.evaluate import main as evaluate
from odam_d2.cli.sanity import main as sanity
from odam_d2.predictor import ODAMPredictor
from own_data import write_coco, write_odgt, write_voc

SIZE = (96, 128)
# One object each.
IMAGES = 2
ONE_CLASS = ["MODEL.FCOS.NUM_CLASSES", "1"]


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Of a random FCOS of one class."""
    torch.manual_seed(0)
    model = build_model(small_cfg("fcos", ONE_CLASS))
    # FCOS cuts negative distances to 0, and a box without a size is no detection.
    torch.nn.init.constant_(model.head.bbox_pred.bias, 2.0)
    path = tmp_path_factory.mktemp("one_class") / "fcos.pth"
    torch.save({"model": model.state_dict()}, path)
    return str(path)


@pytest.fixture(scope="module")
def words(weights, tmp_path_factory):
    """Format -> the word that describes a dataset of that detector's own detections, as whole pixels."""
    predictor = ODAMPredictor(small_cfg("fcos", [*ONE_CLASS, "MODEL.WEIGHTS", weights]))
    corners = []
    for number in range(IMAGES):
        found = predictor(random_photo(*SIZE, seed=number)[:, :, ::-1])["instances"]
        corners.append([int(value) for value in found.pred_boxes.tensor[0].round()])
    sides = [(x1, y1, x2 - x1, y2 - y1) for x1, y1, x2, y2 in corners]
    folder = tmp_path_factory.mktemp("own")
    # Corners of VOC's format count from 1.
    objects = {str(i): [("cell", (x1 + 1, y1 + 1, x2, y2), 0)] for i, (x1, y1, x2, y2) in enumerate(corners)}
    write_voc(folder / "voc", objects, {"val": list(objects)}, SIZE)
    return {
        "coco": "mine=" + write_coco(folder / "coco", {0: "cell"}, [(0, *box) for box in sides], SIZE),
        "odgt": "mine=" + write_odgt(folder / "odgt", {str(i): [box] for i, box in enumerate(sides)}, SIZE),
        "voc": f"mine=voc:{folder / 'voc'}:val",
    }


def command(word, weights, output, *more, opts=ONE_CLASS):
    base = ["--config-file", "quick/fcos.yaml", "--dataset", word, "--output", output, "--score-threshold", "0"]
    return [*base, *more, "--opts", "MODEL.WEIGHTS", weights, *opts]


@pytest.mark.parametrize("kind", ["coco", "odgt", "voc"])
def test_explanations_are_measured_on_all_formats_with_masks_where_there_are_some(kind, words, weights, call, tmp_path):
    # Photographs are stored as JPEG but for COCO's, and detections then move.
    more = ["--methods", "odam", "--iou-threshold", "0.3"]
    done = call(evaluate, *command(words[kind], weights, tmp_path / "out", *more))
    assert done.code == 0, done.err
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert 1 <= summary["counts"]["objects"] <= summary["counts"]["annotated"] == summary["counts"]["images"] == IMAGES
    assert summary["odam"]["enpg_box"] is not None
    assert (summary["odam"]["enpg_mask"] is not None) == (kind == "coco")
    header, first, *_ = (tmp_path / "out" / "objects.csv").read_text().splitlines()
    expected = "person" if kind == "odgt" else "cell"
    assert dict(zip(header.split(","), first.split(",")))["class"] == expected


@pytest.mark.parametrize("kind", ["coco", "odgt", "voc"])
def test_sanity_takes_all_formats(kind, words, weights, call, tmp_path):
    done = call(sanity, *command(words[kind], weights, tmp_path / "out", "--methods", "odam", "--max-images", "1"))
    assert done.code == 0, done.err
    content = json.loads((tmp_path / "out" / "sanity.json").read_text())
    assert content["methods"]["odam"]["detections"] > 0 and content["settings"]["dataset"] == words[kind]


def test_the_config_may_describe_what_the_command_line_names(words, weights, call, tmp_path):
    described = [*ONE_CLASS, "ODAM.DATASETS", f"['{words['coco']}']"]
    words = command("mine", weights, tmp_path / "out", "--methods", "odam", "--metrics", "enpg_box", opts=described)
    done = call(evaluate, *words)
    assert done.code == 0 and "2 objects in 2 of 2 images" in " ".join(done.out.split()), done.err


@pytest.mark.parametrize("main", [evaluate, sanity])
@pytest.mark.parametrize(
    ("word", "opts", "said"),
    [
        (
            "{coco}",
            [],
            "the dataset mine has 1 class (cell), and the detector has 80; set MODEL.FCOS.NUM_CLASSES to 1, or",
        ),
        ("mine=a.json", ONE_CLASS, "'a.json' names no folder of images; write mine=ann.json:images/"),
        ("mine=a.json:b", ONE_CLASS, "there is no annotation file a.json; paths in ODAM.DATASETS start at "),
        ("mine=voc:absent", ONE_CLASS, "there is no folder absent/Annotations"),
        ("coco_mini_val=voc:absent", ONE_CLASS, "there is a dataset coco_mini_val already, and it is not voc:absent"),
        ("mine", ONE_CLASS, "unknown dataset 'mine'"),
    ],
)
def test_each_mistake_is_one_sentence_before_any_weights_are_read(main, word, opts, said, words, call, tmp_path):
    done = call(main, *command(word.format(**words), "absent.pth", tmp_path / "out", opts=opts))
    if word == "mine":
        # What is not described is looked up later.
        assert done.code == 1 and "absent.pth" in done.err
        return
    assert done.code == 1 and not done.out and said in done.err
    assert done.err.startswith("error: ") and done.err.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("empty_catalogs")
def test_registered_classes_that_are_not_the_detectors_first_are_refused(quick_weights, call, tmp_path, monkeypatch):
    write_voc(tmp_path / "bccd", {"a": [("RBC", (1, 2, 30, 40), 0)]}, {"val": ["a"]})
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    done = call(evaluate, *command("bccd_val", quick_weights("fcos"), tmp_path / "out", "--methods", "odam", opts=[]))
    assert done.code == 1 and "the dataset bccd_val names 3 classes and the detector has 80" in done.err
    assert done.err.count("\n") == 1
