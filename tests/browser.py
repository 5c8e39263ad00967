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


def visit(page: Path, script: str, folder: Path) -> Any:
    """What a script inside a page finds: its ``seen`` after it ran, an object.

    Args:
        page: an HTML file.
        script: the body of an asynchronous function that fills ``seen``; ``settle()`` waits for the page.
        folder: for the browser.
    """
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        pytest.skip("no chromium, chromium-browser or google-chrome on the PATH")
    driver = f"""<script>(async () => {{
      const seen = {{}};
      const settle = () => new Promise((done) => setTimeout(done, 150));
      try {{ {script} }} catch (error) {{ seen.error = String(error); }}
      document.body.dataset.seen = JSON.stringify(seen);
    }})();</script></body>"""
    driven = folder / f"driven_{page.name}"
    driven.write_text(page.read_text(encoding="utf-8").replace("</body>", driver), encoding="utf-8")
    command = [program, "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    command += ["--no-first-run", "--disable-dev-shm-usage", f"--user-data-dir={folder / 'profile'}"]
    command += ["--window-size=1300,900", "--virtual-time-budget=6000", "--dump-dom", driven.as_uri()]
    # A group of its own, so that a browser that hangs can be ended with its children.
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)
    try:
        dumped = process.communicate(timeout=120)[0].decode()
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        raise
    body = next(line for line in dumped.splitlines() if "<body" in line)
    parser, found = HTMLParser(), {}
    parser.handle_starttag = lambda tag, attributes: found.setdefault(tag, dict(attributes))
    parser.feed(body)
    seen = json.loads(found["body"]["data-seen"])
    assert "error" not in seen, seen["error"]
    return seen
