"""Scripts run in the tests' own process: importing Detectron2 again for each command would take most of the time."""

import logging
import runpy
import sys
from contextlib import contextmanager


@contextmanager
def unchanged_loggers(*names):
    """Scripts set Detectron2's loggers up; other tests want them as they were."""
    loggers = [logging.getLogger(name) for name in names]
    states = [(logger.level, logger.propagate, list(logger.handlers)) for logger in loggers]
    try:
        yield
    finally:
        for logger, (level, propagate, handlers) in zip(loggers, states):
            logger.setLevel(level)
            logger.propagate, logger.handlers = propagate, handlers


def call_script(path, words, monkeypatch, capsys):
    """Exit code, stdout and stderr of a script."""
    monkeypatch.setattr(sys, "argv", [path, *map(str, words)])
    monkeypatch.setenv("COLUMNS", "200")
    capsys.readouterr()
    with unchanged_loggers("fvcore", "detectron2"):
        code = runpy.run_path(path)["main"]()
    return code, *capsys.readouterr()
