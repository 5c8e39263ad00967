"""Config files as people write them: what yaml and yacs would stumble over is said before, in one sentence."""

import os
from collections.abc import Sequence
from typing import Any

import yaml
from detectron2.config import CfgNode
from detectron2.utils.file_io import PathManager

BASE_KEY = "_BASE_"


def merge_file(cfg: CfgNode, file: str) -> None:
    """``cfg.merge_from_file`` for a file that may hold anything.

    Args:
        cfg: in place.
        file: path of a yaml file.

    Raises:
        ValueError: a Python config, no yaml, an empty file, one that includes itself, a key that does not exist or a
            value of the wrong type.
    """
    if file.endswith(".py"):
        raise ValueError(
            "it is a Python config and commands take yaml; build its model with detectron2.config.instantiate and hand "
            "it to odam_d2.ODAMPredictor.from_model"
        )
    try:
        _check_file(file, cfg)
        # The loader must not run code from a yaml file.
        cfg.merge_from_file(file, allow_unsafe=False)
    except (KeyError, ValueError, AssertionError, AttributeError, TypeError, OSError, yaml.YAMLError) as error:
        raise ValueError(sentence(error)) from error


def merge_options(cfg: CfgNode, opts: Sequence[str]) -> None:
    """``cfg.merge_from_list`` for words from a command line.

    Args:
        cfg: in place.
        opts: ``KEY VALUE KEY VALUE ...``.

    Raises:
        ValueError: a key that does not exist or a value of the wrong type.
    """
    if len(opts) % 2:
        raise ValueError(f"options come in KEY VALUE pairs, but {len(opts)} words were given: {' '.join(opts)}")
    for key, value in zip(opts[::2], opts[1::2]):
        if isinstance(_find(cfg, key), CfgNode):
            raise ValueError(f"option {key} {value} cannot be used: {key} is a section; name a key in it")
        try:
            cfg.merge_from_list([key, value])
        except (KeyError, ValueError, AssertionError, TypeError) as error:
            raise ValueError(f"option {key} {value} cannot be used: {sentence(error)}") from error


def sentence(error: Exception) -> str:
    """An exception's message on one line; a ``KeyError`` would put it in quotes."""
    return " ".join(str(error.args[0] if isinstance(error, KeyError) and error.args else error).split())


def _check_file(file: str, cfg: CfgNode, above: tuple[str, ...] = ()) -> None:
    """Refuse a file, or one that it is based on, that lacks sections where they should be, or leads back to itself."""
    chain = (*above, os.path.abspath(file))
    if chain[-1] in above:
        raise ValueError(f"it includes itself by {BASE_KEY}: {' -> '.join(chain)}")
    what = f"its {BASE_KEY} {file}" if above else "it"
    with PathManager.open(file, "r") as opened:
        content = yaml.safe_load(opened)
    if content is None:
        raise ValueError(f"{what} is empty")
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise ValueError(f"{what} holds no keys and sections such as MODEL")
    _check_sections(content, cfg, what)
    for base in _bases(content.get(BASE_KEY, [])):
        if not base.startswith(("https://", "http://")):
            _check_file(os.path.join(os.path.dirname(file), os.path.expanduser(base)), cfg, chain)


def _check_sections(content: dict[str, Any], cfg: CfgNode, what: str, path: str = "") -> None:
    for key, value in content.items():
        section = cfg.get(key)
        if not isinstance(section, CfgNode):
            continue
        if not isinstance(value, dict):
            raise ValueError(f"{what} has {path}{key}: {'' if value is None else value}, where a section should be")
        _check_sections(value, section, what, f"{path}{key}.")


def _find(cfg: CfgNode, key: str) -> Any:
    """What a key such as MODEL.DEVICE holds, None where there is no such key."""
    found: Any = cfg
    for part in key.split("."):
        found = found.get(part) if isinstance(found, CfgNode) else None
    return found


def _bases(value: Any) -> list[str]:
    bases = value if isinstance(value, list) else [value]
    if not all(isinstance(base, str) for base in bases):
        raise ValueError(f"its {BASE_KEY} is {value!r}; it must be the path of a yaml file, or a list of them")
    return bases
