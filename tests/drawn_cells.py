"""Drawn blood cells, which the bundled transformers find although they learned from photographs."""

from pathlib import Path

from PIL import Image, ImageDraw, ImageFilter

# Centres of red cells of 48 pixels.
CENTRES = ((50, 60), (150, 80), (250, 60), (90, 170), (200, 180))


def draw_cells(path: Path) -> Path:
    """Write a picture of 320 x 240 pixels."""
    image = Image.new("RGB", (320, 240), (226, 216, 216))
    pen = ImageDraw.Draw(image)
    for x, y in CENTRES:
        pen.ellipse([x - 24, y - 24, x + 24, y + 24], fill=(206, 160, 165))
        pen.ellipse([x - 8, y - 8, x + 8, y + 8], fill=(218, 190, 192))
    image.filter(ImageFilter.GaussianBlur(2)).save(path)
    return path
