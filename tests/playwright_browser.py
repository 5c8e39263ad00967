"""Chromium with Playwright: real pointers and keys, files that a page saves, and a profile that outlasts a page."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest


@contextmanager
def open_browser(profile: Path, **options: Any) -> Iterator[Any]:
    """A browser whose profile, with what pages keep, stays in a folder; without one the test is skipped.

    Args:
        profile: folder for the browser; the same again finds what was kept.
        **options: of Playwright's ``launch_persistent_context``, such as ``has_touch``.

    Yields:
        Playwright's context.
    """
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="the package playwright, of the extra dev, is missing"
    )
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        pytest.skip("no chromium, chromium-browser or google-chrome on the PATH")
    settings = {"viewport": {"width": 1200, "height": 900}, "accept_downloads": True} | options
    with playwright.sync_playwright() as tool:
        context = tool.chromium.launch_persistent_context(
            profile, executable_path=program, headless=True, args=["--no-sandbox", "--disable-gpu"], **settings
        )
        # A busy machine takes its time.
        context.set_default_timeout(60_000)
        try:
            yield context
        finally:
            context.close()
