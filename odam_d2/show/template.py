"""Pages as templates: what they have in common is written once, and what is theirs is filled in."""

import re
from collections.abc import Mapping
from importlib.resources import files

# A line of a template in whose place another file stands.
_INCLUDE = re.compile(r"/\* include ([\w.]+) \*/")
_SHARED = "odam_d2.show"


def read_template(package: str, name: str) -> str:
    """A page without its data.

    Args:
        package: in whose folder ``templates`` it lies, as do the files that it includes by ``/* include signed.js */``;
            what it does not have lies in that of :mod:`odam_d2.show`.
        name: such as ``report.html``.
    """
    own, shared = (files(one).joinpath("templates") for one in (package, _SHARED))

    def included(match: re.Match[str]) -> str:
        folder = own if own.joinpath(match[1]).is_file() else shared
        return folder.joinpath(match[1]).read_text(encoding="utf-8").rstrip("\n")

    return _INCLUDE.sub(included, own.joinpath(name).read_text(encoding="utf-8"))


def fill_template(package: str, name: str, parts: Mapping[str, str]) -> str:
    """A page of plain HTML.

    Args:
        package: see :func:`read_template`.
        name: likewise.
        parts: name -> HTML that takes the place of ``<!-- name -->``. No part holds a comment: all that comes from
            outside is escaped.
    """
    page = read_template(package, name)
    for part, text in parts.items():
        page = page.replace(f"<!-- {part} -->", text)
    return page


def around_data(package: str, name: str) -> tuple[str, str]:
    """What stands before and after the data of a page.

    Args:
        package: see :func:`read_template`.
        name: likewise.
    """
    before, after = read_template(package, name).split("<!-- data -->")
    return before, after
