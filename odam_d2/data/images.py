"""Reading photographs as a person sees them: orientation, bit depth and transparency resolved.

Shapes: (h,w) image.
"""

import glob
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
# Below this side nothing can be detected, let alone explained.
MIN_SIDE = 8


def read_image(path: str | Path) -> np.ndarray:
    """Read an image file as Detectron2's predictors want it.

    EXIF rotation is applied, 16-bit and floating-point images are scaled to 8 bits, transparency is put on white,
    greyscale becomes three equal channels.

    Args:
        path: image file.

    Returns:
        (h,w,3) uint8, BGR.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is empty, truncated, not an image, or too small; the message names it.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no image file {path}")
    if path.stat().st_size == 0:
        raise ValueError(f"{path} is empty")
    try:
        with Image.open(path) as image:
            image.load()
            image = ImageOps.exif_transpose(image)
    except UnidentifiedImageError as error:
        raise ValueError(f"{path} is not an image that Pillow can read") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path} cannot be decoded: {error}") from error
    if min(image.size) < MIN_SIDE:
        raise ValueError(f"{path} is {image.size[0]}x{image.size[1]} pixels; a detector needs {MIN_SIDE} a side")
    return np.ascontiguousarray(_to_rgb(image)[:, :, ::-1])


def _to_rgb(image: Image.Image) -> np.ndarray:
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image, dtype=np.float64)
        # 16-bit files use the whole range; wider or floating-point ones state no range, so their own maximum serves.
        top = 65535.0 if image.mode.startswith("I;16") or 255 < values.max() <= 65535 else max(values.max(), 1.0)
        grey = (values.clip(0, top) * (255.0 / top)).round().astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        colour = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", colour.size, "white"), colour)
    return np.asarray(image.convert("RGB"))


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
