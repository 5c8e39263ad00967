"""Commands run in the tests' own process leave Detectron2's loggers and catalogs as other tests want them."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from detectron2.data import DatasetCatalog, MetadataCatalog


@contextmanager
def unchanged_loggers(*names: str) -> Iterator[None]:
    """Commands quiet Detectron2's loggers; other tests want them as they were."""
    loggers = [logging.getLogger(name) for name in names]
    states = [(logger.level, logger.propagate, list(logger.handlers)) for logger in loggers]
    try:
        yield
    finally:
        for logger, (level, propagate, handlers) in zip(loggers, states):
            logger.setLevel(level)
            logger.propagate, logger.handlers = propagate, handlers


@contextmanager
def unchanged_catalogs() -> Iterator[None]:
    """Commands register all datasets; other tests register them elsewhere."""
    before = [set(catalog) for catalog in (DatasetCatalog, MetadataCatalog)]
    try:
        yield
    finally:
        for catalog, names in zip((DatasetCatalog, MetadataCatalog), before):
            for name in set(catalog) - names:
                catalog.remove(name)
