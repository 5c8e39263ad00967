"""Pages as templates: what is included, what is filled in, and that nothing of it is left over."""

import re
from importlib.resources import files

import pytest

from odam_d2.show.template import around_data, fill_template, read_template

PAGES = [
    ("odam_d2.show", "report.html"),
    ("odam_d2.show", "side_by_side.html"),
    ("odam_d2.evaluation.study", "evaluation.html"),
    ("odam_d2.evaluation.study", "errors.html"),
    ("odam_d2.evaluation.people", "trust.html"),
    ("odam_d2.evaluation.people", "marker.html"),
]


@pytest.mark.parametrize(("package", "name"), PAGES)
def test_every_page_has_the_colours_of_all_once_and_no_include_is_left(package, name):
    page = read_template(package, name)
    colours = files("odam_d2.show").joinpath("templates/base.css").read_text(encoding="utf-8")
    assert page.count(colours) == 1 and page.count("--page: #f6f6f4") == 1
    assert not re.search(r"/\* include", page)


@pytest.mark.parametrize("name", ["trust.html", "marker.html"])
def test_what_one_package_shares_is_included_from_there(name):
    page = read_template("odam_d2.evaluation.people", name)
    assert page.count("function checksum(") == page.count("function saveSigned(") == 1
    # It is called, and by nothing of an older name.
    assert page.count("saveSigned(") == 2 and "Text()" not in page


def test_a_file_of_the_package_comes_before_the_shared_one(tmp_path, monkeypatch):
    folder = tmp_path / "odam_paged" / "templates"
    folder.mkdir(parents=True)
    (folder.parent / "__init__.py").write_text("")
    (folder / "page.html").write_text("<style>\n/* include base.css */\n</style><!-- what --><!-- data --><p>")
    (folder / "base.css").write_text("p { color: red; }\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert around_data("odam_paged", "page.html") == ("<style>\np { color: red; }\n</style><!-- what -->", "<p>")
    filled = fill_template("odam_paged", "page.html", {"what": "<b>&lt;</b>", "data": "1"})
    assert filled == "<style>\np { color: red; }\n</style><b>&lt;</b>1<p>"


def test_a_file_that_nobody_has_is_an_error(tmp_path, monkeypatch):
    folder = tmp_path / "odam_lacking" / "templates"
    folder.mkdir(parents=True)
    (folder.parent / "__init__.py").write_text("")
    (folder / "page.html").write_text("/* include absent.css */")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(FileNotFoundError, match="absent.css"):
        read_template("odam_lacking", "page.html")
