"""Pages in headless Chromium."""

import json
import os
import shutil
import signal
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest


def run_browser(url: str, profile: Path, *options: str, milliseconds: int = 4000, seconds: float = 60) -> str:
    """What headless Chromium prints about a page; where there is no browser, the test is skipped.

    Args:
        url: of the page.
        profile: folder for the browser.
        *options: of Chromium, such as ``--dump-dom``.
        milliseconds: that the page may believe to take.
        seconds: that the browser may take.
    """
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        pytest.skip("no chromium, chromium-browser or google-chrome on the PATH")
    command = [program, "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    command += ["--no-first-run", "--disable-dev-shm-usage", f"--user-data-dir={profile}", "--window-size=1300,900"]
    command += [f"--virtual-time-budget={milliseconds}", *options, url]
    # A group of its own, so that a browser that hangs can be ended with its children.
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)
    try:
        return process.communicate(timeout=seconds)[0].decode()
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        raise


def visit(page: Path, script: str, folder: Path) -> Any:
    """What a script inside a page finds: its ``seen`` after it ran, an object.

    Args:
        page: an HTML file.
        script: the body of an asynchronous function that fills ``seen``; ``settle()`` waits for the page.
        folder: for the browser.
    """
    driver = f"""<script>(async () => {{
      const seen = {{}};
      const settle = () => new Promise((done) => setTimeout(done, 150));
      try {{ {script} }} catch (error) {{ seen.error = String(error); }}
      document.body.dataset.seen = JSON.stringify(seen);
    }})();</script></body>"""
    driven = folder / f"driven_{page.name}"
    driven.write_text(page.read_text(encoding="utf-8").replace("</body>", driver), encoding="utf-8")
    options = {"milliseconds": 6000, "seconds": 120}
    dumped = run_browser(driven.as_uri(), folder / "profile", "--dump-dom", **options)
    body = next(line for line in dumped.splitlines() if "<body" in line)
    parser, found = HTMLParser(), {}
    parser.handle_starttag = lambda tag, attributes: found.setdefault(tag, dict(attributes))
    parser.feed(body)
    seen = json.loads(found["body"]["data-seen"])
    assert "error" not in seen, seen["error"]
    return seen
