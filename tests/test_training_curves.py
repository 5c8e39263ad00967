"""The picture of a training, from a file as Detectron2 writes it."""

import json

import pytest
from matplotlib.axes import Axes
from PIL import Image

from odam_d2.training_curves import draw_training_curves


def write(folder, rows):
    (folder / "metrics.json").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "metrics.json"


def test_losses_are_averaged_and_the_last_word_on_an_iteration_counts(tmp_path, monkeypatch):
    drawn = {}
    plot = Axes.plot

    def remember(self, x, y, *args, **options):
        drawn[options["label"]] = (list(x), list(y))
        return plot(self, x, y, *args, **options)

    monkeypatch.setattr(Axes, "plot", remember)
    rows = [{"iteration": 20 * i, "total_loss": float(i), "loss_cls": 1.0, "lr": 0.1} for i in range(12)]
    # Killed after iteration 220, resumed at 200; measured twice.
    rows += [{"iteration": 200, "total_loss": 100.0, "loss_cls": 1.0, "bbox/AP50": 10.0, "bbox/AP50-cat": 7.0}]
    rows += [{"iteration": 220, "total_loss": 0.0, "loss_cls": 1.0}, {"iteration": 240, "bbox/AP50": 20.0}]
    assert draw_training_curves(write(tmp_path, rows), tmp_path / "curves.png")
    with Image.open(tmp_path / "curves.png") as picture:
        assert picture.width > picture.height > 200
    assert drawn["bbox/AP50"] == ([200, 240], [10, 20]) and set(drawn) == {"total_loss", "loss_cls", "bbox/AP50"}
    # Means of ten: of 0..9; of 1..9 and 100; of 2..9, 100 and 0.
    iterations, losses = drawn["total_loss"]
    assert iterations == [180, 200, 220] and losses == pytest.approx([4.5, 14.5, 14.4])


def test_without_losses_there_is_nothing_to_draw(tmp_path):
    assert not draw_training_curves(write(tmp_path, [{"iteration": 0, "bbox/AP50": 1.0}]), tmp_path / "curves.png")
    assert not (tmp_path / "curves.png").exists()
