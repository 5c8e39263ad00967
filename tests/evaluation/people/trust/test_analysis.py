"""Tables 4 and 5, the tests and Figure 14, from SIMULATED answers whose outcome is worked out by hand."""

import math

import numpy as np
import pytest

from evaluation.people.trust.simulated import make_study, random_ranks, rank_by, write_files
from odam_d2.evaluation.people.trust.agreement import draw_trends, fit_trend, mean_ranks, read_similarities
from odam_d2.evaluation.people.trust.analysis import analyse, compare_accuracy, is_same_object, ranks_by_method
from odam_d2.evaluation.people.trust.answers import SIMILAR, read_answers
from odam_d2.evaluation.people.trust.power import (
    DRISE_RANKS,
    ODAM_RANKS,
    SIMULATION,
    draw_power,
    rank_pairs,
    simulate_power,
)


def answers_of(tmp_path, study, answer):
    return read_answers(write_files(tmp_path / "answers", study, answer), study)


def test_everybody_of_one_opinion(tmp_path):
    """12 responses: odam first, drise second. Chi-squared of (12, 0) is 6^2/6 + 6^2/6 = 12."""
    study = make_study()
    found = analyse(study, answers_of(tmp_path, study, rank_by(("odam", "drise", "gradcam"))))
    assert found.headings == ["method", "1st", "2nd", "3rd", "AR"]
    assert found.rows == [
        ["odam", "100.0", "0.0", "0.0", "1.00"],
        ["gradcam", "0.0", "0.0", "100.0", "3.00"],
        ["drise", "0.0", "100.0", "0.0", "2.00"],
    ]
    assert found.counts == {"participants": 4, "of": 4, "responses": 12}
    squares = [test for test in found.tests if "χ²" in test.name]
    assert [test.statistic for test in squares] == [12, 12]
    # The tail of chi-squared with one degree of freedom is erfc(sqrt(x / 2)).
    assert squares[0].p == pytest.approx(math.erfc(math.sqrt(6)))
    signed = [test for test in found.tests if "Wilcoxon" in test.name]
    assert all(test.statistic == 0 and test.p < 0.01 for test in signed)


def test_ranks_belong_to_methods_whatever_the_order_of_the_pictures(tmp_path):
    """A random ranking: worked out again from each question by itself."""
    study = make_study(items=10, participants=5, each=6)
    answers = answers_of(tmp_path, study, random_ranks())
    ranks = ranks_by_method(study, answers)
    for question, row in zip(study.questions, ranks):
        shown = answers[question.id]["ranks"]
        assert row.tolist() == [shown[question.options.index(name)] for name in ("odam", "gradcam", "drise")]
    table = analyse(study, answers).rows
    for m, row in enumerate(table):
        assert sum(map(float, row[1:4])) == pytest.approx(100, abs=0.2)
        assert float(row[4]) == pytest.approx(ranks[:, m].mean(), abs=0.005)


def test_choices_are_counted_by_detector_and_tested_without_similar_ones(tmp_path):
    """12 answers: 6 strong, 2 weak, 4 similar; chi-squared of (2, 6) is 2^2/4 + 2^2/4 = 2."""
    study = make_study("choose", methods=("strong", "weak"))
    number = iter(range(12))

    def answer(question):
        i = next(number)
        wanted = "strong" if i < 6 else "weak"
        return {"choice": SIMILAR if i >= 8 else question.options.index(wanted)}

    found = analyse(study, answers_of(tmp_path, study, answer))
    assert found.rows == [["strong", "6", "50.0"], ["weak", "2", "16.7"], ["similar", "4", "33.3"]]
    (test,) = found.tests
    assert test.statistic == 2 and test.p == pytest.approx(math.erfc(1))


def test_the_paper_s_numbers_give_the_paper_s_test():
    """38.2 % and 28.6 % with chi-squared 8.10 and p = .004: of 587 people, 224 and 168 chose."""
    from scipy.stats import chisquare

    found = chisquare([224, 168])
    assert found.statistic == pytest.approx(8.0, abs=0.2) and found.pvalue == pytest.approx(0.0045, abs=0.001)


def boxes_answer(question):
    """Right and sure with odam, right and unsure with drise, elsewhere and least sure with gradcam."""
    right = {"box": [11, 20, 30, 41]}
    return {
        "odam": right | {"confidence": 5},
        "drise": right | {"confidence": 3},
        "gradcam": {"box": [50, 50, 60, 60], "confidence": 1},
    }[question.options[0]]


def test_drawn_boxes_give_confidence_and_accuracy(tmp_path):
    study = make_study("draw")
    found = analyse(study, answers_of(tmp_path, study, boxes_answer))
    assert found.rows == [
        ["odam", "0.00", "0.00", "0.00", "0.00", "100.00", "5.00", "100.00", "not marked"],
        ["gradcam", "100.00", "0.00", "0.00", "0.00", "0.00", "1.00", "0.00", "not marked"],
        ["drise", "0.00", "0.00", "100.00", "0.00", "0.00", "3.00", "100.00", "not marked"],
    ]
    by_name = {(test.name, test.about): test for test in found.tests}
    accuracy = by_name["χ²(1), accuracy", "odam and gradcam, by IoU"]
    # Four right of four and none of four: 8 * (4 * 4)^2 / 4^4 = 8.
    assert accuracy.statistic == pytest.approx(8)
    assert math.isnan(by_name["χ²(1), accuracy", "odam and drise, by IoU"].p)
    assert math.isnan(by_name["t-test (Welch), confidence", "odam and gradcam"].p)


def test_the_marker_decides_by_herself(tmp_path):
    study = make_study("draw")
    answers = answers_of(tmp_path, study, boxes_answer)
    marks = {question.id: question.options[0] == "gradcam" for question in study.questions}
    assert [row[-1] for row in analyse(study, answers, marks).rows] == ["0.00", "100.00", "0.00"]
    assert sum("by the marker" in test.about for test in analyse(study, answers, marks).tests) == 2


def test_a_chi_squared_by_hand():
    """3 of 4 and 1 of 4 right: all expected counts are 2, so 4 * 1/2 = 2."""
    found = compare_accuracy(np.array([1, 1, 1, 0], bool), np.array([1, 0, 0, 0], bool), "x")
    assert found.statistic == pytest.approx(2)


def test_a_box_means_the_object_from_half_of_it_on():
    assert is_same_object([0, 0, 10, 10], [0, 0, 10, 20]) and not is_same_object([0, 0, 10, 9], [0, 0, 10, 20])


# ---- Figure 14 -------------------------------------------------------------------------------------------------------


def test_the_trend_is_the_regression_line():
    """Similarity falls by .1 a rank exactly: r = -1, p = 0."""
    ranks = {("1", str(i)): 1 + i / 4 for i in range(5)}
    exact = fit_trend(ranks, {key: 0.9 - 0.1 * rank for key, rank in ranks.items()})
    assert exact == pytest.approx((-0.1, 0.9, -1, 0, 5), abs=1e-7)
    # By hand: x = 1, 2, 3 and y = 1, 3, 2: slope 1/2, intercept 1, r = 1/2.
    some = fit_trend({("a", "1"): 1, ("a", "2"): 2, ("a", "3"): 3}, {("a", "1"): 1, ("a", "2"): 3, ("a", "3"): 2})
    assert some[:3] == pytest.approx((0.5, 1, 0.5))


def test_without_enough_objects_or_without_differences_there_is_no_line():
    two = {("a", "1"): 1.0, ("a", "2"): 2.0}
    assert math.isnan(fit_trend(two, two).slope) and fit_trend(two, two).count == 2
    same = {("a", str(i)): 1.0 for i in range(5)}
    assert math.isnan(fit_trend(same, same).slope)


def test_average_ranks_are_those_of_an_object(tmp_path):
    study = make_study(items=6, participants=4, each=3)
    answers = answers_of(tmp_path, study, random_ranks(1))
    found = mean_ranks(study, answers, "drise")
    assert len(found) == 6
    for i, item in enumerate(study.items):
        own = [q for q in study.questions if q.item == i]
        ranks = [answers[q.id]["ranks"][q.options.index("drise")] for q in own]
        assert found[item.image_id, item.annotation_id] == pytest.approx(np.mean(ranks))


HEADER = "image_id,annotation_id,method,window,cosine,correlation,otd,jsd,task\n"


def write_similarities(path, rows):
    path.write_text(HEADER + "".join(f"{image},{own},odam,object,{v},{v},,{v},looked\n" for image, own, v in rows))
    return path


def test_similarities_are_read_and_drawn_with_what_people_were_told(tmp_path):
    path = write_similarities(tmp_path / "attention.csv", [("1", str(i), i / 10) for i in range(4)])
    found, task = read_similarities(path, "odam", "object")
    assert task == "looked" and found["cosine"]["1", "3"] == 0.3 and found["otd"] == {}
    ranks = {("1", str(i)): 4.0 - i for i in range(4)}
    trends = draw_trends(tmp_path / "figure14.png", ranks, found, task)
    assert trends["cosine"].r == pytest.approx(-1) and math.isnan(trends["otd"].slope)
    assert (tmp_path / "figure14.png").read_bytes()[:4] == b"\x89PNG"


def test_a_figure_14_that_cannot_be_drawn_is_refused(tmp_path):
    path = write_similarities(tmp_path / "attention.csv", [("1", "1", 0.5)])
    with pytest.raises(ValueError, match="no row of the method drise in the window object"):
        read_similarities(path, "drise", "object")
    with pytest.raises(ValueError, match="lacks the column"):
        (tmp_path / "x.csv").write_text("a,b\n1,2\n")
        read_similarities(tmp_path / "x.csv", "odam", "object")
    with pytest.raises(FileNotFoundError, match="odam attention writes it"):
        read_similarities(tmp_path / "absent.csv", "odam", "object")
    with pytest.raises(ValueError, match="1 objects have both"):
        draw_trends(tmp_path / "f.png", {("1", "1"): 1.0}, read_similarities(path, "odam", "object")[0], "")


# ---- power, a SIMULATION ---------------------------------------------------------------------------------------------


def test_simulated_pairs_of_ranks_have_the_paper_s_shares_and_no_tie():
    table = rank_pairs(ODAM_RANKS, DRISE_RANKS)
    assert table.sum(axis=1) == pytest.approx(np.array(ODAM_RANKS) / 100, abs=1e-3)
    assert table.sum(axis=0) == pytest.approx(np.array(DRISE_RANKS) / 100, abs=1e-3)
    assert not table.diagonal().any() and table.min() >= 0


@pytest.mark.parametrize("kind", ["rank", "choose", "draw"])
def test_more_simulated_participants_find_the_effect_more_often(kind):
    few, many = simulate_power(kind, [1, 60], repeats=40)
    assert 0 <= few <= many and many > 0.9


def test_simulations_are_seeded_and_say_what_they_are(tmp_path):
    assert simulate_power("choose", [5], 30, seed=1) == simulate_power("choose", [5], 30, seed=1)
    assert SIMULATION.startswith("SIMULATION, no people")
    draw_power(tmp_path / "power.png", {"rank": [0.1, 0.9]}, [1, 2])
    assert (tmp_path / "power.png").read_bytes()[:4] == b"\x89PNG"
    with pytest.raises(ValueError, match="unknown study 'x'"):
        simulate_power("x", [1])
    with pytest.raises(ValueError, match="at least 1 is needed"):
        simulate_power("rank", [0])
