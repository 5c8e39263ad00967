"""Where people looked: eye fixations from a CSV file, or from MATLAB's file of OSIE.

Positions are in pixels of the image with continuous coordinates: an image spans 0..w and 0..h. Shapes: n fixations.
"""

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.io import loadmat
from scipy.io.matlab import MatReadError

COLUMNS = ("image", "x", "y", "duration")
# Of a subject in OSIE's file.
MAT_COLUMNS = ("fix_x", "fix_y", "fix_duration")
# A CSV file without this column is of one person.
OBSERVER = "observer"
# What must be said wherever numbers of OSIE stand.
FREE_VIEWING = (
    "people looked at the photographs freely for three seconds (OSIE); in the paper they had to explain a marked "
    "object, so these numbers cannot be compared with its Table 6"
)
# How many names an error lists.
NAMED = 3


@dataclass(frozen=True, eq=False)
class Fixations:
    """The fixations of one or several people on one image.

    Args:
        x: (n,), pixels.
        y: (n,), pixels.
        duration: (n,), milliseconds or any other unit, the same for all.
        observer: who it was, (n,) int64, numbered from 0.

    Raises:
        ValueError: lengths that differ, a number that is not finite, or a negative duration.
    """

    x: np.ndarray
    y: np.ndarray
    duration: np.ndarray
    observer: np.ndarray

    def __post_init__(self) -> None:
        lengths = {name: len(getattr(self, name)) for name in ("x", "y", "duration", "observer")}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"the parts of fixations differ in their number: {lengths}")
        numbers = np.stack([self.x, self.y, self.duration]) if len(self.x) else np.zeros((3, 0))
        wrong = ~np.isfinite(numbers).all(axis=0) | (numbers[2] < 0)
        if wrong.any():
            first = numbers[:, wrong][:, 0].tolist()
            raise ValueError(f"a fixation must have finite x, y and duration, the last at least 0, not {first}")

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, chosen: np.ndarray) -> "Fixations":
        """Some of them.

        Args:
            chosen: positions, or (n,) bool.
        """
        return Fixations(self.x[chosen], self.y[chosen], self.duration[chosen], self.observer[chosen])

    def inside(self, box: Sequence[float]) -> np.ndarray:
        """Whether each lies in a box, its borders included, (n,) bool.

        Args:
            box: (4,) XYXY in pixels.
        """
        x1, y1, x2, y2 = box
        return (self.x >= x1) & (self.x <= x2) & (self.y >= y1) & (self.y <= y2)

    @classmethod
    def of(cls, rows: Iterable[tuple[float, float, float, int]]) -> "Fixations":
        """Fixations from (x, y, duration, observer) each; none is fine."""
        table = np.array(list(rows), dtype=np.float64).reshape(-1, 4)
        return cls(table[:, 0], table[:, 1], table[:, 2], table[:, 3].astype(np.int64))


class Recording(NamedTuple):
    """What a file of fixations holds.

    Attributes:
        images: image, by the name that the file gives it -> its fixations.
        task: what people were told to do, where the file's kind tells; else empty.
    """

    images: dict[str, Fixations]
    task: str


def read_fixations(path: str | Path) -> Recording:
    """Read a file of fixations.

    Args:
        path: ``.mat``, as OSIE has it (Xu et al., *Predicting human gaze beyond pixels*, Journal of Vision 2014): per
            image ``img`` and per subject ``fix_x``, ``fix_y``, ``fix_duration``. Anything else is a CSV file with the
            columns ``image``, ``x``, ``y``, ``duration`` and, where several people looked, ``observer``.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is none of these, holds a number that is none, or no fixation at all.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file of fixations {path}")
    recording = Recording(_read_mat(path), FREE_VIEWING) if path.suffix == ".mat" else Recording(_read_csv(path), "")
    if not any(map(len, recording.images.values())):
        raise ValueError(f"{path} holds no fixation; it needs at least one, with its image, x, y and duration")
    return recording


def check_inside(fixations: Fixations, size: tuple[int, int], name: str, leave_out: bool = False) -> Fixations:
    """The fixations that lie in their image.

    Args:
        fixations: of the image.
        size: (h,w) of the image.
        name: of the image, for the message.
        leave_out: leave out those that do not, instead of refusing them.

    Raises:
        ValueError: one lies outside; the message names it.
    """
    height, width = size
    inside = fixations.inside((0, 0, width, height))
    if not leave_out and not inside.all():
        first = int(np.flatnonzero(~inside)[0])
        raise ValueError(
            f"{name}: {int((~inside).sum())} of {len(inside)} fixations lie outside the image of {width} x {height} "
            f"pixels, the first at ({fixations.x[first]:g}, {fixations.y[first]:g}); correct them, or leave them out "
            "with --leave-out-outside"
        )
    return fixations[inside]


def match_images(recording: Mapping[str, Fixations], files: Mapping[str, str]) -> dict[str, Fixations]:
    """The fixations by image id of a dataset.

    Args:
        recording: image -> its fixations; an image is named by its id or by its file's name.
        files: image id -> file, of all images of the dataset.

    Returns:
        image id -> its fixations, for the images that have some, in the dataset's order.

    Raises:
        ValueError: a name that no image or several images of the dataset have, or two names of one image.
    """
    known: dict[str, list[str]] = {}
    for image_id, file in files.items():
        for name in dict.fromkeys((image_id, Path(file).name)):
            known.setdefault(name, []).append(image_id)
    unknown = [name for name in recording if name not in known]
    if unknown:
        more = f" and {len(unknown) - NAMED} more" if len(unknown) > NAMED else ""
        raise ValueError(
            f"the fixations name images that the dataset does not have: {', '.join(unknown[:NAMED])}{more}; name them "
            "by their ids or files in the dataset, or remove their lines"
        )
    double = next((name for name in recording if len(known[name]) > 1), None)
    if double is not None:
        raise ValueError(f"{double!r} is the name of {len(known[double])} images of the dataset; use their ids instead")
    named: dict[str, str] = {}
    for name in recording:
        if (first := named.setdefault(known[name][0], name)) != name:
            raise ValueError(f"the fixations name one image twice, {first!r} and {name!r}; use one of the names")
    by_id = {known[name][0]: fixations for name, fixations in recording.items() if len(fixations)}
    return {image_id: by_id[image_id] for image_id in files if image_id in by_id}


def _read_csv(path: Path) -> dict[str, Fixations]:
    rows: dict[str, list[tuple[float, float, float, int]]] = {}
    observers: dict[str, int] = {}
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
            if missing:
                raise ValueError(
                    f"{path} lacks the column {missing[0]}; a file of fixations has {', '.join(COLUMNS)} and, where "
                    f"several people looked, {OBSERVER}"
                )
            for line in reader:
                where = f"{path}, line {reader.line_num}"
                numbers = tuple(_number(line[name], name, where) for name in COLUMNS[1:])
                if numbers[2] < 0:
                    raise ValueError(f"{where}: the duration {numbers[2]:g} must be at least 0")
                observer = observers.setdefault(line.get(OBSERVER) or "", len(observers))
                rows.setdefault(line["image"], []).append((*numbers, observer))
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no CSV file in UTF-8: {error.reason}") from error
    return {image: Fixations.of(own) for image, own in rows.items()}


def _number(text: str | None, name: str, where: str) -> float:
    try:
        number = float(text or "")
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"{where}: {name} is {text!r}; it must be a finite number")
    return number


def _read_mat(path: Path) -> dict[str, Fixations]:
    try:
        content = loadmat(path, squeeze_me=True, struct_as_record=False)
    # SciPy's, of files that were cut off: the first four; of other formats, and of MATLAB's newest.
    except (MatReadError, OSError, IndexError, TypeError, ValueError, NotImplementedError) as error:
        raise _foreign(path, " ".join(str(error).split())) from error
    if "fixations" not in content:
        raise _foreign(path, "it has no 'fixations'")
    return {
        str(_field(path, image, "img")): Fixations.of(
            fixation
            for observer, subject in enumerate(np.atleast_1d(_field(path, image, "subjects")))
            for fixation in _of_subject(path, subject, observer)
        )
        for image in np.atleast_1d(content["fixations"])
    }


def _field(path: Path, record: Any, name: str) -> Any:
    """A field of one of MATLAB's records."""
    if not hasattr(record, name):
        raise _foreign(path, f"a record has no {name!r}")
    return getattr(record, name)


def _of_subject(path: Path, subject: Any, observer: int) -> Iterable[tuple[float, float, float, int]]:
    columns = [np.atleast_1d(_field(path, subject, name)) for name in MAT_COLUMNS]
    numbers = all(column.dtype.kind in "iuf" and np.isfinite(column).all() for column in columns)
    if not numbers or len({column.shape for column in columns}) > 1 or columns[0].size != len(columns[0]):
        raise _foreign(path, f"{', '.join(MAT_COLUMNS)} of a subject are not lists of as many finite numbers each")
    return ((x, y, duration, observer) for x, y, duration in zip(*columns, strict=True))


def _foreign(path: Path, reason: str) -> ValueError:
    return ValueError(
        f"{path} cannot be read as OSIE's fixations, which have img and subjects with {', '.join(MAT_COLUMNS)}: "
        f"{reason}"
    )
