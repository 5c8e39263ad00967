"""The users' pages: their blocks of code, and how a test checks and runs every command in them.

A page is walked in a folder that holds what it speaks of (``tests/docs/conftest.py``): small photographs and datasets,
and small configs under the names of the large ones. So commands run as they stand there, but for :data:`SMALLER`.
"""

import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from in_process import unchanged_loggers
from odam_d2.cli.main import COMMANDS

ROOT = Path(__file__).parents[1]
# Pages that a test module of their own walks.
PAGES_WITH_TESTS = ("clip", "people", "transformers", "your_data", "your_detector")
OWN_TESTS = {f"docs/{name}.md": f"tests/docs/test_{name}.py" for name in PAGES_WITH_TESTS}
# What a page's command says -> what the test says instead.
SMALLER = {
    # Detectron2 looks for it where DETECTRON2_DATASETS pointed when it was imported.
    "coco_2017_val": "coco_mini_val",
    "500": "4",  # masks of D-RISE
    "20": "1",  # steps of Deletion and Insertion
    "60": "1",  # objects
    "osie/fixations.mat": "fixations.csv",
    "osie/stimuli/1002.jpg": "photos/chelsea.jpg",
}
# What each command of a kind begins with; what it says itself comes later and counts.
ADDED = {
    "evaluate": ["--max-objects", "1", "--perturbation-steps", "1"],
    "sanity": ["--max-images", "1", "--max-detections", "1"],
    "errors": ["--max-images", "1"],
    "attention": ["--splits", "1", "--grid", "8"],
}
# Commands of odam that are only parsed, and why.
ONLY_PARSED = {"prepare-backbone": "it fetches a package from the index"}


@dataclass(frozen=True)
class Block:
    """Code on a page: its language, its text, and the line above it."""

    language: str
    text: str
    line: int


def list_pages() -> list[str]:
    """All pages for users, from the repository's root."""
    docs = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md"))
    return ["README.md", "configs/README.md", "projects/ODAM/README.md", *docs]


def find_blocks(page: str) -> list[Block]:
    """The blocks of a page in order; other fences, such as those of bibtex, too."""
    text = (ROOT / page).read_text(encoding="utf-8")
    found = re.finditer(r"^```(\w+)\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    return [Block(match[1], match[2], text.count("\n", 0, match.start()) + 1) for match in found]


def read_blocks(page: str, language: str) -> list[str]:
    """The texts of a page's blocks in one language."""
    return [block.text for block in find_blocks(page) if block.language == language]


def split_commands(text: str) -> list[list[str]]:
    """The commands of a block of bash, as words, without comments."""
    lines = [shlex.split(line, comments=True) for line in text.replace("\\\n", " ").splitlines()]
    return [words for words in lines if words]


def check_command(words: list[str]) -> None:
    """Check a command without running it.

    Raises:
        AssertionError: it is none that the pages may hold, or something that it names does not exist.
        SystemExit: ``odam`` does not understand its words.
    """
    checks: dict[str, Callable[..., None]] = {
        "odam": _check_odam,
        "bash": _check_script,
        "source": _check_activation,
        "pip": _check_pip,
        "python": _check_benchmark,
    }
    assert words[0] in checks, f"{shlex.join(words)}: tests/pages.py does not know how to check it"
    checks[words[0]](*words[1:])


def run_command(words: list[str]) -> None:
    """Run a command of ``odam`` with small settings, in this process and the working folder; check any other one."""
    check_command(words)
    if words[0] != "odam" or words[1] in ONLY_PARSED:
        return
    with unchanged_loggers("fvcore", "detectron2", "odam_d2"):
        code = _module(words[1]).main(make_smaller(words[1], words[2:]))
    assert code == 0, f"{shlex.join(words)}: exit code {code}"


def make_smaller(command: str, words: list[str]) -> list[str]:
    """The words of a command of ``odam`` as the test gives them."""
    return [*ADDED.get(command, []), *(SMALLER.get(word, word) for word in words)]


def walk(page: str) -> None:
    """Run all blocks of bash and Python of a page, in order, in the working folder; Python's in one namespace."""
    names: dict[str, Any] = {"__name__": page}
    for block in find_blocks(page):
        if block.language == "python":
            code = "\n" * block.line + block.text
            exec(compile(code, page, "exec"), names)  # noqa: S102
        elif block.language == "bash":
            for words in split_commands(block.text):
                run_command(words)


def _module(command: str) -> Any:
    assert command in COMMANDS, f"odam has no command {command}"
    return import_module(f"odam_d2.cli.{command.replace('-', '_')}")


def _check_odam(command: str, *words: str) -> None:
    _module(command).parse_arguments(list(words))


def _check_script(script: str, *words: str) -> None:
    """Not run: it sets up an environment, which takes a network and minutes; ``tests/test_setup.py`` is about that."""
    text = (ROOT / script).read_text(encoding="utf-8")
    assert text.startswith("#!/usr/bin/env bash")
    options = [word for word in words if word.startswith("--")]
    assert all(option in text for option in options), f"{script} does not know {options}"


def _check_activation(file: str) -> None:
    """Not run: it is about the reader's shell."""
    folder = file.removesuffix("/bin/activate")
    assert folder != file and folder in (ROOT / "scripts/setup_env.sh").read_text(encoding="utf-8")


def _check_pip(verb: str, what: str) -> None:
    """Not run: it changes the environment; ``tests/test_wheel.py`` installs the package into another one."""
    folder, _, extra = what.partition("[")
    assert verb == "install" and (ROOT / folder / "pyproject.toml").is_file()
    assert not extra or f"\n{extra.removesuffix(']')} = [" in (ROOT / folder / "pyproject.toml").read_text()


def _check_benchmark(script: str, *words: str) -> None:
    """Not run: a benchmark takes minutes to an hour."""
    assert script == "scripts/benchmark.py", f"{script}: tests/pages.py does not know how to check it"
    text = (ROOT / script).read_text(encoding="utf-8")
    assert words and all(f'"{word}"' in text for word in words[:1]), f"{script} has no {words}"
