"""What :class:`odam_d2.ODAMPredictor` answers with: detections, why they are what they are, and pictures of it.

Shapes: D explained detections, (h,w) image as the user sees it.
"""

import base64
import html
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from detectron2.structures import Instances
from detectron2.utils.visualizer import Visualizer
from PIL import Image
from torch import Tensor

from odam_d2.explain import METHODS, ExplainSettings
from odam_d2.files import write_atomically
from odam_d2.show.overlays import PALETTE, lay_over, overlay
from odam_d2.show.page import fit
from odam_d2.show.results import ExplainedImage, Pictures, save_raw_maps
from odam_d2.show.sheets import CELL_SIDE, contact_sheet
from odam_d2.show.words import captions_of, meanings_of
from odam_d2.structures import HeatMaps

# Of an overlay, zlib's fastest: a third of the default's time for a quarter more bytes.
PNG_LEVEL = 1


class ImageMaps(Mapping[str, Tensor]):
    """Maps at image resolution by target, made when they are asked for: a 12-megapixel image has many pixels."""

    def __init__(self, heat_maps: Mapping[str, HeatMaps]):
        self._heat_maps = heat_maps

    def __getitem__(self, target: str) -> Tensor:
        """(D,h,w) float32 in [0,1], each map scaled by its maximum."""
        return self._heat_maps[target].to_picture()

    def __iter__(self) -> Iterator[str]:
        return iter(self._heat_maps)

    def __len__(self) -> int:
        return len(self._heat_maps)

    def __repr__(self) -> str:
        sizes = {str((len(maps), *maps.output_size)) for maps in self._heat_maps.values()}
        return f"ImageMaps({', '.join(self)}: each {' or '.join(sorted(sizes))})"


@dataclass(frozen=True, eq=False, repr=False)
class Explanation:
    """Why a detector detected what it did.

    Args:
        image: the explained image, (h,w,3) uint8 BGR.
        instances: the explained detections, as ``DefaultPredictor`` gives them.
        heat_maps: raw maps by target.
        settings: how it was explained.
        class_names: of the detector.
        levels: for each detection the name of the feature map it comes from.
        values: target -> the explained number of each detection, Y of equation (1), (D,): a score, a logit, or a
            decoded side in network-input pixels before clipping, signed outwards. ``combined`` has none.
    """

    image: np.ndarray
    instances: Instances
    heat_maps: dict[str, HeatMaps]
    settings: ExplainSettings
    class_names: Sequence[str]
    levels: Sequence[str]
    values: Mapping[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.instances)

    def __repr__(self) -> str:
        height, width = self.image.shape[:2]
        shown = ", ".join(self.labels[:5]) + (", ..." if len(self) > 5 else "")
        how = ", ".join(f"{name} {value}" for name, value in self.settings.describe().items())
        return (
            f"Explanation({len(self)} detections in {height} x {width} pixels: {shown or 'none'}; "
            f"{', '.join(self.heat_maps)}; {how})"
        )

    @property
    def method(self) -> str:
        """How the maps were made, a name of :data:`odam_d2.explain.METHODS`."""
        return self.settings.method

    @property
    def layer(self) -> str | None:
        """Where the maps were made; None for methods that know no layer."""
        return self.settings.describe().get("layer")

    @property
    def maps(self) -> ImageMaps:
        """Target -> (D,h,w) float32 in [0,1], in image pixels."""
        return ImageMaps(self.heat_maps)

    @property
    def names(self) -> list[str]:
        """Class name of each detection."""
        return [self.class_names[c] for c in self.instances.pred_classes.tolist()]

    @property
    def labels(self) -> list[str]:
        """Class name and score of each detection, for people."""
        return [f"{name} {score:.2f}" for name, score in zip(self.names, self.instances.scores.tolist())]

    @property
    def meanings(self) -> dict[str, str]:
        """What the map of each target answers, for people."""
        return meanings_of(self.heat_maps, METHODS[self.method].meanings)

    @property
    def captions(self) -> dict[str, list[str]]:
        """What stands on the maps of a target, for people: numbers that :attr:`labels` do not tell."""
        return captions_of({target: values.tolist() for target, values in self.values.items()})

    def show(self) -> np.ndarray:
        """A contact sheet: a row a detection, a column a target.

        Returns:
            RGB uint8 picture.
        """
        # No larger than a cell of the sheet: maps of a whole photograph would take gigabytes.
        size = fit(self.image.shape[:2], CELL_SIDE)
        maps = {target: maps.to_picture(size).cpu().numpy() for target, maps in self.heat_maps.items()}
        boxes = self.instances.pred_boxes.tensor.cpu().numpy()
        return contact_sheet(self._rgb, boxes, self.labels, maps, self.meanings, self.captions)

    def overlay(self, row: int, target: str) -> np.ndarray:
        """One map over the image, with the detection's box and label drawn by Detectron2's ``Visualizer``.

        Args:
            row: which detection.
            target: of which target.

        Returns:
            (h,w,3) uint8 RGB.

        Raises:
            ValueError: a detection or target that was not explained.
        """
        if target not in self.heat_maps:
            raise ValueError(f"there is no map of {target!r}; explained were {', '.join(self.heat_maps)}")
        if not 0 <= row < len(self):
            raise ValueError(f"there is no detection {row}; {len(self)} were explained")
        maps = self.heat_maps[target]
        heat = maps.to_image(rows=[row])
        low = 0.0 if maps.background is None else maps.background[row]
        heat = (heat[0] - low).clamp(min=0)
        picture = overlay(self._rgb, (heat / heat.max().clamp(min=1e-30)).cpu().numpy())
        caption = self.captions.get(target, [target] * len(self))[row]
        return self._draw_detection(picture, row, f"{self.labels[row]}: {caption}")

    def _draw_detection(self, picture: np.ndarray, row: int, label: str) -> np.ndarray:
        """A box in its colour of the sheet, and its label, inside the picture where it is wide enough."""
        visualizer = Visualizer(picture)
        # matplotlib would turn the picture into floats, a hundred bytes a pixel: it draws box and label alone.
        visualizer.output.ax.images[0].remove()
        # Its overlay_instances draws in random colours, half transparent: on a dimmed photograph hard to see.
        color = tuple(value / 255 for value in PALETTE[row % len(PALETTE)])
        x1, y1, x2, _ = box = self.instances.pred_boxes.tensor[row].tolist()
        visualizer.draw_box(box, alpha=1.0, edge_color=color)
        height, width = picture.shape[:2]
        text_size = max(10, round((height * width) ** 0.5 / 60))
        # From the box's upper corner towards the side on which there is more room.
        x, towards = (x1, "left") if x1 + x2 < width else (x2, "right")
        position = x, max(0, min(y1, height - 2 * text_size))
        options = {"font_size": text_size, "color": color, "horizontal_alignment": towards}
        visualizer.draw_text(label, position, **options)
        drawn, (width, height) = visualizer.output.canvas.print_to_buffer()
        # A figure refers to itself, so it waits for Python's collector: a canvas of the photograph's size shall not.
        visualizer.output.fig.clear()
        visualizer.output.canvas.renderer = None
        return lay_over(picture, np.frombuffer(drawn, np.uint8).reshape(height, width, 4))

    def save(self, folder: str | Path) -> Path:
        """Write everything: overlays as PNG, raw maps as npz, detections as COCO-style JSON, and the contact sheet.

        Args:
            folder: made if it does not exist; files of the same names are replaced.

        Returns:
            the folder, with ``NN_<class>_<target>.png`` for each detection and target, ``sheet.png``, ``maps.npz``
            (see :func:`odam_d2.show.results.save_raw_maps`) and ``detections.json``.

        Raises:
            ValueError: a target whose name ``maps.npz`` uses otherwise.
            OSError: the folder cannot be written.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        save_raw_maps(folder / "maps.npz", self.as_results(folder))
        annotations = []
        boxes = self.instances.pred_boxes.tensor.tolist()
        for row, (name, score, box) in enumerate(zip(self.names, self.instances.scores.tolist(), boxes)):
            files = {}
            for target in self.heat_maps:
                files[target] = f"{row:02d}_{_file_word(name)}_{_file_word(target)}.png"
                Image.fromarray(self.overlay(row, target)).save(folder / files[target], compress_level=PNG_LEVEL)
            annotations.append(self._annotation(row, name, score, box, files))
        Image.fromarray(self.show()).save(folder / "sheet.png")
        write_atomically(folder / "detections.json", json.dumps(annotations, indent=1) + "\n")
        return folder

    def as_results(self, file: Path, seconds_detection: float = 0.0, seconds_maps: float = 0.0) -> ExplainedImage:
        """The same in plain values, as a folder of results takes it.

        Args:
            file: the image's path.
            seconds_detection: time that the detection took.
            seconds_maps: time that the maps took.
        """
        first = next(iter(self.heat_maps.values()))
        return ExplainedImage(
            file=file,
            image=self._rgb,
            boxes=self.instances.pred_boxes.tensor.cpu().numpy(),
            classes=self.instances.pred_classes.cpu().numpy(),
            class_names=self.names,
            scores=self.instances.scores.cpu().numpy(),
            levels=self.levels,
            maps={target: maps.maps.cpu().numpy() for target, maps in self.heat_maps.items()},
            stride=first.stride,
            network_size=first.image_size,
            pictures={target: _pictures(maps) for target, maps in self.heat_maps.items()},
            seconds_detection=seconds_detection,
            seconds_maps=seconds_maps,
            captions=self.captions,
        )

    def _annotation(self, row: int, name: str, score: float, box: Sequence[float], files: dict[str, str]) -> dict:
        x1, y1, x2, y2 = box
        return {
            "id": row,
            "category_id": int(self.instances.pred_classes[row]),
            "category": name,
            "bbox": [round(v, 2) for v in (x1, y1, x2 - x1, y2 - y1)],
            "score": round(score, 6),
            "values": {target: round(float(values[row]), 6) for target, values in self.values.items()},
            "explained_by": self.settings.describe(),
            "overlays": files,
        }

    def _repr_html_(self) -> str:
        """The contact sheet, for notebooks."""
        data = io.BytesIO()
        Image.fromarray(self.show()).save(data, format="PNG")
        encoded = base64.b64encode(data.getvalue()).decode()
        return f'<img src="data:image/png;base64,{encoded}" alt="{html.escape(repr(self))}">'

    @property
    def _rgb(self) -> np.ndarray:
        return np.ascontiguousarray(self.image[:, :, ::-1])


def _pictures(maps: HeatMaps) -> Pictures:
    """Maps as people look at them, made when somebody says at which size."""
    return lambda size: maps.to_picture(size).cpu().numpy()


def _file_word(name: str) -> str:
    """A class or target as part of a file's name."""
    return re.sub(r"[^\w.+-]+", "_", name).strip("_")
