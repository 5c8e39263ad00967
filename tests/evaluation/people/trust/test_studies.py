"""Who is asked what: balance, seeds, and the key that comes back as it was."""

from collections import Counter

import pytest

from evaluation.people.trust.simulated import METHODS, make_items, make_study
from odam_d2.evaluation.people.trust.studies import choose_items, plan_study, read_key, write_key


def test_objects_are_asked_about_equally_often_and_nobody_sees_one_twice():
    """5 participants with 6 questions about 10 objects: each object 3 times."""
    study = make_study(items=10, participants=5, each=6)
    assert Counter(question.item for question in study.questions) == dict.fromkeys(range(10), 3)
    for participant in study.participants:
        own = [question.item for question in study.questions_of(participant)]
        assert len(own) == len(set(own)) == 6
    assert len({question.id for question in study.questions}) == 30


def test_the_paper_s_study_gets_ten_responses_an_object():
    study = make_study(methods=("odam", "drise", "gradcam", "gradcam++"), items=120, participants=40, each=30)
    assert set(Counter(question.item for question in study.questions).values()) == {10}


def test_pictures_stand_in_every_order():
    study = make_study(items=120, participants=40, each=30)
    orders = Counter(question.options for question in study.questions)
    # 1200 questions over 3! = 6 orders: 200 each, with a standard deviation below 13.
    assert len(orders) == 6 and max(abs(count - 200) for count in orders.values()) < 65


def test_where_a_box_is_drawn_everybody_sees_each_method_equally_often():
    study = make_study("draw", items=6, participants=5, each=6)
    for participant in study.participants:
        shown = Counter(question.options for question in study.questions_of(participant))
        assert shown == {("odam",): 2, ("gradcam",): 2, ("drise",): 2}
    # And they do not come in turn.
    assert len({tuple(q.options for q in study.questions_of(p)) for p in study.participants}) > 3


@pytest.mark.parametrize(
    ("participants", "each", "items"), [(40, 30, 120), (40, 15, 120), (40, 15, 60), (40, 15, 150), (7, 10, 23)]
)
def test_where_a_box_is_drawn_all_methods_show_the_same_objects(participants, each, items):
    methods = ("odam", "drise", "gradcam", "gradcam++")
    study = make_study("draw", methods, items=items, participants=participants, each=each)
    shown = Counter((question.item, question.options[0]) for question in study.questions)
    for item in range(items):
        own = [shown[item, method] for method in methods]
        assert max(own) - min(own) <= 1
    for participant in study.participants:
        own = Counter(question.options[0] for question in study.questions_of(participant))
        assert max(own.values()) - min(own[method] for method in methods) <= 1


@pytest.mark.parametrize("kind", ["rank", "draw"])
def test_a_seed_makes_the_study_and_everything_in_it_the_name(kind):
    assert make_study(kind, seed=3) == make_study(kind, seed=3)
    assert make_study(kind, seed=3).questions != make_study(kind, seed=4).questions
    others = [make_study(kind, **own) for own in ({"seed": 4}, {"methods": ("odam", "gradcam", "bbam")}, {"items": 7})]
    moved = [item._replace(annotation_id=f"b{i}") for i, item in enumerate(make_items(6))]
    others += [make_study(kind), plan_study(kind, METHODS, moved, 4, 3)]
    assert len({study.id for study in others}) == len(others)


def test_objects_are_chosen_from_as_many_classes_as_possible():
    items = [
        *make_items(8),
        *(item._replace(name="common", annotation_id=f"c{i}") for i, item in enumerate(make_items(50))),
    ]
    chosen = choose_items(items, 5, seed=1)
    assert {item.name for item in chosen} == {"class0", "class1", "class2", "class3", "common"}
    assert Counter(item.name for item in choose_items(items, 10, seed=1)) == dict.fromkeys({i.name for i in items}, 2)
    assert len(choose_items(items, 999)) == 58 and choose_items(items, 5, seed=2) != chosen


def test_the_key_comes_back_as_it_was(tmp_path):
    study = make_study("draw")
    assert read_key(write_key(tmp_path, study)) == study


@pytest.mark.parametrize(
    ("text", "culprit"),
    [("[]", "no key that odam trust make wrote"), ("{}", "format"), ('{"format": "x"}', "'x'"), ("no json", "no key")],
)
def test_what_is_no_key_is_refused(text, culprit, tmp_path):
    (tmp_path / "key.json").write_text(text)
    with pytest.raises(ValueError, match=culprit):
        read_key(tmp_path / "key.json")
    with pytest.raises(FileNotFoundError, match="odam trust make writes it"):
        read_key(tmp_path / "absent.json")


@pytest.mark.parametrize(
    ("change", "culprit"),
    [
        ({"kind": "guess"}, "unknown study 'guess'; valid studies are rank, choose, draw"),
        ({"kind": "choose"}, "the study choose compares 2 methods; 3 were named"),
        ({"methods": ("odam",)}, "the study rank compares at least 2 methods; 1 were named"),
        ({"methods": ("odam", "odam")}, "'odam' is not: give --names"),
        ({"methods": tuple("abcdefghij")}, "nobody can rank more than 9"),
        ({"participants": 0}, "0 participants"),
        ({"each": 7}, "7 questions each need 7 objects, so that nobody sees one twice; there are 6"),
    ],
)
def test_studies_that_cannot_be_made_are_refused(change, culprit):
    with pytest.raises(ValueError, match=culprit):
        make_study(**change)
