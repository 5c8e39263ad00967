"""How good the teacher is, said once, and a warning where the student is better."""

import logging
from collections.abc import Callable, Mapping
from typing import Any

from detectron2.engine import HookBase
from detectron2.evaluation.testing import flatten_results_dict
from detectron2.utils import comm

logger = logging.getLogger(__name__)


class TeacherReport(HookBase):
    """A trainer's hook: measures the teacher before training begins, and compares the student's evaluations with it.

    The teacher's results are kept in checkpoints, so that a run that goes on does not measure it again.

    Args:
        evaluate: measures the teacher, as Detectron2's ``DefaultTrainer.test`` gives results.
    """

    def __init__(self, evaluate: Callable[[], Mapping[str, Any]]):
        self._evaluate = evaluate
        self._teacher: dict[str, float] | None = None
        self._seen: Any = None
        self._warned = False

    def before_train(self) -> None:
        """Measure the teacher, unless a checkpoint says how good it is."""
        if self._teacher is not None:
            return
        self._teacher = box_precisions(self._evaluate())
        if comm.is_main_process():
            figures = ", ".join(f"{name} {value:.2f}" for name, value in self._teacher.items())
            logger.info("The teacher: %s", figures or "nothing was measured, DATASETS.TEST is empty")

    def after_step(self) -> None:
        """Compare a new evaluation of the student."""
        self._compare()

    def after_train(self) -> None:
        """Compare the last one."""
        self._compare()

    def _compare(self) -> None:
        results = getattr(self.trainer, "_last_eval_results", None)
        if results is None or results is self._seen or self._warned:
            return
        self._seen = results
        for name, value in box_precisions(results).items():
            teacher = (self._teacher or {}).get(name)
            if teacher is not None and value > teacher:
                self._warned = True
                logger.warning(
                    "The teacher is worse than the student: %s %.2f of the teacher, %.2f of the student; choose a "
                    "stronger teacher",
                    name,
                    teacher,
                    value,
                )

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint holds."""
        return {} if self._teacher is None else {"teacher": self._teacher, "warned": self._warned}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up a checkpoint's state."""
        self._teacher, self._warned = state_dict["teacher"], state_dict["warned"]


def box_precisions(results: Mapping[str, Any]) -> dict[str, float]:
    """The AP of each dataset and task among the results of an evaluation; empty but on the main process."""
    found = {name: value for name, value in flatten_results_dict(results).items() if name.split("/")[-1] == "AP"}
    return {name: float(value) for name, value in found.items()}
