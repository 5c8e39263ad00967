"""Reading photographs of every kind, and saying clearly which one cannot be read."""

import numpy as np
import pytest
from PIL import Image

from odam_d2.data.images import find_images, read_image


def colours(height=12, width=16):
    """Red grows along x, green along y, blue is constant."""
    rgb = np.zeros((height, width, 3), np.uint8)
    rgb[..., 0] = np.arange(width) * 10
    rgb[..., 1] = np.arange(height)[:, None] * 20
    rgb[..., 2] = 7
    return rgb


def test_colour_image_comes_as_bgr(tmp_path):
    Image.fromarray(colours()).save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png")
    assert image.dtype == np.uint8 and image.flags["C_CONTIGUOUS"]
    assert np.array_equal(image, colours()[:, :, ::-1])


def test_exif_rotation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # stored on its side: a viewer turns it 90 degrees clockwise
    Image.fromarray(colours()).save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(read_image(tmp_path / "a.png"), np.rot90(colours()[:, :, ::-1], k=-1))


def test_greyscale_becomes_three_equal_channels(tmp_path):
    grey = colours()[..., 0]
    Image.fromarray(grey).save(tmp_path / "a.png")
    assert np.array_equal(read_image(tmp_path / "a.png"), np.repeat(grey[..., None], 3, axis=2))


def test_sixteen_bits_are_scaled_not_cut(tmp_path):
    wide = np.array([[0, 257, 32896, 65535]] * 8, np.uint16).repeat(2, axis=1)
    Image.fromarray(wide).save(tmp_path / "a.png")
    # 65535 / 257 = 255 exactly; 257 -> 1; 32896 = 128 * 257.
    assert read_image(tmp_path / "a.png")[0, ::2, 0].tolist() == [0, 1, 128, 255]


def test_transparency_is_put_on_white(tmp_path):
    rgba = np.zeros((8, 8, 4), np.uint8)
    rgba[:4, :, 3] = 255  # opaque black above, fully transparent below
    Image.fromarray(rgba).save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png")
    assert image[:4].max() == 0 and image[4:].min() == 255


def test_palette_image_with_transparency(tmp_path):
    palette = Image.fromarray(colours()).convert("P")
    palette.save(tmp_path / "a.png", transparency=int(np.asarray(palette)[0, 0]))
    assert read_image(tmp_path / "a.png")[0, 0].tolist() == [255, 255, 255]


def test_unusable_files_are_named(tmp_path):
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(tmp_path / "whole.jpg")
    whole = (tmp_path / "whole.jpg").read_bytes()
    (tmp_path / "truncated.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "text.png").write_text("no image")
    Image.new("RGB", (1, 1)).save(tmp_path / "dot.png")
    for name, reason in {
        "truncated.jpg": "cannot be decoded",
        "empty.png": "is empty",
        "text.png": "not an image",
        "dot.png": "1x1 pixels",
    }.items():
        with pytest.raises(ValueError, match=f"{name}.*{reason}"):
            read_image(tmp_path / name)
    with pytest.raises(FileNotFoundError, match="missing.png"):
        read_image(tmp_path / "missing.png")


def test_files_folders_and_patterns_are_expanded_in_order_without_repeats(tmp_path):
    for name in ("b.png", "a.JPG", "note.txt", "sub/c.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    found = find_images([str(tmp_path / "sub" / "c.png"), str(tmp_path), str(tmp_path / "*.png")])
    assert [p.name for p in found] == ["c.png", "a.JPG", "b.png"]
    (tmp_path / "nothing").mkdir()
    for entry in ("nothing", "*.gif", "absent.png"):
        with pytest.raises(FileNotFoundError, match=entry.replace("*", r"\*")):
            find_images([str(tmp_path / entry)])
