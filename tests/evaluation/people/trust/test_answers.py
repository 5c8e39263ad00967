"""Files of answers, SIMULATED: what is read, and each file that is refused by its name."""

import json
import zlib

import pytest

from evaluation.people.trust.simulated import make_study, rank_by, simulated_file, write_files
from odam_d2.evaluation.people.trust.answers import checksum, read_answers
from odam_d2.evaluation.people.trust.studies import write_key

ANSWER = rank_by(("odam", "drise", "gradcam"))


def test_answers_of_all_files_are_read_and_the_key_beside_them_is_passed_over(tmp_path):
    study = make_study()
    write_key(write_files(tmp_path, study, ANSWER), study)
    answers = read_answers(tmp_path, study)
    assert len(answers) == 12
    for question in study.questions:
        by_method = dict(zip(question.options, answers[question.id]["ranks"]))
        assert by_method == {"odam": 1, "drise": 2, "gradcam": 3}


def test_participants_who_did_not_answer_are_not_waited_for(tmp_path):
    study = make_study()
    write_files(tmp_path, study, ANSWER, participants=["02"])
    assert set(read_answers(tmp_path, study)) == {"02-01", "02-02", "02-03"}


def test_the_checksum_is_crc_32_of_the_text_without_it():
    """That of the nine digits "123456789" is cbf43926 in every table of check values; here of a JSON text, by zlib."""
    assert f"{zlib.crc32(b'123456789'):08x}" == "cbf43926"
    text = '{"a":[1,2],"b":"ä"}'
    expected = f"{zlib.crc32(text.encode()):08x}"
    assert checksum({"a": [1, 2], "b": "ä", "checksum": "old"}) == expected


def edited(content):
    content["answers"][0]["ranks"] = content["answers"][0]["ranks"][::-1]
    return content


def signed(content):
    return {**content, "checksum": checksum(content)}


@pytest.mark.parametrize(
    ("change", "culprit"),
    [
        (edited, "01.json was changed after it was saved"),
        (
            lambda c: signed(c | {"answers": c["answers"][:2]}),
            "01.json is not finished: 1 of 3 questions have no answer",
        ),
        (lambda c: signed(c | {"study": "rank-other"}), "01.json belongs to the study 'rank-other', and the key to"),
        (lambda c: signed(c | {"participant": "99"}), "01.json is of participant '99', whom the study"),
        (
            lambda c: c | {"format": "odam_d2 trust answers 9"},
            "01.json has the format 'odam_d2 trust answers 9', which",
        ),
        (lambda c: {"some": "thing"}, "01.json is no file that a questionnaire saved"),
        (lambda c: [1, 2], "01.json is no file that a questionnaire saved"),
        (
            lambda c: signed(c | {"answers": [*c["answers"], {"id": "09-09"}]}),
            "01.json has answers to questions that were not",
        ),
        (lambda c: signed(c | {"answers": None}), "01.json is not finished"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_by_name(change, culprit, tmp_path):
    study = make_study()
    write_files(tmp_path, study, ANSWER)
    path = tmp_path / "01.json"
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    with pytest.raises(ValueError, match=culprit):
        read_answers(tmp_path, study)


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        ("rank", {"ranks": [1, 1, 2]}),
        ("rank", {"ranks": [0, 1, 2]}),
        ("rank", {"ranks": [1, 2]}),
        ("draw", {"box": None, "confidence": 3}),
        ("draw", {"box": [1, 2, 3, 4.5], "confidence": 3}),
        ("draw", {"box": [5, 2, 3, 4], "confidence": 3}),
        ("draw", {"box": [1, 2, 3, 4], "confidence": 0}),
    ],
)
def test_an_answer_that_is_none_is_refused(kind, wrong, tmp_path):
    study = make_study(kind)
    write_files(tmp_path, study, lambda question: wrong, ["01"])
    with pytest.raises(ValueError, match="01.json has no answer that can be used to question 01-01"):
        read_answers(tmp_path, study)


def test_a_choice_that_is_none_is_refused(tmp_path):
    study = make_study("choose", methods=("weak", "strong"))
    write_files(tmp_path, study, lambda question: {"choice": -1}, ["01"])
    with pytest.raises(ValueError, match="01.json has no answer that can be used"):
        read_answers(tmp_path, study)


def test_answering_twice_is_refused_with_both_names(tmp_path):
    study = make_study()
    write_files(tmp_path, study, ANSWER)
    (tmp_path / "01 (1).json").write_text(json.dumps(simulated_file(study, "01", ANSWER)))
    with pytest.raises(ValueError, match=r"01\.json and .*01 \(1\)\.json are both of participant 01"):
        read_answers(tmp_path, study)


def test_two_studies_in_one_folder_are_refused(tmp_path):
    write_files(tmp_path, make_study(seed=1), ANSWER, ["01"])
    other = make_study(seed=2)
    write_files(tmp_path, other, ANSWER, ["02"])
    with pytest.raises(ValueError, match="01.json belongs to the study"):
        read_answers(tmp_path, other)


def test_files_that_are_no_json_and_folders_without_answers_are_refused(tmp_path):
    study = make_study()
    with pytest.raises(FileNotFoundError, match="no folder of answers"):
        read_answers(tmp_path / "absent", study)
    with pytest.raises(FileNotFoundError, match="holds no answers"):
        read_answers(tmp_path, study)
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(ValueError, match="x.json cannot be read as JSON"):
        read_answers(tmp_path, study)
