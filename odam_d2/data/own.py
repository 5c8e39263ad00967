"""A user's own datasets, described by one word each: ``mine=ann.json:images/``.

| the word | is |
|---|---|
| ``mine=ann.json:images/`` | a json file in COCO's format and the folder of its images |
| ``mine=annotation.odgt:Images/`` | an odgt file as CrowdHuman's, and the folder with ``<ID>.jpg`` |
| ``mine=voc:folder/:train`` | a split of a folder in VOC's layout, see :func:`odam_d2.data.voc.load_voc` |
| ``mine=voc:folder/`` | all annotated images of such a folder; ``voc:`` may be left out |

They stand in ``ODAM.DATASETS``. Registering reads nothing: classes are read when somebody asks for their names, and
annotations when somebody asks for the dataset.
"""

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.catalog import Metadata

from odam_d2.data.catalog import register_dataset
from odam_d2.data.coco_json import load_coco, read_coco
from odam_d2.data.crowdhuman import load_crowdhuman
from odam_d2.data.voc import load_voc, voc_class_names

FORMS = "mine=ann.json:images/, mine=annotation.odgt:Images/ or mine=voc:folder/:train"
# What is read from the annotations when it is asked for.
LAZY = ("thing_classes", "thing_dataset_id_to_contiguous_id")
# A name becomes part of file names.
_NAME = re.compile(r"[\w.-]+")
_FILE_AND_FOLDER = re.compile(r"(?P<file>.+\.(?P<kind>json|odgt)):(?P<folder>.+)", re.IGNORECASE)


def register_datasets(cfg: CfgNode) -> None:
    """Register the datasets that ``ODAM.DATASETS`` describes. A second call changes nothing.

    :func:`odam_d2.load_config` has done so.

    Args:
        cfg: a config with odam_d2's keys.

    Raises:
        ValueError: a word that describes no dataset, or a name that is taken.
    """
    for word in cfg.ODAM.DATASETS:
        _register(word)


def add_datasets(cfg: CfgNode, words: Sequence[str]) -> tuple[str, ...]:
    """Datasets as a command line names them: those that are described join ``ODAM.DATASETS`` and are registered.

    Args:
        cfg: a config with odam_d2's keys; changed in place.
        words: each a name, or a description such as ``mine=ann.json:images/``.

    Returns:
        their names.

    Raises:
        ValueError: see :func:`register_datasets`.
    """
    described = [word for word in words if "=" in word and word not in cfg.ODAM.DATASETS]
    cfg.ODAM.DATASETS = [*cfg.ODAM.DATASETS, *described]
    register_datasets(cfg)
    return tuple(dataset_name(word) for word in words)


def dataset_name(word: str) -> str:
    """The name in a word of a command line, be it a name alone or a description."""
    return word.partition("=")[0]


def is_described(cfg: CfgNode, name: str) -> bool:
    """Whether ``ODAM.DATASETS`` describes the dataset."""
    return name in map(dataset_name, cfg.ODAM.DATASETS)


class _Source(Protocol):
    """Where the images and annotations of a dataset are."""

    def load(self, name: str) -> list[dict[str, Any]]:
        """Detectron2's dataset dicts."""

    def read_classes(self) -> dict[str, Any]:
        """The metadata that :data:`LAZY` lists, as far as there are any."""

    def metadata(self) -> dict[str, Any]:
        """What is known without reading anything."""


@dataclass(frozen=True)
class _Coco:
    json_file: str
    image_root: str

    def load(self, name: str) -> list[dict[str, Any]]:
        _check_file(self.json_file)
        dicts = load_coco(self.json_file, self.image_root, name, ("score",))
        missing = [one["file_name"] for one in dicts if not Path(one["file_name"]).is_file()]
        if missing:
            count = f"{len(missing)} of {len(dicts)} images of {self.json_file} are missing"
            raise FileNotFoundError(f"{count} in {self.image_root}, the first is {missing[0]}")
        return dicts

    def read_classes(self) -> dict[str, Any]:
        _check_file(self.json_file)
        # In the order in which Detectron2 numbers them.
        categories = sorted(read_coco(self.json_file)["categories"], key=lambda one: one["id"])
        return {
            "thing_classes": [one["name"] for one in categories],
            "thing_dataset_id_to_contiguous_id": {one["id"]: i for i, one in enumerate(categories)},
        }

    def metadata(self) -> dict[str, Any]:
        return {"evaluator_type": "coco", "json_file": self.json_file, "image_root": self.image_root}


@dataclass(frozen=True)
class _CrowdHuman:
    odgt_file: str
    image_root: str

    def load(self, name: str) -> list[dict[str, Any]]:
        _check_file(self.odgt_file)
        return load_crowdhuman(self.odgt_file, self.image_root, advice="behind the colon stands the folder of <ID>.jpg")

    def read_classes(self) -> dict[str, Any]:
        return {"thing_classes": ["person"]}

    def metadata(self) -> dict[str, Any]:
        return {"evaluator_type": "crowdhuman", "odgt_file": self.odgt_file, "image_root": self.image_root}


@dataclass(frozen=True)
class _Voc:
    folder: str
    split: str | None

    def load(self, name: str) -> list[dict[str, Any]]:
        return load_voc(self.folder, self.split)

    def read_classes(self) -> dict[str, Any]:
        return {"thing_classes": voc_class_names(self.folder)}

    def metadata(self) -> dict[str, Any]:
        # Detectron2's evaluator of COCO's measures writes the json that it needs.
        return {"evaluator_type": "coco", "dirname": self.folder, "split": self.split}


class _OwnMetadata(Metadata):
    """Metadata of a described dataset; its ``description`` says what to read when classes are asked for."""

    def __getattr__(self, key: str) -> Any:
        known = self.__dict__
        if key in LAZY and "description" in known and not any(name in known for name in LAZY):
            known.update(_source(known["description"]).read_classes())
            if key in known:
                return known[key]
        return super().__getattr__(key)


def _register(word: str) -> None:
    # A list in a yaml file may hold anything.
    name, _, description = str(word).partition("=")
    if not _NAME.fullmatch(name) or not description:
        raise ValueError(f"ODAM.DATASETS: {word!r} describes no dataset; write {FORMS}")
    source = _source(description)
    if name in DatasetCatalog:
        if MetadataCatalog.get(name).get("description") == description:
            return
        raise ValueError(f"there is a dataset {name} already, and it is not {description}; choose another name")
    # What somebody may have set for that name before stays.
    MetadataCatalog[name] = _OwnMetadata(**MetadataCatalog.get(name).as_dict())
    load = functools.partial(source.load, name)
    register_dataset(name, load, description=description, **source.metadata())


def _source(description: str) -> _Source:
    if found := _FILE_AND_FOLDER.fullmatch(description):
        file, folder = (str(Path(found[part]).expanduser()) for part in ("file", "folder"))
        return _Coco(file, folder) if found["kind"].lower() == "json" else _CrowdHuman(file, folder)
    if description.rstrip(":").lower().endswith((".json", ".odgt")):
        raise ValueError(f"ODAM.DATASETS: {description!r} names no folder of images; write {FORMS}")
    folder, _, split = description.removeprefix("voc:").partition(":")
    if not folder:
        raise ValueError(f"ODAM.DATASETS: {description!r} names no folder; write {FORMS}")
    return _Voc(str(Path(folder).expanduser()), split or None)


def _check_file(file: str) -> None:
    if not Path(file).is_file():
        raise FileNotFoundError(f"there is no annotation file {file}; paths in ODAM.DATASETS start at {Path.cwd()}")
