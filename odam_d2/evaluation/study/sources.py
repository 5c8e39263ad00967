"""Where the maps that are evaluated come from: the explainers here, D-RISE, BBAM, or files that another tool wrote.

Shapes: D explained detections, (h,w) image.
"""

import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from odam_d2.evaluation.study.settings import ExplanationSettings
from odam_d2.explain import (
    METHODS,
    TRACE_METHODS,
    BBAMExplainer,
    BlackBoxExplainer,
    DRISEState,
    explain_together,
    make_explainer,
)
from odam_d2.files import open_atomically
from odam_d2.predictor import ODAMPredictor
from odam_d2.structures import HeatMaps, Trace

# (what is being done, how much is done, how much there is).
Progress = Callable[[str, int, int], None]
# Seconds between two savings of D-RISE's state, so that a killed run loses little.
SAVE_EVERY = 60.0


@dataclass(frozen=True, eq=False)
class Scene:
    """The objects of one image that are explained.

    Args:
        image_id: in the dataset.
        ids: of the annotations that the detections were matched with, (D,).
        size: (h,w).
        trace: of their detections, in this order.
    """

    image_id: str
    ids: Sequence[str]
    size: tuple[int, int]
    trace: Trace


class MapSource(ABC):
    """Something that has a map for each object.

    Args:
        name: of the method.
    """

    def __init__(self, name: str):
        self.name = name

    @abstractmethod
    def maps(self, scene: Scene) -> Iterator[np.ndarray | None]:
        """One (h,w) map for each explained object, raw and non-negative; None for one that is missing."""

    def forget(self, image_id: str) -> None:  # noqa: B027  most keep nothing
        """The image's rows are written: drop what is kept for it."""


def make_sources(
    predictor: ODAMPredictor, settings: ExplanationSettings, batch: int, output: Path, progress: Progress | None = None
) -> list[MapSource]:
    """The sources that the settings name, in the order of ``settings.names``.

    Args:
        predictor: the detector.
        settings: which, and how.
        batch: masked images that D-RISE runs at a time.
        output: folder for D-RISE's unfinished work.
        progress: told of D-RISE's masks and BBAM's steps.

    Raises:
        ValueError: a layer that the detector does not have, a target that a method does not have, or BBAM without a
            two-stage detector.
        FileNotFoundError: a folder of maps does not exist.
    """
    predictor.check_layers((settings.explain.layer,))
    shared = _TraceMethods(predictor, settings)

    def make(name: str) -> MapSource:
        if name in TRACE_METHODS:
            return TraceMaps(name, shared)
        if METHODS[name].kind == "region_masks":
            return BBAMMaps(predictor, settings, progress)
        return DRISEMaps(predictor, settings, batch, output / name, progress)

    own = [make(name) for name in settings.methods]
    return [*own, *(FolderMaps(Path(folder)) for folder in settings.map_folders)]


class _TraceMethods:
    """All methods that need a trace alone on one image: they share its gradients, which take most of the time."""

    def __init__(self, predictor: ODAMPredictor, settings: ExplanationSettings):
        (self._target,) = predictor.resolve_targets(settings.target)
        self._explainers = {
            name: make_explainer(replace(settings.explain, method=name))
            for name in settings.methods
            if name in TRACE_METHODS
        }
        self._trace: Trace | None = None
        self._maps: dict[str, HeatMaps] = {}

    def maps(self, trace: Trace) -> dict[str, HeatMaps]:
        """Of every method; worked out once for a trace."""
        if trace is not self._trace:
            self._trace, self._maps = trace, explain_together(trace, self._target, self._explainers)
        return self._maps

    def forget(self) -> None:
        """Let go of the trace."""
        self._trace, self._maps = None, {}


class TraceMaps(MapSource):
    """Maps of a method that needs a trace alone.

    Args:
        name: of the method.
        shared: all such methods.
    """

    def __init__(self, name: str, shared: _TraceMethods):
        super().__init__(name)
        self._shared = shared

    def maps(self, scene: Scene) -> Iterator[np.ndarray | None]:
        """Implements :class:`MapSource`."""
        yield from _one_by_one(self._shared.maps(scene.trace)[self.name])

    def forget(self, image_id: str) -> None:
        """Implements :class:`MapSource`."""
        self._shared.forget()


class DRISEMaps(MapSource):
    """D-RISE's maps; all objects of an image share the masked images. What is done of an image outlasts the program.

    Args:
        predictor: the detector.
        settings: number of masks and their seed.
        batch: masked images at a time.
        folder: for the unfinished image; made when it is needed.
        progress: told after every batch.
    """

    def __init__(
        self,
        predictor: ODAMPredictor,
        settings: ExplanationSettings,
        batch: int,
        folder: Path,
        progress: Progress | None = None,
    ):
        super().__init__("drise")
        self._detector, self._folder, self._progress = predictor.model, folder, progress
        self._explain = replace(settings.explain, method=self.name, drise_batch=batch, drise_seed=settings.seed)

    def maps(self, scene: Scene) -> Iterator[np.ndarray | None]:
        """Implements :class:`MapSource`."""
        path = self._folder / f"{file_stem(scene.image_id)}.pth"
        state = _load_state(path, scene.trace.clipped_boxes)
        saved = time.monotonic()

        def after_batch(done: int, total: int) -> None:
            nonlocal saved
            if self._progress is not None:
                self._progress(METHODS[self.name].counts, done, total)
            if time.monotonic() - saved > SAVE_EVERY:
                _save_state(path, state)
                saved = time.monotonic()

        try:
            heat_maps = BlackBoxExplainer(self._detector, self._explain, after_batch)(scene.trace, state=state)
        except BaseException:
            # Also Ctrl-C: the next run goes on from here.
            if state.done:
                _save_state(path, state)
            raise
        yield from _one_by_one(heat_maps)

    def forget(self, image_id: str) -> None:
        """Implements :class:`MapSource`."""
        (self._folder / f"{file_stem(image_id)}.pth").unlink(missing_ok=True)


class BBAMMaps(MapSource):
    """BBAM's maps, of the target that other methods explain: an optimisation for each object.

    Args:
        predictor: the detector.
        settings: the target, and the number of steps.
        progress: told after every step.

    Raises:
        ValueError: a detector without regions, or a target that BBAM does not have.
    """

    def __init__(self, predictor: ODAMPredictor, settings: ExplanationSettings, progress: Progress | None = None):
        super().__init__("bbam")

        def tell(done: int, total: int) -> None:
            if progress is not None:
                progress(METHODS[self.name].counts, done, total)

        self._target = settings.target
        self._explainer = BBAMExplainer(predictor.model, replace(settings.explain, method=self.name), tell)
        self._explainer.check([self._target])

    def maps(self, scene: Scene) -> Iterator[np.ndarray | None]:
        """Implements :class:`MapSource`."""
        yield from _one_by_one(self._explainer(scene.trace, self._target))


class FolderMaps(MapSource):
    """Maps that any other tool wrote: ``<image id>_<annotation id>.npy``, float, (h,w), in image pixels.

    Args:
        folder: its name is the method's.

    Raises:
        FileNotFoundError: there is no such folder.
    """

    def __init__(self, folder: Path):
        if not folder.is_dir():
            raise FileNotFoundError(f"there is no folder of maps {folder}")
        super().__init__(folder.resolve().name)
        self._folder = folder

    def maps(self, scene: Scene) -> Iterator[np.ndarray | None]:
        """Implements :class:`MapSource`.

        Raises:
            ValueError: a file that is no array of real numbers, or one of another size; the message names it.
        """
        for annotation_id in scene.ids:
            path = self._folder / map_file(scene.image_id, annotation_id)
            yield read_map(path, scene.size) if path.is_file() else None


def map_file(image_id: str, annotation_id: str) -> str:
    """Name of the file of one object's map."""
    return f"{file_stem(image_id)}_{file_stem(annotation_id)}.npy"


def file_stem(name: str) -> str:
    """An id as part of a file's name: some datasets use paths as ids."""
    return name.replace("/", "_").replace(os.sep, "_")


def check_file_names(images: Mapping[str, Sequence[str]]) -> None:
    """Refuse ids that would share a file, so that one map or unfinished image would take another's place.

    Args:
        images: image id -> the ids of its annotations.

    Raises:
        ValueError: names two of them.
    """
    known: dict[str, str] = {}
    objects = [(map_file(image, own), f"{image}, annotation {own}") for image, ids in images.items() for own in ids]
    for file, name in [*((file_stem(image), image) for image in images), *objects]:
        if file in known:
            raise ValueError(f"the images {known[file]} and {name} would share the file name {file}; change an id")
        known[file] = name


def read_map(path: Path, size: tuple[int, int]) -> np.ndarray:
    """A map that a tool wrote, raw.

    Args:
        path: of an ``npy`` file.
        size: (h,w) that it must have.

    Returns:
        (h,w).

    Raises:
        ValueError: it is no array of real numbers, or of another size; the message names the file.
    """
    try:
        heat_map = np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise ValueError(f"{path} cannot be read as a map: {' '.join(str(error).split())}") from error
    if heat_map.dtype.kind not in "fiu":
        raise ValueError(f"{path} holds {heat_map.dtype}; a map holds real numbers")
    if heat_map.shape != size:
        raise ValueError(f"{path} holds a map of size {heat_map.shape}; its image has size {size}")
    return heat_map


def _one_by_one(heat_maps: HeatMaps) -> Iterator[np.ndarray]:
    """Every map of an image in image pixels, (h,w), and no more than one of them at a time."""
    for row in range(len(heat_maps)):
        yield heat_maps.to_image(rows=[row])[0].cpu().numpy()


def _load_state(path: Path, boxes: Tensor) -> DRISEState:
    """What an interrupted run left for these detections, else a fresh state."""
    state = DRISEState()
    if path.is_file():
        old = torch.load(path, map_location=boxes.device, weights_only=True)
        # Another machine may detect a box that differs in its last digits; the masks are then run again.
        if torch.equal(old["boxes"], boxes):
            state.load_state_dict(old)
    return state


def _save_state(path: Path, state: DRISEState) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open_atomically(path, "wb") as file:
        torch.save(state.state_dict(), file)
