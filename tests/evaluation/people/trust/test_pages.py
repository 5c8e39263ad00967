"""The pages of the three studies in a real browser, with pointer, keys and finger; whoever answers is SIMULATED."""

import json

import pytest

from evaluation.people.trust.simulated import write_files
from odam_d2.evaluation.people.trust.answers import SIMILAR, read_answers
from odam_d2.evaluation.people.trust.make import find_items, write_pages
from odam_d2.evaluation.people.trust.marker import read_marks, write_marker_page
from odam_d2.evaluation.people.trust.studies import plan_study
from playwright_browser import open_browser


@pytest.fixture
def make(mapped, tmp_path):
    """(kind, methods) -> a study of one participant with three questions, and its page."""
    _, folders = mapped

    def make_page(kind, methods=("odam", "gradcam", "drise"), participants=1, each=3):
        own = {name: folders[name] for name in methods}
        study = plan_study(kind, methods, find_items("asked", list(own.values())), participants, each, seed=1)
        (tmp_path / "pages").mkdir(exist_ok=True)
        return study, write_pages(tmp_path / "pages", study, own)

    return make_page


def save(page, folder):
    """Click and wait for the file, as a participant hands it over."""
    folder.mkdir(exist_ok=True)
    with page.expect_download() as download:
        page.click("#save")
    path = folder / download.value.suggested_filename
    download.value.save_as(path)
    return path


def only_page(context, path):
    page = context.pages[0]
    page.errors = []
    page.on("pageerror", lambda error: page.errors.append(str(error)))
    page.on("request", lambda request: page.errors.append(request.url) if request.url.startswith("http") else None)
    page.goto(path.as_uri())
    return page


def stage_of(page):
    """Where the photograph lies, once it is there and painted: before, a finger would scroll the page."""
    page.wait_for_function("document.querySelector('#stage img')?.naturalHeight > 0")
    page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    return page.locator("#stage").bounding_box()


def test_nothing_on_the_page_tells_a_method(make):
    _, (page,) = make("rank")
    text = page.read_text()
    assert not any(name in text for name in ("gradcam", "drise", "Grad-CAM")) and "https://" not in text
    # ODAM's name stands in our own, never as a method's.
    data = json.loads(text.split('id="study">')[1].split("</script>")[0])
    assert "odam" not in json.dumps([{**q, "photo": "", "pictures": []} for q in data["questions"]])
    assert [len(question["pictures"]) for question in data["questions"]] == [3, 3, 3]


def test_maps_are_ranked_by_pointer_and_keys_and_go_on_after_the_page_was_closed(make, tmp_path):
    study, (path,) = make("rank")
    with open_browser(tmp_path / "profile") as context:
        page = only_page(context, path)
        assert page.is_visible("#welcome") and page.inner_text("#total") == "3"
        page.click("#start")
        assert page.inner_text("#position") == "question 1 of 3" and page.is_disabled("#next")
        # C first, then A; the last place is B's by itself.
        page.locator(".option").nth(2).click()
        page.locator(".option").nth(0).click()
        assert page.locator(".rank").all_inner_texts() == ["2nd", "3rd", "1st"]
        page.click("#next")
        # By keys, with a mistake that is taken back.
        for key in ("a", "b", "Backspace", "c", "Enter"):
            page.keyboard.press(key)
        assert page.inner_text("#position") == "question 3 of 3"
        page.keyboard.press("b")
    with open_browser(tmp_path / "profile") as context:
        page = only_page(context, path)
        # Where it was left, with the picture that was chosen.
        assert page.inner_text("#position") == "question 3 of 3"
        assert [option.get_attribute("aria-pressed") for option in page.locator(".option").all()] == [
            "false",
            "true",
            "false",
        ]
        page.keyboard.press("Enter")
        assert page.is_visible("#asking"), "a question that is not answered is not left"
        page.keyboard.press("a")
        page.click("#back")
        assert page.inner_text("#position") == "question 2 of 3"
        page.click("#next")
        page.click("#next")
        assert page.is_visible("#finished")
        saved = save(page, tmp_path / "answers")
        assert not page.errors
    assert saved.name == f"{study.id}-01.json"
    answers = read_answers(tmp_path / "answers", study)
    ranks = [answers[question.id]["ranks"] for question in study.questions]
    # "a b Backspace c": b was second, and c third by itself, until both were taken back; then c is second.
    assert ranks == [[2, 3, 1], [1, 3, 2], [2, 1, 3]]
    assert all(isinstance(answers[question.id]["ms"], int) for question in study.questions)


def test_a_detector_is_chosen_by_pointer_keys_and_finger(make, tmp_path):
    study, (path,) = make("choose", methods=("odam", "drise"))
    with open_browser(tmp_path / "profile", has_touch=True) as context:
        page = only_page(context, path)
        page.tap("#start")
        page.locator(".option").nth(1).tap()
        page.tap("#next")
        page.keyboard.press("s")
        page.keyboard.press("Enter")
        page.keyboard.press("b")
        page.keyboard.press("a")
        page.keyboard.press("Enter")
        save(page, tmp_path / "answers")
        assert not page.errors
    answers = read_answers(tmp_path / "answers", study)
    assert [answers[question.id]["choice"] for question in study.questions] == [1, SIMILAR, 0]


def test_a_box_is_drawn_by_pointer_and_keys(make, tmp_path):
    """The photographs are 60 x 40: a drag over the middle half is (15, 10) to (45, 30)."""
    study, (path,) = make("draw")
    with open_browser(tmp_path / "profile") as context:
        page = only_page(context, path)
        page.click("#start")
        frame = stage_of(page)
        at = lambda x, y: (frame["x"] + x * frame["width"], frame["y"] + y * frame["height"])  # noqa: E731
        page.mouse.move(*at(0.75, 0.75))
        page.mouse.down()
        page.mouse.move(*at(0.5, 0.5))
        page.mouse.move(*at(0.25, 0.25))
        page.mouse.up()
        page.mouse.move(*at(0.9, 0.9))
        assert page.is_disabled("#next")
        page.get_by_role("radio", name="4").click()
        page.click("#next")
        # The first arrow puts a box into the middle, (24, 16) to (36, 24); a step is one pixel of 60 or 40.
        for key in ("ArrowRight", "ArrowRight", "ArrowDown", "Shift+ArrowRight", "Shift+ArrowUp", "2", "Enter"):
            page.keyboard.press(key)
        # Over the border a drag ends at the border.
        page.mouse.move(*at(0.5, 0.5))
        page.mouse.down()
        page.mouse.move(frame["x"] + frame["width"] + 50, frame["y"] + frame["height"] + 30)
        page.mouse.up()
        page.keyboard.press("5")
        page.keyboard.press("Enter")
        save(page, tmp_path / "answers")
        assert not page.errors
    answers = read_answers(tmp_path / "answers", study)
    first, second, third = (answers[question.id] for question in study.questions)
    assert first["box"] == [15, 10, 45, 30] and first["confidence"] == 4
    assert second["box"] == [25, 17, 38, 24] and second["confidence"] == 2
    assert third["box"] == [30, 20, 60, 40] and third["confidence"] == 5


def test_a_finger_draws_too(make, tmp_path):
    study, (path,) = make("draw", each=1)
    with open_browser(tmp_path / "profile", has_touch=True, viewport={"width": 400, "height": 800}) as context:
        page = only_page(context, path)
        page.tap("#start")
        frame = stage_of(page)
        touch = context.new_cdp_session(page)

        def finger(kind, x, y):
            points = (
                []
                if kind == "touchEnd"
                else [{"x": frame["x"] + x * frame["width"], "y": frame["y"] + y * frame["height"]}]
            )
            touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

        finger("touchStart", 0.25, 0.25)
        finger("touchMove", 0.5, 0.5)
        finger("touchMove", 0.75, 0.75)
        finger("touchEnd", 0, 0)
        # By the pointer: Chromium now and then makes no click of a tap that follows a drag, only its touches.
        page.get_by_role("radio", name="3").click()
        page.click("#next")
        save(page, tmp_path / "answers")
        assert not page.errors
    (answer,) = read_answers(tmp_path / "answers", study).values()
    assert answer["box"] == pytest.approx([15, 10, 45, 30], abs=1) and answer["confidence"] == 3


def test_drawn_boxes_are_marked_blindly(make, tmp_path):
    study, _ = make("draw")
    answers = read_answers(
        write_files(tmp_path / "answers", study, lambda q: {"box": [1, 2, 30, 20], "confidence": 1}), study
    )
    write_marker_page(tmp_path / "marker.html", study, answers)
    text = (tmp_path / "marker.html").read_text()
    assert not any(name in text for name in ("gradcam", "drise"))
    with open_browser(tmp_path / "profile") as context:
        page = only_page(context, tmp_path / "marker.html")
        assert page.inner_text("#position") == "box 1 of 3" and page.is_disabled("#save")
        page.click("#yes")
        page.keyboard.press("n")
        page.keyboard.press("Backspace")
        page.keyboard.press("y")
        page.keyboard.press("n")
        saved = save(page, tmp_path)
        assert not page.errors
    marks = read_marks(saved, study, answers)
    assert sorted(marks.values()) == [False, True, True]
    with pytest.raises(ValueError, match="was changed after it was saved"):
        saved.write_text(saved.read_text().replace("true", "false", 1))
        read_marks(saved, study, answers)
    with pytest.raises(FileNotFoundError, match="the page marker.html saves it"):
        read_marks(tmp_path / "absent.json", study, answers)
