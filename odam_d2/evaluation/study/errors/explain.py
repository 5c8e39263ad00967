"""What explains the errors in one image.

Shapes: D detections, G objects, L places, (h,w) image. Boxes are XYXY in pixels of the image unless said otherwise.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from detectron2.structures import Instances

from odam_d2.boxes import box_areas, box_iou
from odam_d2.data.objects import ImageObjects
from odam_d2.evaluation.detections.error_modes import ERRORS, MISSED, ErrorModes, sort_errors
from odam_d2.evaluation.study.errors.cases import BEHIND, REFERENCE, Case, View, say_side, side_offsets, wrong_sides
from odam_d2.evaluation.study.errors.energy import energy_shares
from odam_d2.evaluation.study.errors.settings import ErrorSettings
from odam_d2.evaluation.study.sanity import cosine
from odam_d2.evaluation.study.selection import DETECTIONS
from odam_d2.explain import Explainer
from odam_d2.modeling.explainable import PLACE, Observation
from odam_d2.predictor import ODAMPredictor
from odam_d2.show.words import SIDE_WORDS
from odam_d2.structures import Predictions


class Found(NamedTuple):
    """A prediction that can be explained.

    Attributes:
        place: where the detector made it.
        label: as an object of which class.
        box: (4,).
        score: of that class.
    """

    place: int
    label: int
    box: np.ndarray
    score: float


class _Question(NamedTuple):
    """A map that is wanted."""

    role: str
    target: str
    title: str
    about: Found


class _Draft(NamedTuple):
    """A case without its maps."""

    kind: str
    about: Found
    row: int
    iou: float
    severity: float
    reason: str
    sides: Sequence[tuple[str, float]]
    questions: Sequence[_Question]


class ImageErrors:
    """The errors of a detector in one image.

    Args:
        predictor: the detector.
        explainer: makes the maps.
        objects: of the image.
        class_names: of the dataset.
        settings: what counts.

    Attributes:
        image: (h,w,3) uint8 BGR.
        modes: every detection and object, sorted.

    Raises:
        ValueError: the image or a mask is unreadable.
    """

    def __init__(
        self,
        predictor: ODAMPredictor,
        explainer: Explainer,
        objects: ImageObjects,
        class_names: Sequence[str],
        settings: ErrorSettings,
    ):
        self._explainer, self._objects, self._settings = explainer, objects, settings
        self._names, self.image = class_names, objects.read_image()
        self._observation: Observation = predictor.observe([self.image], (explainer.layer,))
        (detections,) = self._observation.detections()
        kept = detections[detections.scores > settings.score_threshold][:DETECTIONS]
        self._found = _list_found(kept)
        self.modes: ErrorModes = sort_errors(
            objects.clipped_boxes,
            objects.classes,
            np.array([one.box for one in self._found]).reshape(-1, 4),
            np.array([one.score for one in self._found]),
            np.array([one.label for one in self._found], dtype=np.int64),
            objects.crowd,
            settings.foreground,
            settings.background,
        )
        masks = objects.masks()
        self._regions = [box if mask is None else mask for box, mask in zip(objects.clipped_boxes, masks)]
        self._predictions: Predictions | None = None

    def cases(self) -> list[Case]:
        """All errors with their maps, detections first."""
        drafts = [
            self._draft(d, kind, int(self.modes.objects[d]))
            for d, kind in enumerate(self.modes.kinds)
            if kind in ERRORS
        ]
        drafts += [self._draft_missed(int(row)) for row in self.modes.missed]
        questions = [question for draft in drafts for question in draft.questions]
        heats = self._explain(questions)
        cases, start = [], 0
        for draft in drafts:
            end = start + len(draft.questions)
            cases.append(self._finish(draft, heats[start:end]))
            start = end
        return cases

    def _name(self, label: int) -> str:
        return self._names[label]

    def _draft(self, d: int, kind: str, row: int) -> _Draft:
        """A detection's error: which maps explain it."""
        own, questions, sides = self._found[d], [], []
        reason = ""
        if kind in ("localisation", "both"):
            sides = wrong_sides(own.box, self._objects.clipped_boxes[row], self._settings.side_tolerance)
            questions += self._ask_sides(own, row, sides)
            reason = "; ".join(say_side(*side) for side in sides)
        if kind in ("classification", "both", "background"):
            questions.append(_Question(BEHIND, "class_score", f"why {self._name(own.label)} {own.score:.2f}", own))
        if kind in ("classification", "both"):
            true = self._as_class(own, int(self._objects.classes[row]))
            title = f"why not {self._name(true.label)}: what speaks for it, {true.score:.2f}"
            questions.append(_Question(REFERENCE, "class_score", title, true))
            reason = "; ".join(filter(None, (reason, f"taken for {self._name(own.label)}")))
        if kind == "duplicate":
            rival = self._found[int(self.modes.rivals[d])]
            questions.append(_Question(BEHIND, "class_score", f"the duplicate {own.score:.2f}", own))
            questions.append(_Question(REFERENCE, "class_score", f"the one before it {rival.score:.2f}", rival))
        if kind == "background":
            reason = "nothing is annotated there"
        return _Draft(kind, own, row, float(self.modes.iou[d]), own.score, reason, sides, questions)

    def _ask_sides(self, own: Found, row: int, sides: Sequence[tuple[str, float]]) -> list[_Question]:
        """Each wrong side, and the same side of a prediction that has it right (Figure 5)."""
        questions = []
        for side, by in sides:
            questions.append(_Question(BEHIND, side, f"why the {say_side(side, by)}", own))
            right = self._with_right_side(row, side)
            if right is not None:
                title = f"the {SIDE_WORDS[side]} side of a box that has it right"
                questions.append(_Question(REFERENCE, side, title, right))
        return questions

    def _draft_missed(self, row: int) -> _Draft:
        """A missed object: the place that came closest, and what spoke for the object and for something else there."""
        label = int(self._objects.classes[row])
        height, width = self._objects.size
        target = self._objects.clipped_boxes[[row]]
        severity = float(box_areas(target)[0]) / (height * width)
        if not len(self._once_predictions()):
            nowhere = Found(-1, label, target[0], 0.0)
            return _Draft(MISSED, nowhere, row, 0.0, severity, "the detector proposed no region at all", [], [])
        closest, best, reason = self._closest(row)
        title = f"what speaks for {self._name(label)} at the closest place, {closest.score:.2f}"
        questions = [_Question(BEHIND, "class_score", title, closest)]
        if best.label != label:
            title = f"what speaks for {self._name(best.label)} there, {best.score:.2f}"
            questions.append(_Question(REFERENCE, "class_score", title, best))
        iou = float(box_iou(closest.box[None], target)[0, 0])
        return _Draft(MISSED, closest, row, iou, severity, reason, [], questions)

    def _with_right_side(self, row: int, side: str) -> Found | None:
        """The detection that found an object if it has a side right, else the place that does and fits best."""
        number, target = list(SIDE_WORDS).index(side), self._objects.clipped_boxes[row]

        def right(boxes: np.ndarray) -> np.ndarray:
            return np.abs(side_offsets(boxes, target)[:, number]) <= self._settings.side_tolerance

        finder = int(self.modes.found[row])
        if finder >= 0 and right(self._found[finder].box[None])[0]:
            return self._found[finder]
        boxes, scores, iou = self._all_places(row)
        fits = right(boxes) & (iou >= self._settings.foreground)
        if not fits.any():
            return None
        place = int(np.where(fits, iou, -1.0).argmax())
        return Found(place, int(self._objects.classes[row]), boxes[place], float(scores[place]))

    def _closest(self, row: int) -> tuple[Found, Found, str]:
        """What came closest to finding an object; as what else the same place would count; and why it did not."""
        boxes, scores, iou = self._all_places(row)
        fits = iou >= self._settings.foreground
        place = int(np.where(fits, scores, -1.0).argmax()) if fits.any() else int(iou.argmax())
        label, score = int(self._objects.classes[row]), float(scores[place])
        closest = Found(place, label, boxes[place], score)
        every = self._once_predictions().class_scores[place]
        other = int(every.argmax())
        best = Found(place, other, boxes[place], float(every[other]))
        if not fits.any():
            reason = f"no place has a box that fits it, the best IoU is {iou[place]:.2f}"
        elif score <= self._settings.score_threshold:
            reason = f"the best place scores {score:.2f}, not more than {self._settings.score_threshold}"
        elif any((own.place, own.label) == (place, label) for own in self._found):
            reason = "the detection made there found another object"
        else:
            reason = "a place that fits scores enough, but NMS removed it or the best detections were counted alone"
        return closest, best, reason

    def _as_class(self, own: Found, label: int) -> Found:
        """The same place as an object of another class."""
        predictions = self._once_predictions()
        box = self._to_image(predictions.boxes_of(label)[own.place].cpu().numpy()[None].astype(np.float64))[0]
        return Found(own.place, label, box, float(predictions.class_scores[own.place, label]))

    def _all_places(self, row: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Boxes (L,4), scores (L,) and IoU (L,) of all places as objects of an object's class."""
        predictions, label = self._once_predictions(), int(self._objects.classes[row])
        boxes = self._to_image(predictions.boxes_of(label).cpu().numpy().astype(np.float64))
        scores = predictions.class_scores[:, label].cpu().numpy().astype(np.float64)
        return boxes, scores, box_iou(boxes, self._objects.clipped_boxes[[row]])[:, 0]

    def _once_predictions(self) -> Predictions:
        if self._predictions is None:
            self._predictions = self._observation.predictions(0)
        return self._predictions

    def _to_image(self, boxes: np.ndarray) -> np.ndarray:
        """From network-input pixels to the image's, clipped, (n,4)."""
        (height, width), (own_height, own_width) = self._objects.size, self._once_predictions().image_size
        scale = [width / own_width, height / own_height] * 2
        return np.clip(boxes * scale, 0, [width, height, width, height])

    def _explain(self, questions: Sequence[_Question]) -> list[np.ndarray]:
        """A map for each question, (h,w) raw; those of one target together."""
        heats: dict[int, np.ndarray] = {}
        for target in dict.fromkeys(question.target for question in questions):
            own = [i for i, question in enumerate(questions) if question.target == target]
            places = torch.tensor([questions[i].about.place for i in own], dtype=torch.int64)
            labels = torch.tensor([questions[i].about.label for i in own], dtype=torch.int64)
            device = self._once_predictions().boxes.device
            trace = self._observation.trace(0, places.to(device), labels.to(device))
            maps = self._explainer(trace, target)
            heats |= {i: maps.to_image(rows=[n])[0].cpu().numpy() for n, i in enumerate(own)}
        return [heats[i] for i in range(len(questions))]

    def _finish(self, draft: _Draft, heats: Sequence[np.ndarray]) -> Case:
        objects, row = self._objects, draft.row
        others = [i for i in range(len(objects.ids)) if i != row and not objects.crowd[i]]
        regions = [self._regions[i] for i in others]
        views = []
        for question, heat in zip(draft.questions, heats):
            shares = energy_shares(heat, None if row < 0 else self._regions[row], regions, question.about.box)
            near = "" if shares.nearest < 0 else self._name(int(objects.classes[others[shares.nearest]]))
            picture = heat / max(float(heat.max()), 1e-30)
            name = self._name(question.about.label)
            views.append(
                View(question.role, question.target, name, question.title, question.about.box, picture, shares, near)
            )
        return Case(
            kind=draft.kind,
            image_id=objects.image_id,
            annotation_id="" if row < 0 else objects.ids[row],
            class_name=self._name(draft.about.label),
            true_class="" if row < 0 else self._name(int(objects.classes[row])),
            score=draft.about.score,
            iou=draft.iou,
            box=draft.about.box,
            object_box=None if row < 0 else objects.clipped_boxes[row],
            severity=draft.severity,
            reason=draft.reason,
            sides=draft.sides,
            correlation=cosine(*heats) if draft.kind == "duplicate" else None,
            views=views,
        )


def _list_found(detections: Instances) -> list[Found]:
    boxes = detections.pred_boxes.tensor.detach().cpu().numpy().astype(np.float64)
    fields = (detections.get(PLACE), detections.pred_classes, detections.scores)
    places, labels, scores = (field.detach().cpu().tolist() for field in fields)
    return [Found(*one) for one in zip(places, labels, boxes, scores)]
