"""What an explanation shows and writes, from maps whose pictures can be worked out by hand."""

import base64
import gc
import html
import io
import json
import re
import tracemalloc

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances
from matplotlib.backends.backend_agg import RendererAgg
from PIL import Image

from odam_d2.explain import ExplainSettings
from odam_d2.explanation import Explanation
from odam_d2.show.overlays import LUT, PALETTE
from odam_d2.structures import Grid, HeatMaps

GREY = 100
# A photograph of this grey without heat is 0.6 of it, with all heat .25 of that and .75 of the brightest colour.
COLD = [60, 60, 60]
HOT = [round(0.25 * 60 + 0.75 * int(value)) for value in LUT[255]]
HEIGHT, WIDTH = 240, 320
BOXES = [[16.0, 24.0, 144.0, 216.0], [180.0, 100.0, 300.125, 200.0]]
# Cells of 8 pixels.
PEAKS = {"class_score": [(10, 10), (20, 30)], "class_score[dog]": [(25, 5), (15, 25)]}


def peaked(cells, height=HEIGHT, width=WIDTH, background=None, output_size=None):
    """Maps of 8-pixel cells: 3 in three by three cells around a place of each, elsewhere the background or 0."""
    maps = torch.zeros(len(cells), height // 8, width // 8)
    if background is not None:
        maps += torch.tensor(background)[:, None, None]
    for row, (y, x) in enumerate(cells):
        maps[row, y - 1 : y + 2, x - 1 : x + 2] = 3.0
    grid = Grid(maps, torch.arange(len(cells)), stride=8)
    return HeatMaps(
        grids=(grid,),
        boxes=torch.tensor(BOXES)[: len(cells)],
        image_size=(height, width),
        padded_size=(height, width),
        output_size=output_size or (height, width),
        background=None if background is None else torch.tensor(background),
    )


def explanation(count=2, targets=PEAKS, **changes):
    found = Instances((HEIGHT, WIDTH))
    found.pred_boxes = Boxes(torch.tensor(BOXES)[:count])
    found.scores = torch.tensor([0.875, 0.5])[:count]
    found.pred_classes = torch.tensor([2, 1])[:count]
    values = {
        "image": np.full((HEIGHT, WIDTH, 3), GREY, np.uint8),
        "instances": found,
        "heat_maps": {target: peaked(cells[:count]) for target, cells in targets.items()},
        "settings": ExplainSettings(layer="res4"),
        "class_names": ["cat", "dog", "traffic light"],
        "levels": ["p3", "p4"][:count],
        "values": {
            "class_score": torch.tensor([0.875, 0.5])[:count],
            "class_score[dog]": torch.tensor([0.015625, 0.5])[:count],
        },
    }
    return Explanation(**{**values, **changes})


def center(cell):
    """The pixel in the middle of a cell."""
    return cell[0] * 8 + 4, cell[1] * 8 + 4


def png(path):
    with Image.open(path) as image:
        assert image.mode == "RGB"
        return np.asarray(image)


def test_words_for_people():
    own = explanation()
    assert len(own) == 2 and own.names == ["traffic light", "dog"]
    assert own.labels == ["traffic light 0.88", "dog 0.50"]
    assert own.captions == {"class_score[dog]": ["dog 0.02", "dog 0.50"]}
    assert own.meanings == {"class_score": "why this class", "class_score[dog]": "what speaks for dog"}
    assert own.method == "odam" and own.layer == "res4"
    assert repr(own) == (
        "Explanation(2 detections in 240 x 320 pixels: traffic light 0.88, dog 0.50; class_score, class_score[dog]; "
        "method odam, layer res4, smoothing none, path exact)"
    )
    masks = explanation(targets={"class_score": PEAKS["class_score"]}, settings=ExplainSettings("drise"))
    assert masks.meanings == {"class_score": "why this box with this class"} and masks.layer is None


# ---- maps --------------------------------------------------------------------------------------------------------


def test_maps_are_made_when_they_are_asked_for():
    maps = explanation().maps
    assert list(maps) == ["class_score", "class_score[dog]"] and len(maps) == 2
    assert repr(maps) == "ImageMaps(class_score, class_score[dog]: each (2, 240, 320))"
    own = maps["class_score"]
    assert own.shape == (2, HEIGHT, WIDTH) and own.dtype == torch.float32
    for row, cell in enumerate(PEAKS["class_score"]):
        assert own[row][center(cell)] == 1 and own[row, -1, 0] == 0
    assert maps["class_score"] is not own
    with pytest.raises(KeyError):
        maps["x1"]


@pytest.mark.parametrize("size", [(3000, 4000), (100, 80)])
def test_a_sheet_never_makes_maps_larger_than_its_cells(size, monkeypatch):
    made = []
    to_image = HeatMaps.to_image

    def counted(self, wanted=None, rows=None):
        made.append(wanted)
        return to_image(self, wanted, rows)

    monkeypatch.setattr(HeatMaps, "to_image", counted)
    large = {name: peaked(cells, output_size=size) for name, cells in PEAKS.items()}
    explanation(heat_maps=large, image=np.full((*size, 3), GREY, np.uint8)).show()
    # 3000 x 4000 fits into a cell of 320 as 240 x 320.
    assert made == [(240, 320) if size == (3000, 4000) else size] * 2


# ---- pictures ----------------------------------------------------------------------------------------------------


def test_a_sheet_shows_each_detections_map_of_each_target():
    sheet = explanation().show()
    assert sheet.dtype == np.uint8
    # Cells of 320 x 240 with 10 pixels between them, the photograph first.
    assert sheet.shape[1] == 10 + 3 * 330
    for row in range(2):
        for column, cells in enumerate(PEAKS.values(), 1):
            top, left = sheet.shape[0] - (2 - row) * 250, 10 + column * 330
            cell = sheet[top : top + 240, left : left + 320]
            assert cell[center(cells[row])].tolist() == pytest.approx(HOT, abs=1)
            assert cell[-1, 0].tolist() == COLD


def test_a_map_of_another_class_says_on_the_sheet_how_much_of_it_there_is():
    usual, other = explanation(), explanation(values={"class_score[dog]": torch.tensor([0.25, 0.5])})
    rows, columns = np.nonzero((usual.show() != other.show()).any(axis=2))
    # The first detection's map of this target alone, at the upper left of its box: (16,24) in its cell.
    top, left = usual.show().shape[0] - 500, 10 + 2 * 330
    assert len(rows) and top <= rows.min() and rows.max() < top + 30
    assert left + 16 <= columns.min() and columns.max() < left + 16 + 80


def test_the_photograph_keeps_its_colours():
    blue_in_bgr = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    blue_in_bgr[:, :, 0] = 200
    own = explanation(image=blue_in_bgr)
    sheet = own.show()
    assert sheet[-1 - 10, 10].tolist() == [0, 0, 200]
    # A dimmed photograph is greyer, but blue as before: 0.6 (.35 * 200 + .65 * .072 * 200) and without the first term.
    assert own.overlay(0, "class_score")[-1, 0].tolist() == [6, 6, 48]


@pytest.mark.parametrize("target", list(PEAKS))
@pytest.mark.parametrize("row", [0, 1])
def test_an_overlay_is_hot_where_the_map_is_and_shows_the_photograph_elsewhere(row, target):
    picture = explanation().overlay(row, target)
    assert picture.shape == (HEIGHT, WIDTH, 3) and picture.dtype == np.uint8
    assert picture[center(PEAKS[target][row])].tolist() == pytest.approx(HOT, abs=1)
    assert picture[-1, 0].tolist() == pytest.approx(COLD, abs=1)
    # The other detection's place is cold.
    assert picture[center(PEAKS[target][1 - row])].tolist() == pytest.approx(COLD, abs=1)


@pytest.mark.parametrize("row", [0, 1])
def test_an_overlay_draws_the_box_in_its_colour_of_the_sheet(row):
    own = explanation()
    picture = own.overlay(row, "class_score")
    x1, _, x2, y2 = BOXES[row]
    # Lines of some pixels; matplotlib centres them on the side.
    middle = round((x1 + x2) / 2)
    line = picture[round(y2) - 2 : round(y2) + 2, middle].astype(int)
    assert np.abs(line - PALETTE[row]).max(axis=1).min() <= 2
    assert np.array_equal(picture, own.overlay(row, "class_score"))


def test_an_overlay_of_a_large_photograph_takes_little_more_than_the_photograph():
    size = (1500, 2000)
    maps = peaked(PEAKS["class_score"], output_size=size)
    own = explanation(image=np.full((*size, 3), GREY, np.uint8), heat_maps={"class_score": maps})
    own.overlay(0, "class_score")  # fonts are read once
    tracemalloc.start()
    picture = own.overlay(0, "class_score")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # Bytes a pixel of NumPy's arrays: the photograph as RGB, the overlay, Visualizer's copy, and the overlay with its
    # box take 12. matplotlib's own way with a picture takes a hundred.
    assert picture.shape == (*size, 3) and peak < 20 * size[0] * size[1]


def test_hundreds_of_overlays_leave_no_canvas_behind():
    def canvases():
        return sum(isinstance(thing, RendererAgg) for thing in gc.get_objects())

    own = explanation()
    gc.collect()
    gc.disable()
    try:
        before = canvases()
        for _ in range(3):
            own.overlay(0, "class_score")
        assert canvases() == before
    finally:
        gc.enable()


def test_an_overlay_says_what_its_map_is_about():
    same = {name: peaked(PEAKS["class_score"]) for name in ("class_score", "x1", "class_score[dog]")}
    own = explanation(heat_maps=same)
    pictures = [own.overlay(0, target) for target in same]
    for other in pictures[1:]:
        rows, columns = np.nonzero((pictures[0] != other).any(axis=2))
        # One map: they differ in the label alone, which begins at the box's upper left corner, (16,24).
        assert len(rows) and 20 <= rows.min() and rows.max() < 50 and columns.min() > 16


@pytest.mark.parametrize("box", [[300.0, 230.0, 319.0, 239.0], [0.0, 0.0, 9.0, 9.0], [310.0, 0.0, 320.0, 240.0]])
def test_a_label_lies_inside_the_picture_wherever_the_box_is(box):
    own = explanation(count=1)
    own.instances.pred_boxes = Boxes(torch.tensor([box]))
    x1, y1, x2, y2 = (round(v) for v in box)
    changed = (own.overlay(0, "class_score") != explanation(count=1).overlay(0, "class_score")).any(axis=2)
    changed[24 - 4 : 216 + 4, 16 - 4 : 200] = False  # the other box, and its label
    changed[max(0, y1 - 4) : y2 + 4, max(0, x1 - 4) : x2 + 4] = False
    columns = np.nonzero(changed)[1]
    # "traffic light 0.88: class_score", all of it: the text is more than half of 320 pixels wide.
    assert np.ptp(columns) > 160 or x1 == 0


def test_a_map_of_zeros_leaves_the_photograph():
    nothing = peaked(PEAKS["class_score"])
    nothing.grids[0].maps.zero_()
    picture = explanation(heat_maps={"class_score": nothing}).overlay(0, "class_score")
    assert picture[center(PEAKS["class_score"][0])].tolist() == COLD


def test_what_does_not_matter_is_cold_also_where_a_method_gives_it_a_value():
    # D-RISE's maps lie around the mean weight: 2 for the first detection, 1 for the second.
    maps = peaked(PEAKS["class_score"], background=[2.0, 1.0])
    own = explanation(heat_maps={"class_score": maps}, settings=ExplainSettings("drise"))
    for row, cell in enumerate(PEAKS["class_score"]):
        picture = own.overlay(row, "class_score")
        assert picture[center(cell)].tolist() == pytest.approx(HOT, abs=1)
        assert picture[-1, 0].tolist() == pytest.approx(COLD, abs=1)
        assert own.maps["class_score"][row, -1, 0] == 0 and own.maps["class_score"][row][center(cell)] == 1
    sheet = own.show()
    assert sheet[-1 - 10, 340].tolist() == COLD


@pytest.mark.parametrize(
    ("row", "target", "message"),
    [
        (0, "x1", "there is no map of 'x1'; explained were class_score, class_score"),
        (2, "class_score", "there is no detection 2; 2 were explained"),
        (-1, "class_score", "there is no detection -1"),
    ],
)
def test_an_overlay_of_nothing_is_refused(row, target, message):
    with pytest.raises(ValueError, match=message):
        explanation().overlay(row, target)


# ---- files -------------------------------------------------------------------------------------------------------


def test_save_writes_overlays_maps_detections_and_the_sheet(tmp_path):
    own = explanation()
    folder = own.save(tmp_path / "new" / "folder")
    assert folder == tmp_path / "new" / "folder"
    assert sorted(path.name for path in folder.iterdir()) == [
        "00_traffic_light_class_score.png",
        "00_traffic_light_class_score_dog.png",
        "01_dog_class_score.png",
        "01_dog_class_score_dog.png",
        "detections.json",
        "maps.npz",
        "sheet.png",
    ]
    assert np.array_equal(png(folder / "sheet.png"), own.show())
    for row, name in enumerate(["00_traffic_light", "01_dog"]):
        for target, word in (("class_score", "class_score"), ("class_score[dog]", "class_score_dog")):
            picture = png(folder / f"{name}_{word}.png")
            assert picture.shape == (HEIGHT, WIDTH, 3)
            assert picture[center(PEAKS[target][row])].tolist() == pytest.approx(HOT, abs=1)
    # The same again: nothing of it is random.
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix != ".npz"}
    own.save(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix != ".npz"} == before


def test_the_saved_detections_are_plain(tmp_path):
    how = {"method": "odam", "layer": "res4", "smoothing": "none", "path": "exact"}
    assert json.loads((explanation().save(tmp_path) / "detections.json").read_text()) == [
        {
            "id": 0,
            "category_id": 2,
            "category": "traffic light",
            "bbox": [16.0, 24.0, 128.0, 192.0],
            "score": 0.875,
            "values": {"class_score": 0.875, "class_score[dog]": 0.015625},
            "explained_by": how,
            "overlays": {
                "class_score": "00_traffic_light_class_score.png",
                "class_score[dog]": "00_traffic_light_class_score_dog.png",
            },
        },
        {
            "id": 1,
            "category_id": 1,
            "category": "dog",
            "bbox": [180.0, 100.0, 120.12, 100.0],
            "score": 0.5,
            "values": {"class_score": 0.5, "class_score[dog]": 0.5},
            "explained_by": how,
            "overlays": {
                "class_score": "01_dog_class_score.png",
                "class_score[dog]": "01_dog_class_score_dog.png",
            },
        },
    ]


def test_the_saved_maps_are_the_raw_ones(tmp_path):
    own = explanation()
    with np.load(own.save(tmp_path) / "maps.npz") as saved:
        for target in PEAKS:
            assert np.array_equal(saved[target], own.heat_maps[target].maps.numpy()) and saved[target].max() == 3
        assert np.array_equal(saved["boxes"], np.array(BOXES, np.float32))
        assert saved["scores"].tolist() == [0.875, 0.5] and saved["classes"].tolist() == [2, 1]
        assert saved["stride"] == 8 and saved["network_size"].tolist() == saved["image_size"].tolist() == [240, 320]


@pytest.mark.parametrize("name", ["scores", "file"])
def test_a_target_that_would_take_another_values_name_is_refused_before_anything_is_written(name, tmp_path):
    own = explanation(targets={name: PEAKS["class_score"]})
    with pytest.raises(ValueError, match=f"a target called '{name}' cannot be saved.*rename it"):
        own.save(tmp_path)
    assert not list(tmp_path.iterdir())


def test_nothing_detected_is_saved_too(tmp_path):
    own = explanation(count=0)
    assert repr(own).startswith("Explanation(0 detections in 240 x 320 pixels: none; class_score, ")
    folder = own.save(tmp_path)
    assert sorted(path.name for path in folder.iterdir()) == ["detections.json", "maps.npz", "sheet.png"]
    assert json.loads((folder / "detections.json").read_text()) == []
    with np.load(folder / "maps.npz") as saved:
        assert saved["class_score"].shape == (0, 30, 40) and saved["boxes"].shape == (0, 4)


def test_a_notebook_shows_the_sheet():
    own = explanation()
    (data,) = re.findall(r'src="data:image/png;base64,([^"]+)"', own._repr_html_())
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))), own.show())
    assert html.escape(repr(own)) in own._repr_html_()


def test_results_for_a_folder_are_the_same_in_plain_values(tmp_path):
    own = explanation()
    plain = own.as_results(tmp_path / "a.png", 0.25, 0.5)
    assert plain.class_names == ["traffic light", "dog"] and plain.levels == ["p3", "p4"]
    assert plain.captions == own.captions and plain.number_of_maps == 4
    assert (plain.seconds_detection, plain.seconds_maps) == (0.25, 0.5)
    assert np.array_equal(plain.pictures["class_score"]((24, 32)), own.heat_maps["class_score"].to_picture((24, 32)))
