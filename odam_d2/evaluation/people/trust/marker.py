"""The blind marker's page: does a drawn box mean the object? Neither the method nor the participant is told."""

from pathlib import Path

import numpy as np
from PIL import Image

from odam_d2.data.images import read_image
from odam_d2.evaluation.people.trust.answers import MARKS_FORMAT, Answers, check_owner, read_signed
from odam_d2.evaluation.people.trust.make import BLUE, SIDE, picture
from odam_d2.evaluation.people.trust.studies import Study
from odam_d2.files import open_atomically
from odam_d2.show.overlays import draw_detections
from odam_d2.show.page import data_script, fit
from odam_d2.show.template import around_data

RED = (235, 40, 40)


def write_marker_page(path: Path, study: Study, answers: Answers) -> None:
    """Write the page: every drawn box in blue, the object's in red, in random order.

    Args:
        path: of the HTML file.
        study: of the kind ``draw``.
        answers: of its participants.

    Raises:
        FileNotFoundError: a photograph is not where it was.
        OSError: the page cannot be written.
    """
    asked = [question for question in study.questions if question.id in answers]
    shuffled = np.random.default_rng(study.seed).permutation(len(asked))
    questions = []
    for place in shuffled.tolist():
        question = asked[place]
        item = study.items[question.item]
        if not Path(item.file).is_file():
            raise FileNotFoundError(f"the photograph {item.file} is not there; the marker's page needs it where it was")
        image = np.ascontiguousarray(read_image(item.file)[:, :, ::-1])
        height, width = fit(item.size, SIDE)
        scale = np.array([width / item.size[1], height / item.size[0]] * 2)
        small = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.LANCZOS))
        boxes = [np.array(item.box) * scale, np.array(answers[question.id]["box"]) * scale]
        drawn = draw_detections(small, boxes, ["", ""], [RED, BLUE], width=3)
        text = f"Does the blue box mean the {item.name} in the red box?"
        questions.append({"id": question.id, "text": text, "photo": picture(drawn, None)})
    before, after = around_data("odam_d2.evaluation.people", "marker.html")
    with open_atomically(path, errors="replace") as file:
        file.write(before)
        # Ids hold a participant's number: the page shows them to nobody.
        file.write(data_script("study", {"format": MARKS_FORMAT, "study": study.id, "questions": questions}))
        file.write(after)


def read_marks(path: Path, study: Study, answers: Answers) -> dict[str, bool]:
    """What the marker said, question id -> whether the box means the object.

    Args:
        path: of the file that the page saved.
        study: the study.
        answers: that were marked.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is foreign, of another study, edited by hand, or does not mark all boxes.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no file of marks {path}; the page marker.html saves it")
    content = read_signed(path, MARKS_FORMAT)
    if content is None:
        raise ValueError(f"{path} holds no marks; name the file that the page marker.html saved")
    check_owner(path, content, study)
    marks = {one["id"]: one["same"] for one in content["answers"] if isinstance(one.get("same"), bool)}
    missing = [name for name in answers if name not in marks]
    if missing:
        raise ValueError(f"{path} is not finished: {len(missing)} of {len(answers)} boxes are not marked")
    return {name: marks[name] for name in answers}
