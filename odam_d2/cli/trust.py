"""Studies of trust: questionnaire pages for the paper's three, and what comes of people's answers.

odam trust make writes one self-contained page a participant, in which no method is named, and key.json, which stays
with you. A participant opens the page in a browser, answers, and saves one file. odam trust analyse reads a folder of
these files: Table 4 or 5, the tests that belong to it, and Figure 14. odam trust power simulates how many participants
are needed; it is no result about people.
"""

import argparse
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from odam_d2.cli.arguments import add_dataset, add_output, make_parser
from odam_d2.cli.common import make_table, print_table, progress_bar, quiet_detectron2, run_command
from odam_d2.evaluation.people.trust.agreement import (
    SIMILARITIES,
    draw_trends,
    mean_ranks,
    read_similarities,
)
from odam_d2.evaluation.people.trust.analysis import DEPENDENT, Analysis, analyse
from odam_d2.evaluation.people.trust.answers import Answers, read_answers
from odam_d2.evaluation.people.trust.power import EFFECTS, SIMULATION, draw_power, simulate_power
from odam_d2.evaluation.people.trust.studies import (
    DRAW,
    KEY_FILE,
    RANK,
    STUDIES,
    Study,
    check_study,
    choose_items,
    plan_study,
    read_key,
    write_key,
)
from odam_d2.files import write_atomically

# Numbers of participants that are simulated.
PARTICIPANTS = (1, 2, 3, 4, 6, 8, 10, 15, 20, 30, 40)
WINDOWS = ("object", "image")


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line: what to do, and its options."""
    parser = make_parser("trust", __doc__)
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    for name, (description, add_options, _) in ACTIONS.items():
        own = actions.add_parser(name, help=description, description=description, allow_abbrev=False)
        add_options(own)
    return parser.parse_args(argv)


def add_make(parser: argparse.ArgumentParser) -> None:
    """The options of ``make``."""
    kinds = "; ".join(f"{name}: {kind.title}" for name, kind in STUDIES.items())
    parser.add_argument("--study", required=True, metavar="KIND", help=kinds)
    add_dataset(parser)
    maps = "a folder of maps for each method, as odam evaluate --save-maps writes them to maps/"
    parser.add_argument("--maps", required=True, nargs="+", type=Path, metavar="FOLDER", help=maps)
    parser.add_argument("--names", nargs="+", metavar="NAME", help="of the methods; default: of the folders")
    add_output(parser, help="for the pages and key.json")
    parser.add_argument("--participants", type=int, default=40, metavar="N", help="default 40")
    parser.add_argument("--questions", type=int, default=30, metavar="N", help="of each participant (default 30)")
    objects = "of as many classes as possible (default 120); 0 for all with maps"
    parser.add_argument("--objects", type=int, default=120, metavar="N", help=objects)
    parser.add_argument("--seed", type=int, default=0)


def make(args: argparse.Namespace) -> int:
    """Write the pages and the key."""
    names = args.names or [folder.resolve().name for folder in args.maps]
    if len(names) != len(args.maps):
        raise ValueError(
            f"{len(args.maps)} folders of maps need a name each, not {len(names)} names ({', '.join(names)})"
        )
    # Mistakes that cost nothing to find come first.
    check_study(args.study, names, args.participants, args.questions, args.questions)
    if args.objects < 0 or args.seed < 0:
        raise ValueError(f"--objects is {args.objects} and --seed {args.seed}; neither can be negative")
    # Imported here, because it brings Detectron2, which analysing does without.
    from detectron2.config import get_cfg

    from odam_d2.config import add_odam_config
    from odam_d2.data.own import add_datasets
    from odam_d2.evaluation.people.trust.make import find_items, write_pages

    quiet_detectron2()
    cfg = get_cfg()
    add_odam_config(cfg)
    (dataset,) = add_datasets(cfg, [args.dataset])
    items = find_items(dataset, args.maps)
    if args.objects:
        items = choose_items(items, args.objects, args.seed)
    study = plan_study(args.study, names, items, args.participants, args.questions, args.seed)
    args.output.mkdir(parents=True, exist_ok=True)
    if (args.output / KEY_FILE).exists():
        raise ValueError(
            f"{args.output} holds the key of a study already; choose another folder, so that it is not lost"
        )
    key = write_key(args.output, study)
    with progress_bar() as progress:
        task = progress.add_task("pages", total=len(study.participants))
        pages = write_pages(args.output, study, dict(zip(names, args.maps)), lambda _: progress.advance(task))
    print(f"study {study.id}: {len(pages)} pages with {args.questions} questions each about {len(items)} objects")
    print(f"give {pages[0].name} and the others to participants, one each; keep {key} to yourself")
    return 0


def add_analyse(parser: argparse.ArgumentParser) -> None:
    """The options of ``analyse``."""
    parser.add_argument("answers", type=Path, metavar="FOLDER", help="of the files that participants saved")
    parser.add_argument("--key", required=True, type=Path, metavar="JSON", help="key.json of the study")
    add_output(parser)
    parser.add_argument("--marks", type=Path, metavar="JSON", help="what the marker saved; study draw")
    similarity = "attention.csv of odam attention, for Figure 14; study rank"
    parser.add_argument("--similarity", type=Path, metavar="CSV", help=similarity)
    parser.add_argument("--method", metavar="NAME", help="of Figure 14; default the first of the study")
    parser.add_argument("--window", default=WINDOWS[0], choices=WINDOWS, help="of Figure 14 (default object)")


def run_analyse(args: argparse.Namespace) -> int:
    """Write and print what came of the answers."""
    study = read_key(args.key)
    if args.marks and study.kind != DRAW:
        raise ValueError(f"--marks is about drawn boxes; the study {study.id} has none")
    if args.similarity and study.kind != RANK:
        raise ValueError(f"--similarity is about ranked maps; in the study {study.id} nothing was ranked")
    answers = read_answers(args.answers, study)
    marks = None
    if args.marks:
        from odam_d2.evaluation.people.trust.marker import read_marks

        marks = read_marks(args.marks, study, answers)
    analysis = analyse(study, answers, marks)
    args.output.mkdir(parents=True, exist_ok=True)
    content = to_json(study, analysis)
    lines = []
    if args.similarity:
        content["figure 14"], lines = make_figure_14(args, study, answers)
    write_atomically(args.output / "analysis.json", json.dumps(content, indent=1) + "\n")
    write_atomically(args.output / "analysis.md", to_markdown(study, analysis, lines))
    counts = analysis.counts
    print(f"{study.id}: {counts['responses']} responses of {counts['participants']} of {counts['of']} participants")
    print_table(make_table("", analysis.headings, analysis.rows))
    for line in [*map(say_test, analysis.tests), *lines]:
        print(line)
    print(DEPENDENT)
    if study.kind == DRAW and marks is None:
        from odam_d2.evaluation.people.trust.marker import write_marker_page

        write_marker_page(args.output / "marker.html", study, answers)
        print(f"for accuracy by a blind marker: let somebody open {args.output / 'marker.html'}, and give --marks")
    print(f"see {args.output / 'analysis.md'}")
    return 0


def make_figure_14(args: argparse.Namespace, study: Study, answers: Answers) -> tuple[dict[str, Any], list[str]]:
    """Draw Figure 14; its numbers, and sentences about them."""
    method = args.method or study.methods[0]
    if method not in study.methods:
        raise ValueError(f"unknown method {method!r}; the study compares {', '.join(study.methods)}")
    similarities, task = read_similarities(args.similarity, method, args.window)
    trends = draw_trends(
        args.output / "figure14.png", mean_ranks(study, answers, method), similarities, f"NOTE: {task}"
    )
    lines = [
        f"{SIMILARITIES[name]} of {method} against its average rank: slope {trend.slope:.4f} a rank, r = "
        f"{trend.r:.2f}, p = {trend.p:.3g}, {trend.count} objects"
        for name, trend in trends.items()
    ]
    numbers = {name: {key: _finite(value) for key, value in trend._asdict().items()} for name, trend in trends.items()}
    return {"method": method, "window": args.window, "task": task, **numbers}, [*lines, f"NOTE: {task}"]


def to_json(study: Study, analysis: Analysis) -> dict[str, Any]:
    """Everything as ``analysis.json`` has it."""
    return {
        "study": study.id,
        "kind": study.kind,
        "methods": list(study.methods),
        "counts": analysis.counts,
        "table": {"headings": analysis.headings, "rows": analysis.rows},
        "tests": [
            {"name": test.name, "about": test.about, "statistic": _finite(test.statistic), "p": _finite(test.p)}
            for test in analysis.tests
        ],
        "note": DEPENDENT,
    }


def to_markdown(study: Study, analysis: Analysis, more: Sequence[str]) -> str:
    """Everything as ``analysis.md`` has it."""
    counts = analysis.counts
    rows = [analysis.headings, ["---"] * len(analysis.headings), *analysis.rows]
    lines = [
        f"# {STUDIES[study.kind].title} ({study.id})",
        "",
        f"{counts['responses']} responses of {counts['participants']} of {counts['of']} participants.",
        "",
        *(f"| {' | '.join(cells)} |" for cells in rows),
        "",
        *(f"- {say_test(test)}" for test in analysis.tests),
        *(f"- {line}" for line in more),
        "",
        DEPENDENT,
        "",
    ]
    return "\n".join(lines)


def say_test(test: Any) -> str:
    """A test in a line."""
    if math.isnan(test.p):
        return f"{test.about}: {test.name}: nothing to test"
    return f"{test.about}: {test.name}: {test.statistic:.2f}, p = {test.p:.3g}"


def add_power(parser: argparse.ArgumentParser) -> None:
    """The options of ``power``."""
    add_output(parser, help="the figure; default power.png", metavar="PNG", default=Path("power.png"))
    parser.add_argument("--repeats", type=int, default=200, metavar="N", help="simulated studies each (default 200)")
    parser.add_argument("--seed", type=int, default=0)


def power(args: argparse.Namespace) -> int:
    """Simulate, draw and print; it says everywhere that it is a simulation."""
    if args.repeats < 1 or args.seed < 0:
        raise ValueError(f"--repeats is {args.repeats} and --seed {args.seed}; at least 1 and 0 are needed")
    with progress_bar() as progress:
        kinds = progress.track(list(EFFECTS), description="simulating")
        powers = {kind: simulate_power(kind, PARTICIPANTS, args.repeats, args.seed) for kind in kinds}
    args.output.parent.mkdir(parents=True, exist_ok=True)
    draw_power(args.output, powers, PARTICIPANTS)
    rows = [[str(count), *(f"{100 * own[i]:.0f}" for own in powers.values())] for i, count in enumerate(PARTICIPANTS)]
    print_table(make_table("simulated, % that find the effect", ["participants", *powers], rows))
    print(SIMULATION)
    print(f"see {args.output}")
    return 0


def _finite(value: float) -> float | None:
    return None if isinstance(value, float) and math.isnan(value) else value


Act = Callable[[argparse.Namespace], int]
ACTIONS: dict[str, tuple[str, Callable[[argparse.ArgumentParser], None], Act]] = {
    "make": ("write the pages of a study, one a participant, and its key", add_make, make),
    "analyse": ("read the files that participants saved: tables, tests, Figure 14", add_analyse, run_analyse),
    "power": ("simulate how many participants find the paper's effect", add_power, power),
}


def run(argv: Sequence[str] | None) -> int:
    """Do what was asked for."""
    args = parse_arguments(argv)
    return ACTIONS[args.action][2](args)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the exit code is 1 where it cannot be done."""
    return run_command(lambda: run(argv))
