"""The files that participants saved: read, and refused by name where they cannot be used.

A file ends with a checksum of all before it. It shows that somebody edited the file by hand; it does not stop anybody
who wants to deceive, who could work it out anew.
"""

import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from odam_d2.evaluation.people.trust.studies import CHOOSE, KEY_FORMAT, RANK, Question, Study

ANSWERS_FORMAT = "odam_d2 trust answers 1"
MARKS_FORMAT = "odam_d2 trust marks 1"
# What somebody chooses who finds no difference, beside the options 0 and 1.
SIMILAR = 2
CONFIDENCES = (1, 2, 3, 4, 5)
# Question id -> the answer to it.
Answers = dict[str, dict[str, Any]]


def checksum(content: Mapping[str, Any]) -> str:
    """CRC-32 of a file's content without its checksum, as the page works it out: 8 hexadecimal digits.

    Args:
        content: JSON types with whole numbers alone, in the file's order.
    """
    own = {key: value for key, value in content.items() if key != "checksum"}
    text = json.dumps(own, separators=(",", ":"), ensure_ascii=False)
    return f"{zlib.crc32(text.encode('utf-8')):08x}"


def read_answers(folder: Path, study: Study) -> Answers:
    """Read all participants' files of a study.

    Args:
        folder: holds their ``json`` files and no others but the key.
        study: the study.

    Returns:
        question id -> its answer, of all participants whose files are there.

    Raises:
        FileNotFoundError: there is no such folder, or no file in it.
        ValueError: a file that is foreign, of another study, unfinished, edited by hand, or of somebody who answered in
            another file already; the message names it.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder of answers {folder}")
    answers: Answers = {}
    known: dict[str, str] = {}
    for path in sorted(folder.glob("*.json")):
        content = read_signed(path, ANSWERS_FORMAT)
        if content is None:
            continue
        check_owner(path, content, study)
        participant = content.get("participant")
        if participant not in study.participants:
            raise ValueError(f"{path} is of participant {participant!r}, whom the study {study.id} does not have")
        if participant in known:
            raise ValueError(
                f"{path} and {known[participant]} are both of participant {participant}; keep the one that counts"
            )
        known[participant] = str(path)
        answers |= _check_answers(path, content.get("answers"), study.questions_of(participant), study)
    if not known:
        raise FileNotFoundError(f"the folder {folder} holds no answers; participants save them as json files")
    return answers


def read_signed(path: Path, form: str) -> dict[str, Any] | None:
    """A file that one of the pages saved; None for a study's key or another of our forms.

    Args:
        path: of the file.
        form: its format.

    Raises:
        ValueError: it is foreign, or was edited by hand; the message names it.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise ValueError(f"{path} cannot be read as JSON: {' '.join(str(error).split())}") from error
    found = content.get("format") if isinstance(content, dict) else None
    if found != form:
        if found in (KEY_FORMAT, ANSWERS_FORMAT, MARKS_FORMAT):
            return None
        if isinstance(found, str) and found.startswith("odam_d2 trust "):
            raise ValueError(f"{path} has the format {found!r}, which this version of odam_d2 does not know")
        raise ValueError(f"{path} is no file that a questionnaire saved; move it out of the folder")
    if content.get("checksum") != checksum(content):
        raise ValueError(
            f"{path} was changed after it was saved: its checksum does not fit; ask for the file as it was"
        )
    return content


def check_owner(path: Path, content: Mapping[str, Any], study: Study) -> None:
    """Refuse a file of another study.

    Raises:
        ValueError: names the file and both studies.
    """
    if content.get("study") != study.id:
        raise ValueError(
            f"{path} belongs to the study {content.get('study')!r}, and the key to {study.id!r}; analyse each study in "
            "a folder of its own"
        )


def _check_answers(path: Path, given: Any, questions: Sequence[Question], study: Study) -> Answers:
    by_id = {one.get("id"): one for one in given} if isinstance(given, list) else {}
    missing = [question.id for question in questions if question.id not in by_id]
    if missing:
        raise ValueError(
            f"{path} is not finished: {len(missing)} of {len(questions)} questions have no answer, the first "
            f"{missing[0]}"
        )
    for question in questions:
        if not _is_answer(by_id[question.id], question, study):
            raise ValueError(f"{path} has no answer that can be used to question {question.id}: {by_id[question.id]}")
    strange = by_id.keys() - {question.id for question in questions}
    if strange or len(given) != len(questions):
        raise ValueError(f"{path} has answers to questions that were not asked, or two to one; it cannot be used")
    return {question.id: by_id[question.id] for question in questions}


def _is_answer(answer: Mapping[str, Any], question: Question, study: Study) -> bool:
    if study.kind == RANK:
        ranks = answer.get("ranks")
        return isinstance(ranks, list) and sorted(ranks) == list(range(1, len(question.options) + 1))
    if study.kind == CHOOSE:
        return answer.get("choice") in (0, 1, SIMILAR)
    box, sure = answer.get("box"), answer.get("confidence")
    numbers = isinstance(box, list) and len(box) == 4 and all(isinstance(side, int) for side in box)
    return numbers and box[0] < box[2] and box[1] < box[3] and sure in CONFIDENCES
