"""SIMULATED participants, for tests alone: no person answered any of this."""

import json

import numpy as np

from odam_d2.evaluation.people.trust.answers import ANSWERS_FORMAT, checksum
from odam_d2.evaluation.people.trust.studies import Item, plan_study

METHODS = ("odam", "gradcam", "drise")


def make_items(count):
    """Objects of four classes, each 20 x 20 in an image of 100 x 80."""
    return [
        Item(str(i // 2), str(10 * i), f"class{i % 4}", f"/photos/{i // 2}.jpg", (80, 100), (10.0, 20.0, 30.0, 40.0))
        for i in range(count)
    ]


def make_study(kind="rank", methods=METHODS, items=6, participants=4, each=3, seed=0):
    return plan_study(kind, methods, make_items(items), participants, each, seed)


def simulated_file(study, participant, answer, **changes):
    """A file as the page saves it; ``answer`` is given the question and returns what was answered."""
    questions = study.questions_of(participant)
    content = {
        "format": ANSWERS_FORMAT,
        "study": study.id,
        "kind": study.kind,
        "participant": participant,
        "answers": [{"id": question.id, **answer(question), "ms": 1000} for question in questions],
    } | changes
    return {**content, "checksum": checksum(content)}


def write_files(folder, study, answer, participants=None):
    folder.mkdir(parents=True, exist_ok=True)
    for name in participants or study.participants:
        (folder / f"{name}.json").write_text(json.dumps(simulated_file(study, name, answer), ensure_ascii=False))
    return folder


def rank_by(order):
    """Everybody ranks the methods in this order."""
    return lambda question: {"ranks": [1 + order.index(name) for name in question.options]}


def random_ranks(seed=0):
    rng = np.random.default_rng(seed)
    return lambda question: {"ranks": [int(rank) + 1 for rank in rng.permutation(len(question.options))]}
