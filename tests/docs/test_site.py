"""The documentation as a site: built without a warning, complete, and with nothing from another host."""

import logging
import os
import re
import runpy
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import griffe
import pytest

ROOMS = (
    "odam_d2",
    *(f"odam_d2.{room}" for room in ("distill", "explain", "losses", "model_zoo", "modeling", "nms", "structures")),
    "odam_d2.teaching",
)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def package():
    return griffe.load("odam_d2", search_paths=["."], docstring_parser="google")


@pytest.mark.slow
def test_every_page_is_in_the_site(site):
    pages = [path.relative_to("docs").with_suffix(".html") for path in Path("docs").rglob("*.md")]
    assert len(pages) > 15 and not [page for page in pages if not (site / page).is_file()]


@pytest.mark.slow
def test_nothing_comes_from_another_host(site):
    parts = re.compile(r"<(?:script|img|iframe|source)\b[^>]*\bsrc=[^>]*>|<link\b[^>]*>")
    found = [tag for page in site.rglob("*.html") for tag in parts.findall(page.read_text(encoding="utf-8"))]
    assert len(found) > 100
    # What a page is, and what comes before and after it, is only said.
    said = re.compile(r"\brel=\"?(?:canonical|prev|next)\b")
    assert not [tag for tag in found if re.search(r"=[\"']?(?:https?:)?//", tag) and not said.search(tag)]
    styles = [path.read_text(encoding="utf-8") for path in site.rglob("*.css")]
    assert styles and not [style for style in styles if re.search(r"(?:url\(|@import )[\"']?(?:https?:)?//", style)]


@pytest.mark.slow
def test_whatever_a_room_offers_is_in_the_reference(site):
    pages = "".join(page.read_text(encoding="utf-8") for page in (site / "reference").glob("*.html"))
    shown = {name.rpartition(".")[2] for name in re.findall(r'id="(odam_d2\.[\w.]+)"', pages)}
    offered = {name for room in ROOMS for name in import_module(room).__all__}
    assert len(offered) > 50 and not offered - shown
    assert not re.search(r":(?:attr|class|data|func|meth|mod):", pages)


def test_docstrings_agree_with_signatures(package, caplog):
    def parse(scope):
        if scope.docstring is not None:
            assert scope.docstring.parsed
        return 1 + sum(parse(member) for member in scope.members.values() if not member.is_alias)

    with caplog.at_level(logging.WARNING, "griffe"):
        assert parse(package) > 500
    assert not caplog.messages


@pytest.mark.parametrize(
    ("where", "name", "found"),
    [
        # Imported, defined in the same module, a member of the class itself, and a full name.
        ("explain.gradients.detection_gradients", "Trace", "odam_d2.structures.trace.Trace"),
        ("nms.family.GreedyNMS.__call__", "NMS", "odam_d2.nms.family.NMS"),
        ("structures.heat_maps.HeatMaps", "smooth", "odam_d2.structures.heat_maps.HeatMaps.smooth"),
        ("explanation.Explanation", "odam_d2.structures.HeatMaps", "odam_d2.structures.heat_maps.HeatMaps"),
        ("explanation.Explanation", "Nothing", "Nothing"),
    ],
)
def test_a_role_is_a_link_to_where_its_name_is_defined(where, name, found, package):
    roles = runpy.run_path("scripts/docs_roles.py")
    assert roles["find"](name, package[where]) == found
    link = f'<autoref optional identifier="{found}"><code>{name}</code></autoref>'
    assert (
        roles["ROLE"].sub(lambda role: roles["link"](role["name"], package[where]), f"a :class:`{name}`.")
        == f"a {link}."
    )
