"""Pieces of the command lines that several commands share: the same option is spelled and read the same everywhere."""

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# A name may hold brackets, and these anything: class_score[traffic light].
_NAME = re.compile(r"(?:\[[^\[\]]*\]|[^\s,\[\]])+")


def make_parser(command: str, description: str) -> argparse.ArgumentParser:
    """A parser that calls its command as people do.

    Args:
        command: name, such as ``explain-nms``.
        description: what it does; its first line stands alone, the lines below are kept as they are.
    """
    return argparse.ArgumentParser(
        prog=f"odam {command}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        # An option that is added later must not change what an abbreviation means.
        allow_abbrev=False,
    )


def add_config_file(parser: argparse.ArgumentParser, help: str | None = None, required: bool = True) -> None:
    """Add ``--config-file``."""
    parser.add_argument("--config-file", required=required, metavar="YAML", help=help)


def add_images(parser: argparse.ArgumentParser) -> None:
    """Add ``--input``, one or several words for :func:`odam_d2.data.images.find_images`."""
    parser.add_argument("--input", required=True, nargs="+", metavar="PATH", help="images, folders, glob patterns")


def add_dataset(parser: argparse.ArgumentParser) -> None:
    """Add ``--dataset``: a name, or a description as :mod:`odam_d2.data.own` has it."""
    own = "mine=ann.json:images/, mine=annotation.odgt:Images/ or mine=voc:folder/:split"
    help = f"a registered one, such as coco_mini_val, or your own: {own}"
    parser.add_argument("--dataset", required=True, metavar="NAME", help=help)


def add_opts(parser: argparse.ArgumentParser) -> None:
    """Add ``--opts``, which takes the rest of the line; last, because help shows options in the order of adding."""
    parser.add_argument(
        "--opts",
        nargs=argparse.REMAINDER,
        default=[],
        help="KEY VALUE KEY VALUE ...: keys of the config with other values; last on the line",
    )


def add_output(
    parser: argparse.ArgumentParser, help: str | None = None, metavar: str = "DIR", default: Path | None = None
) -> None:
    """Add ``--output``, a path; without a default it is required."""
    parser.add_argument("--output", type=Path, required=default is None, default=default, metavar=metavar, help=help)


def add_layer(parser: argparse.ArgumentParser) -> None:
    """Add ``--layer``, where explanations are made."""
    parser.add_argument("--layer", help="fpn, roi_pool or a stage such as res4; default: ODAM.EXPLAIN.LAYER")


def add_names(parser: argparse.ArgumentParser, option: str, help: str, default: Sequence[str] | None = None) -> None:
    """Add an option that takes a list of names, see :func:`split_names`.

    Parsing raises ``ValueError`` where the list is empty, or :func:`split_names` does.
    """
    parser.add_argument(
        option,
        nargs="+",
        action=_Names,
        default=default,
        metavar="NAME",
        help=f"separated by commas or spaces; {help}",
    )


def split_names(words: Sequence[str]) -> list[str]:
    """Names separated by commas, spaces or both.

    What stands in brackets belongs to the name, spaces and commas too: ``class_score[traffic light],x1`` are two, also
    where the shell made two words of the first.

    Args:
        words: of the command line.

    Raises:
        ValueError: a bracket without its partner, or one inside another.
    """
    text = " ".join(words)
    if re.search(r"[\[\]]", _NAME.sub("", text)):
        raise ValueError(f"{text!r} holds a bracket without its partner; write class_score[traffic light],x1")
    return _NAME.findall(text)


class _Names(argparse.Action):
    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option: str | None = None
    ) -> None:
        names = split_names(values)
        if not names:
            raise ValueError(
                f"{option} names no {self.dest.removesuffix('s')}; give names separated by commas or spaces"
            )
        setattr(namespace, self.dest, names)
