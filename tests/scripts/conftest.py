"""``scripts`` is no package: its modules are found as its programs find them."""

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def scripts(monkeypatch):
    monkeypatch.syspath_prepend(str(Path("scripts").resolve()))
