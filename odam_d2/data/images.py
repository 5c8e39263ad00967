"""Reading photographs as a person sees them: orientation, bit depth and transparency resolved.

Shapes: (h,w) image.
"""

import glob
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
# Below this side nothing can be detected, let alone explained.
MIN_SIDE = 8
# Detectors scale the long side to about 1000 pixels: of a narrower image hardly a row of pixels would be left.
MAX_ASPECT = 200
# What shows an image upright, by its EXIF orientation; 1 is upright already.
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# Those that make a wide image tall.
QUARTER_TURNS = {TURNS[orientation] for orientation in (5, 6, 7, 8)}
# An image of which hardly a pixel would get a grey above 0 is black: at most so many, or this part of all.
FEW_PIXELS, FEW_PARTS = 3, 0.001


def read_image(path: str | Path) -> np.ndarray:
    """Read an image file as Detectron2's predictors want it.

    EXIF rotation is applied, 16-bit and floating-point images are scaled to 8 bits, transparency is put on white,
    greyscale becomes three equal channels. Of a floating-point image, what is not finite is black.

    Args:
        path: image file.

    Returns:
        (h,w,3) uint8, BGR.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is empty, truncated, not an image, too small or too narrow, or has values that 8 bits
            cannot show; the message names it.
    """
    with _opened(path) as image:
        image.load()
        turn = exif_turn(image)
        upright = image if turn is None else image.transpose(turn)
        is_grey = upright.mode.startswith("I") or upright.mode == "F"
        pixels = np.asarray(upright, dtype=np.float64) if is_grey else _to_rgb(upright)
    check_sides(upright.height, upright.width, str(path))
    if is_grey:
        grey = _to_grey(pixels, upright.mode.startswith("I;16"), path)
        return np.repeat(grey[:, :, None], 3, axis=2)
    return np.ascontiguousarray(pixels[:, :, ::-1])


def check_sides(height: int, width: int, name: str) -> None:
    """Refuse an image in which a detector can see nothing.

    Args:
        height: in pixels.
        width: in pixels.
        name: of the image, for the message.

    Raises:
        ValueError: too small or too narrow; names the size and the remedy.
    """
    short, long = sorted((height, width))
    if short < MIN_SIDE:
        raise ValueError(f"{name} is {width}x{height} pixels; a detector needs {MIN_SIDE} a side")
    if long > MAX_ASPECT * short:
        raise ValueError(
            f"{name} is {width}x{height} pixels, too narrow for a detector; cut it into pieces at most {MAX_ASPECT} "
            "times as long as wide"
        )


def read_image_size(path: str | Path) -> tuple[int, int]:
    """The size of the image that :func:`read_image` returns, from the file's header alone.

    Args:
        path: image file.

    Returns:
        (h,w).

    Raises:
        FileNotFoundError: no such file.
        ValueError: not an image; the message names it.
    """
    with _opened(path) as image:
        width, height = image.size
        return (width, height) if exif_turn(image) in QUARTER_TURNS else (height, width)


def exif_turn(image: Image.Image) -> Image.Transpose | None:
    """How to show an image upright, None where it is; the same decision as in Detectron2's reader.

    An EXIF block that is broken, or says anything but a number from 1 to 8, says nothing: the pixels are sound.

    Args:
        image: as Pillow opens it.
    """
    try:
        return TURNS.get(image.getexif().get(ExifTags.Base.Orientation))
    except Exception:
        # Of a broken block Pillow's parser makes exceptions of any kind.
        return None


@contextmanager
def _opened(path: str | Path) -> Iterator[Image.Image]:
    """An image file while it is decoded; whatever is wrong with it becomes one sentence."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no image file {path}")
    if path.stat().st_size == 0:
        raise ValueError(f"{path} is empty")
    try:
        with Image.open(path) as image:
            yield image
    except UnidentifiedImageError as error:
        raise ValueError(f"{path} is not an image that Pillow can read") from error
    except Exception as error:
        # Of a broken file Pillow's decoders make exceptions of any kind.
        raise ValueError(f"{path} cannot be decoded: {str(error) or type(error).__name__}") from error


def _to_rgb(image: Image.Image) -> np.ndarray:
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        colour = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", colour.size, "white"), colour)
    return np.asarray(image.convert("RGB"))


def _to_grey(values: np.ndarray, is_16_bit: bool, path: str | Path) -> np.ndarray:
    """Values of any range as (h,w) uint8.

    Raises:
        ValueError: a range in which the image would be black, or lose its dark part.
    """
    finite = np.isfinite(values)
    if not finite.any():
        raise ValueError(f"{path} holds no finite value")
    highest = float(values[finite].max())
    # 16-bit files use the whole range; wider or floating-point ones state no range, so their own maximum serves.
    top = 65535.0 if is_16_bit or 255 < highest <= 65535 else max(highest, 1.0)
    if not is_16_bit:
        remedy = "save it with values from 0 to 1, 0 to 255 or 0 to 65535"
        positive, seen = np.count_nonzero(values[finite] > 0), np.count_nonzero(values[finite] > top / 255)
        if seen < positive and seen <= max(FEW_PIXELS, FEW_PARTS * values.size):
            raise ValueError(f"{path} has values up to {highest:g}, beside which nearly all others are black; {remedy}")
        # A few of them are marks for missing pixels.
        low = float(np.percentile(values[finite], 1, method="lower"))
        if low < -top / 255:
            raise ValueError(f"{path} has negative values such as {low:g}, which are no brightness; {remedy}")
    scaled = np.where(finite, values, 0).clip(0, top) * (255.0 / top)
    return scaled.round().astype(np.uint8)


def find_images(inputs: Sequence[str]) -> list[Path]:
    """Expand files, folders and glob patterns, in the order given and without repeats.

    Args:
        inputs: what the user typed; folders give the image files directly in them.

    Raises:
        FileNotFoundError: an input that matches nothing; the message names it.
    """
    found: dict[Path, None] = {}
    for entry in inputs:
        path = Path(entry)
        if path.is_dir():
            matches = sorted(p for p in path.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)
            if not matches:
                raise FileNotFoundError(f"the folder {entry} holds no images ({', '.join(IMAGE_SUFFIXES)})")
        elif path.exists():
            matches = [path]
        else:
            matches = sorted(Path(p) for p in glob.glob(entry, recursive=True) if Path(p).is_file())
            if not matches:
                raise FileNotFoundError(f"no file, folder or pattern {entry} was found")
        found.update(dict.fromkeys(matches))
    return list(found)
