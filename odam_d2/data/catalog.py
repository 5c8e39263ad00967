"""Detectron2's catalogs: where datasets lie, and how to register one without taking its name from anybody."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog


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
