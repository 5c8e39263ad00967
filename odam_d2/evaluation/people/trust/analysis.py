"""Tables 4 and 5 of the paper, and the tests that belong to them, from people's answers.

Shapes: n responses, M methods.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import chi2_contingency, chisquare, ttest_ind, wilcoxon

from odam_d2.boxes import box_iou
from odam_d2.evaluation.people.trust.answers import CONFIDENCES, SIMILAR, Answers
from odam_d2.evaluation.people.trust.studies import CHOOSE, RANK, Study

# From this IoU with the object's box on, a drawn box means it.
SAME_OBJECT = 0.5
DEPENDENT = (
    "Responses are taken for independent of each other, as in the paper, although several are of one person and of one "
    "object: read p-values accordingly."
)


class Test(NamedTuple):
    """A statistical test.

    Attributes:
        name: such as ``Wilcoxon signed-rank``.
        about: what is compared.
        statistic: NaN where there is nothing to test.
        p: two-sided p-value, NaN likewise.
    """

    # pytest shall not take it for one of its own.
    __test__ = False

    name: str
    about: str
    statistic: float
    p: float


class Analysis(NamedTuple):
    """What came of a study.

    Attributes:
        headings: of the table's columns.
        rows: a method a row.
        tests: of the first method against each other one.
        counts: ``participants``, ``responses`` and more.
    """

    headings: list[str]
    rows: list[list[str]]
    tests: list[Test]
    counts: dict[str, Any]


def analyse(study: Study, answers: Answers, marks: Mapping[str, bool] | None = None) -> Analysis:
    """The table of a study, with its tests.

    Args:
        study: the study.
        answers: of :func:`odam_d2.evaluation.people.trust.answers.read_answers`.
        marks: where boxes were drawn, question id -> whether a marker, who did not know the method, took the box for
            the object's.
    """
    if study.kind == RANK:
        return _analyse_ranks(study, answers)
    return _analyse_choices(study, answers) if study.kind == CHOOSE else _analyse_boxes(study, answers, marks)


def ranks_by_method(study: Study, answers: Answers) -> np.ndarray:
    """The rank of every method in every response, (n,M) int64, 1 for the best.

    Args:
        study: of the kind ``rank``.
        answers: of its participants.
    """
    asked = [question for question in study.questions if question.id in answers]
    ranks = [
        [answers[question.id]["ranks"][question.options.index(name)] for name in study.methods] for question in asked
    ]
    return np.array(ranks, dtype=np.int64).reshape(-1, len(study.methods))


def compare_ranks(ranks: np.ndarray, methods: Sequence[str]) -> list[Test]:
    """The first method against each other one: first places by chi-squared, ranks by Wilcoxon's signed-rank test.

    Args:
        ranks: (n,M).
        methods: M names.
    """
    tests = []
    for m, other in enumerate(methods[1:], 1):
        firsts = [int((ranks[:, place] == 1).sum()) for place in (0, m)]
        about = f"{methods[0]} and {other}"
        tests.append(_test("χ²(1), first places", about, chisquare, firsts, defined=sum(firsts) > 0))
        tests.append(
            _test("Wilcoxon signed-rank, ranks", about, wilcoxon, ranks[:, 0], ranks[:, m], defined=len(ranks) > 0)
        )
    return tests


def compare_confidence(first: np.ndarray, other: np.ndarray, about: str) -> Test:
    """Welch's t-test of two methods' confidences.

    Args:
        first: (n,).
        other: (n',).
        about: for people.
    """
    enough = min(len(first), len(other)) > 1 and (np.ptp(first) > 0 or np.ptp(other) > 0)
    return _test("t-test (Welch), confidence", about, ttest_ind, first, other, defined=enough, equal_var=False)


def compare_accuracy(first: np.ndarray, other: np.ndarray, about: str) -> Test:
    """Chi-squared test of independence of method and correctness, without continuity correction.

    Args:
        first: (n,) bool.
        other: (n',) bool.
        about: for people.
    """
    table = np.array([[own.sum(), (~own).sum()] for own in (first, other)])
    defined = bool((table.sum(axis=0) > 0).all() and (table.sum(axis=1) > 0).all())
    return _test("χ²(1), accuracy", about, chi2_contingency, table, defined=defined, correction=False)


def is_same_object(box: Sequence[float], target: Sequence[float]) -> bool:
    """Whether a drawn box means an object: an IoU of at least :data:`SAME_OBJECT` with its box."""
    boxes = (np.array([one], dtype=np.float64) for one in (box, target))
    return bool(box_iou(*boxes)[0, 0] >= SAME_OBJECT)


def _analyse_ranks(study: Study, answers: Answers) -> Analysis:
    ranks, count = ranks_by_method(study, answers), len(study.methods)
    rows = []
    for m, name in enumerate(study.methods):
        shares = [f"{100 * (ranks[:, m] == place).mean():.1f}" for place in range(1, count + 1)]
        rows.append([name, *shares, f"{ranks[:, m].mean():.2f}"])
    headings = ["method", *(_ordinal(place) for place in range(1, count + 1)), "AR"]
    return Analysis(headings, rows, compare_ranks(ranks, study.methods), _counts(study, answers))


def _analyse_choices(study: Study, answers: Answers) -> Analysis:
    chosen = {name: 0 for name in (*study.methods, "similar")}
    for question in study.questions:
        if question.id in answers:
            choice = answers[question.id]["choice"]
            chosen["similar" if choice == SIMILAR else question.options[choice]] += 1
    total = sum(chosen.values())
    rows = [[name, str(number), f"{100 * number / total:.1f}"] for name, number in chosen.items()]
    counts = [chosen[name] for name in study.methods]
    about = f"{study.methods[0]} and {study.methods[1]}, without those who found them similar"
    tests = [_test("χ²(1), choices", about, chisquare, counts, defined=sum(counts) > 0)]
    return Analysis(["detector", "responses", "%"], rows, tests, _counts(study, answers))


def _analyse_boxes(study: Study, answers: Answers, marks: Mapping[str, bool] | None) -> Analysis:
    sure: dict[str, list[int]] = {name: [] for name in study.methods}
    right: dict[str, list[bool]] = {name: [] for name in study.methods}
    marked: dict[str, list[bool]] = {name: [] for name in study.methods}
    for question in study.questions:
        if question.id in answers:
            (name,), answer = question.options, answers[question.id]
            sure[name].append(answer["confidence"])
            right[name].append(is_same_object(answer["box"], study.items[question.item].box))
            marked[name] += [marks[question.id]] if marks is not None else []
    rows = []
    for name in study.methods:
        own = np.array(sure[name])
        shares = [f"{100 * (own == level).mean():.2f}" if len(own) else "–" for level in CONFIDENCES]
        means = [f"{own.mean():.2f}" if len(own) else "–"]
        accuracy = [f"{100 * np.mean(some[name]):.2f}" if some[name] else "not marked" for some in (right, marked)]
        rows.append([name, *shares, *means, *accuracy])
    tests, first = [], study.methods[0]
    for other in study.methods[1:]:
        about = f"{first} and {other}"
        tests.append(compare_confidence(np.array(sure[first]), np.array(sure[other]), about))
        ways = [(right, "by IoU"), *([(marked, "by the marker")] if marks is not None else [])]
        for some, how in ways:
            parts = (np.array(some[name], dtype=bool) for name in (first, other))
            tests.append(compare_accuracy(*parts, f"{about}, {how}"))
    levels = [str(level) for level in CONFIDENCES]
    levels[0], levels[-1] = "1 (least)", "5 (most)"
    headings = ["method", *levels, "avg. conf.", f"accuracy (IoU ≥ {SAME_OBJECT})", "accuracy (marker)"]
    return Analysis(headings, rows, tests, _counts(study, answers))


def _counts(study: Study, answers: Answers) -> dict[str, Any]:
    people = {question.participant for question in study.questions if question.id in answers}
    return {"participants": len(people), "of": len(study.participants), "responses": len(answers)}


def _test(name: str, about: str, run: Any, *parts: Any, defined: bool = True, **options: Any) -> Test:
    if not defined:
        return Test(name, about, math.nan, math.nan)
    done = run(*parts, **options)
    return Test(name, about, float(done[0]), float(done[1]))


def _ordinal(place: int) -> str:
    return f"{place}{ {1: 'st', 2: 'nd', 3: 'rd'}.get(place, 'th') }"
