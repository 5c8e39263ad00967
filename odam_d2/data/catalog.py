"""Detectron2's catalogs: where datasets lie, which there are, and how to register one without taking a name away."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.catalog import Metadata


def datasets_folder(root: str | Path | None = None) -> Path:
    """The folder that holds the datasets.

    Args:
        root: that folder; default ``$DETECTRON2_DATASETS``, as for Detectron2's own datasets.
    """
    return Path(root or os.environ.get("DETECTRON2_DATASETS", "datasets")).expanduser()


def register_dataset(name: str, load: Callable[[], list[dict[str, Any]]], **metadata: Any) -> None:
    """Register a dataset, unless one of that name, a user's own perhaps, is there: it stays as it is.

    Args:
        name: in Detectron2's catalogs.
        load: returns Detectron2's dataset dicts; called when they are needed.
        **metadata: what Detectron2 and odam_d2 shall know of it. What somebody set for that name before stays, too.
    """
    if name in DatasetCatalog:
        return
    DatasetCatalog.register(name, load)
    known = MetadataCatalog.get(name)
    known.set(**{key: value for key, value in metadata.items() if key not in known.as_dict()})


def check_registered(name: str) -> None:
    """Refuse the name of a dataset that nobody registered.

    Raises:
        ValueError: lists the datasets whose files are here.
    """
    if name not in DatasetCatalog:
        raise ValueError(f"unknown dataset {name!r}; {_available()}")


def _available() -> str:
    """The datasets that a user can name here and now."""
    here = [name for name in DatasetCatalog.list() if _has_files(MetadataCatalog.get(name))]
    if not here:
        return "no registered dataset has its files here; set DETECTRON2_DATASETS to the folder that holds them"
    return f"those with files here are {', '.join(sorted(here))}"


def _has_files(metadata: Metadata) -> bool:
    """Whether the annotations are there, in a file, in a folder of VOC's layout, or those of all its parts."""
    files = [metadata.get(key) for key in ("json_file", "odgt_file")]
    folder = metadata.get("dirname")
    parts = metadata.get("parts", ())
    if parts:
        return all(_has_files(MetadataCatalog.get(name)) for name in parts)
    return any(file and Path(file).is_file() for file in files) or bool(folder and Path(folder, "Annotations").is_dir())
