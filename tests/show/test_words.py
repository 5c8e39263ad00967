"""What sheets and pages say about a map."""

from odam_d2.explain import METHODS, TARGETS
from odam_d2.show.words import captions_of, meanings_of


def test_every_target_says_what_its_map_answers():
    meanings = meanings_of(TARGETS)
    assert list(meanings) == list(TARGETS) and all(meanings.values())
    assert meanings["x2"] == "why its right side is there"


def test_a_target_of_a_class_names_the_class():
    # Not "why": a map of a class that the detector denies is no reason for anything.
    assert meanings_of(["class_score[dog]", "class_logit[traffic light]", "class_score[a[b]]"]) == {
        "class_score[dog]": "what speaks for dog",
        "class_logit[traffic light]": "what speaks for traffic light (before the sigmoid/softmax)",
        "class_score[a[b]]": "what speaks for a[b]",
    }


def test_a_function_has_a_name_and_nothing_is_invented_about_it():
    assert meanings_of(["box_area"]) == {"box_area": ""}


def test_a_method_may_say_something_else():
    own = METHODS["drise"].meanings
    assert meanings_of(["class_score"], own) == {"class_score": "why this box with this class"}
    assert meanings_of(["x1"], own) == {"x1": "why its left side is there"}


def test_a_caption_tells_the_number_that_the_detection_does_not():
    values = {
        "class_score": [0.9, 0.5],
        "class_score[dog]": [0.014, 0.5],
        "class_logit": [2.2, 0.0],
        "class_logit[dog]": [-4.257, 0.0],
        "x1": [-10.0, -20.0],
        "box_area": [300.0, 12.5],
    }
    assert captions_of(values) == {
        "class_score[dog]": ["dog 0.01", "dog 0.50"],
        "class_logit": ["logit 2.20", "logit 0.00"],
        "class_logit[dog]": ["logit of dog -4.26", "logit of dog 0.00"],
        "box_area": ["box_area 300.00", "box_area 12.50"],
    }
    assert captions_of({}) == {}
