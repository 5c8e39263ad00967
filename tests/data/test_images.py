"""Reading photographs of every kind, and saying clearly which one cannot be read."""

import struct
import warnings

import numpy as np
import pytest
from detectron2.data import detection_utils as utils
from PIL import Image

from odam_d2.data.images import find_images, read_image, read_image_size


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


def exif_of(*entries):
    """An EXIF block of (tag, type, count, the value's four bytes), little-endian."""
    fields = [struct.pack("<HHI", tag, kind, count) + value for tag, kind, count, value in entries]
    return b"Exif\0\0II*\0" + struct.pack("<IH", 8, len(fields)) + b"".join(fields) + b"\0" * 4


ORIENTATION_6 = (0x0112, 3, 1, struct.pack("<HH", 6, 0))
# XResolution as a signed rational, whose value -1 / 0 lies behind the two fields.
RESOLUTION = (0x011A, 10, 1, struct.pack("<I", 8 + 2 + 2 * 12 + 4))
BLOCKS = {
    "turned": (exif_of(ORIENTATION_6), True),
    "a resolution of -1 / 0": (exif_of(ORIENTATION_6, RESOLUTION) + struct.pack("<ii", -1, 0), True),
    "a value beyond the end": (exif_of(ORIENTATION_6, (0x010F, 2, 99, struct.pack("<I", 10**6))), True),
    "an unknown type": (exif_of(ORIENTATION_6, (0x010F, 77, 1, b"abcd")), True),
    "text": (exif_of((0x0112, 2, 2, b"6\0\0\0")), False),
    "the number 9": (exif_of((0x0112, 3, 1, struct.pack("<HH", 9, 0))), False),
    "several numbers, of which the first counts": (exif_of((0x0112, 3, 2, struct.pack("<HH", 6, 9))), True),
    "no value": (exif_of((0x0112, 3, 0, b"\0" * 4)), False),
    "a block cut off": (exif_of(ORIENTATION_6)[:20], False),
    "no TIFF header": (b"Exif\0\0garbage", False),
    "nothing": (b"Exif\0\0", False),
}


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp"])
@pytest.mark.parametrize("block", BLOCKS)
def test_a_broken_exif_block_costs_no_pixels(tmp_path, block, suffix):
    content, turned = BLOCKS[block]
    path = tmp_path / f"a{suffix}"
    options = {"lossless": True} if suffix == ".webp" else {}
    Image.fromarray(colours(16, 32)).save(path, exif=content, **options)
    with warnings.catch_warnings():
        # Pillow's own about the block.
        warnings.simplefilter("ignore")
        image, size, theirs = read_image(path), read_image_size(path), utils.read_image(str(path), "BGR")
    assert image.shape == ((32, 16, 3) if turned else (16, 32, 3)) and size == image.shape[:2]
    # Detectron2's mappers read the same.
    assert np.array_equal(image, theirs)
    if suffix != ".jpg":
        assert np.array_equal(image, np.rot90(colours(16, 32)[:, :, ::-1], k=-1 if turned else 0))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_turned_upright(tmp_path, orientation):
    # Where the corner that holds the stored image's first pixel belongs, by the EXIF standard: (row, column).
    corner = {1: (0, 0), 2: (0, -1), 3: (-1, -1), 4: (-1, 0), 5: (0, 0), 6: (0, -1), 7: (-1, -1), 8: (-1, 0)}
    rgb = np.zeros((8, 16, 3), np.uint8)
    rgb[0, 0], rgb[0, 1] = 255, 200
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(rgb).save(tmp_path / "a.png", exif=exif)
    image = read_image(tmp_path / "a.png")[..., 0]
    assert image.shape == ((16, 8) if orientation >= 5 else (8, 16)) == read_image_size(tmp_path / "a.png")
    assert image[corner[orientation]] == 255
    # The stored row goes on along the rows, or, from 5 on, along the columns.
    row, column = (place % side for place, side in zip(corner[orientation], image.shape))
    beside = image[:, column] if orientation >= 5 else image[row]
    assert 200 in beside and (image == 200).sum() == 1


def test_greyscale_becomes_three_equal_channels(tmp_path):
    grey = colours()[..., 0]
    Image.fromarray(grey).save(tmp_path / "a.png")
    assert np.array_equal(read_image(tmp_path / "a.png"), np.repeat(grey[..., None], 3, axis=2))


def test_sixteen_bits_are_scaled_not_cut(tmp_path):
    wide = np.array([[0, 257, 32896, 65535]] * 8, np.uint16).repeat(2, axis=1)
    Image.fromarray(wide).save(tmp_path / "a.png")
    # 65535 / 257 = 255 exactly; 257 -> 1; 32896 = 128 * 257.
    assert read_image(tmp_path / "a.png")[0, ::2, 0].tolist() == [0, 1, 128, 255]


def save_float(path, values):
    Image.fromarray(np.asarray(values, np.float32)).save(path)
    return path


@pytest.mark.parametrize("hole", [np.nan, np.inf, -np.inf, -9999.0])
def test_one_pixel_without_a_value_does_not_make_a_float_image_black(tmp_path, hole):
    ramp = np.linspace(0, 1, 256).reshape(16, 16)
    ramp[3, 5] = hole
    image = read_image(save_float(tmp_path / "a.tif", ramp))[..., 0].reshape(-1)
    # 256 steps from 0 to 1 are the greys from 0 to 255; the hole is black.
    expected = np.arange(256)
    expected[3 * 16 + 5] = 0
    assert np.array_equal(image, expected)


def test_float_images_from_0_to_1_or_255_or_65535_use_their_range(tmp_path):
    for top, greys in {1.0: [0, 51, 128, 255], 200.0: [0, 51, 128, 255], 65535.0: [0, 51, 128, 255]}.items():
        values = np.tile(np.array([0, 0.2, 128 / 255, 1]) * top, (8, 2))
        assert read_image(save_float(tmp_path / "a.tif", values))[0, :4, 0].tolist() == greys
    dark = np.tile([0, 0.2, 0.4, 0.5], (8, 2))
    assert read_image(save_float(tmp_path / "a.tif", dark))[0, :4, 0].tolist() == [0, 51, 102, 128]
    assert not read_image(save_float(tmp_path / "a.tif", np.zeros((8, 8)))).any()


def test_values_that_8_bits_cannot_show_are_refused(tmp_path):
    ramp = np.linspace(0, 1, 64).reshape(8, 8)
    for name, pixels, words in (
        ("huge", 3.4e38, "values up to 3.4e\\+38, beside which nearly all others are black; save it with"),
        ("hot", 1e6, "values up to 1e\\+06"),
        ("faint", ramp / 1000, "values up to 0.001"),
        ("signed", 2 * ramp - 1, "negative values such as -1"),
        ("none", np.nan, "no finite value"),
    ):
        values = np.where(np.arange(64).reshape(8, 8) == 9, pixels, ramp) if name in ("huge", "hot") else pixels
        path = save_float(tmp_path / f"{name}.tif", np.broadcast_to(values, (8, 8)))
        with pytest.raises(ValueError, match=f"{name}.tif.*{words}"):
            read_image(path)
    wide = np.full((8, 8), 100, np.int32)
    wide[0, 0] = 2**31 - 1
    Image.fromarray(wide).save(tmp_path / "wide.tif")
    with pytest.raises(ValueError, match="wide.tif.*nearly all others are black"):
        read_image(tmp_path / "wide.tif")


def test_a_mostly_black_image_is_sound(tmp_path):
    values = np.zeros((64, 64))
    values[3, 4] = 5.0
    image = read_image(save_float(tmp_path / "a.tif", values))
    assert image[3, 4].tolist() == [255, 255, 255] and image.sum() == 3 * 255


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
    Image.new("L", (20000, 8)).save(tmp_path / "line.png")
    for name, reason in {
        "truncated.jpg": "cannot be decoded",
        "empty.png": "is empty",
        "text.png": "not an image",
        "dot.png": "1x1 pixels",
        "line.png": "20000x8 pixels, too narrow.*200 times",
    }.items():
        with pytest.raises(ValueError, match=f"{name}.*{reason}"):
            read_image(tmp_path / name)
    with pytest.raises(FileNotFoundError, match="missing.png"):
        read_image(tmp_path / "missing.png")


def test_whatever_pillow_raises_becomes_one_sentence(tmp_path, monkeypatch):
    Image.fromarray(colours()).save(tmp_path / "a.png")
    for error in (struct.error("unpack"), TypeError("abs"), KeyError(3), Image.DecompressionBombError("big")):
        monkeypatch.setattr(Image.Image, "getexif", lambda self, error=error: _raise(error))
        assert np.array_equal(read_image(tmp_path / "a.png"), colours()[:, :, ::-1])
        with monkeypatch.context() as inner:
            inner.setattr(Image, "open", lambda path, error=error: _raise(error))
            for read in (read_image, read_image_size):
                with pytest.raises(ValueError, match=r"a\.png cannot be decoded: "):
                    read(tmp_path / "a.png")


def _raise(error):
    raise error


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
