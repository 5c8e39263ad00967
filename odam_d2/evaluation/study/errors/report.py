"""The page of a detector's errors: how many of each kind, what their maps look at, and the worst of each class.

One self-contained file of plain HTML, ``templates/errors.html`` filled in.
"""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

from odam_d2.evaluation.detections.error_modes import CORRECT, IGNORED, KINDS
from odam_d2.evaluation.study.errors.pictures import Picture
from odam_d2.evaluation.study.errors.settings import ErrorSettings
from odam_d2.evaluation.study.errors.summary import say_energy
from odam_d2.files import write_atomically
from odam_d2.show.template import fill_template


class Shown(NamedTuple):
    """An error on the page.

    Attributes:
        severity: the worst come first.
        number: of the error, in ``errors.csv``.
        title: what it is, for people.
        reason: why.
        pictures: the photograph and the maps.
    """

    severity: float
    number: int
    title: str
    reason: str
    pictures: Sequence[Picture]


def write_errors_page(
    path: Path,
    summary: Mapping[str, Any],
    shown: Mapping[tuple[str, str], Sequence[Shown]],
    settings: ErrorSettings,
    facts: Mapping[str, Any],
) -> None:
    """Write the page.

    Args:
        path: of the HTML file, in an existing folder; replaced in one step.
        summary: of :func:`odam_d2.evaluation.study.errors.summary.summarize_errors`.
        shown: (kind, class) -> the worst errors.
        settings: of the run.
        facts: about the run, for readers.

    Raises:
        OSError: the file cannot be written; an older page is then left as it was.
    """
    parts = {
        "lead": "".join(f"<p>{escape(text)}</p>" for text in _lead(summary, settings)),
        "kinds": _kinds(summary),
        "energy": _energy(summary),
        "groups": "".join(_group(kind, summary, shown) for kind in KINDS),
        "details": "".join(f"<dt>{escape(name)}</dt><dd>{escape(str(value))}</dd>" for name, value in facts.items()),
    }
    page = fill_template("odam_d2.evaluation.study", "errors.html", parts)
    write_atomically(path, page.encode("utf-8", errors="replace"))


def _lead(summary: Mapping[str, Any], settings: ErrorSettings) -> list[str]:
    counts, kinds = summary["counts"], summary["kinds"]
    errors = sum(kinds[name] for name in KINDS)
    detections = sum(kinds.values()) - kinds["missed"]
    lead = [
        f"{detections} detections with a score above {settings.score_threshold} and {counts['objects']} objects in "
        f"{counts['images']} images: {kinds[CORRECT]} detections are correct, and there are {errors} errors.",
        f"A box fits from an IoU of {settings.foreground} on, and means nothing below {settings.background}.",
    ]
    if not counts["with_mask"] and counts["objects"]:
        lead.append("The dataset has no masks: where the energy of a map lies is told by boxes.")
    elif counts["with_mask"] < counts["objects"]:
        lead.append(f"{counts['objects'] - counts['with_mask']} objects have no mask; their boxes stand for them.")
    if kinds[IGNORED]:
        lead.append(f"{kinds[IGNORED]} detections lie in crowds and do not count.")
    return lead if errors else [*lead, "This detector made no error here."]


def _kinds(summary: Mapping[str, Any]) -> str:
    rows = []
    for name, meaning in KINDS.items():
        classes = ", ".join(f"{label} {count}" for label, count in list(summary["classes"][name].items())[:5])
        count = summary["kinds"][name]
        link = f'<a href="#{name}">{name}</a>' if count else name
        cells = (f'<th scope="row">{link}</th>', f"<td>{count}</td>", f'<td class="word">{escape(meaning)}</td>')
        rows.append(f'<tr>{"".join(cells)}<td class="word">{escape(classes)}</td></tr>')
    head = '<tr><th>kind</th><th>errors</th><th class="word">what it is</th><th class="word">most often</th></tr>'
    return f"<table><thead>{head}</thead><tbody>{''.join(rows)}</tbody></table>"


def _energy(summary: Mapping[str, Any]) -> str:
    return "".join(f"<li>{escape(sentence)}</li>" for sentence in say_energy(summary["energy"]))


def _group(kind: str, summary: Mapping[str, Any], shown: Mapping[tuple[str, str], Sequence[Shown]]) -> str:
    """A kind: its classes, the most frequent first, each with its worst errors."""
    if not summary["kinds"][kind]:
        return ""
    sections = []
    for label, count in summary["classes"][kind].items():
        cards = "".join(map(_card, shown.get((kind, label), ())))
        sections.append(
            f'<section class="class"><h3>{escape(label)} <span class="quiet">{count}</span></h3>{cards}</section>'
        )
    title = f'<h2>{kind} <span class="quiet">{summary["kinds"][kind]}: {escape(KINDS[kind])}</span></h2>'
    return f'<section id="{kind}">{title}{"".join(sections)}</section>\n'


def _card(one: Shown) -> str:
    figures = []
    for picture in one.pictures:
        look = ' class="reference"' if picture.reference else ""
        caption = f'<span class="quiet">{escape(picture.caption)}</span>' if picture.caption else ""
        figures.append(
            f'<figure{look}><img src="data:image/jpeg;base64,{picture.jpeg}" loading="lazy" '
            f'alt="{escape(picture.title)}"><figcaption>{escape(picture.title)} {caption}</figcaption></figure>'
        )
    reason = f'<p class="quiet">{escape(one.reason)}</p>' if one.reason else ""
    return f'<article><h4>{escape(one.title)}</h4>{reason}<div class="row">{"".join(figures)}</div></article>\n'
