"""The student begins with the teacher's neck and heads, as in FGD."""

import logging

import torch
from torch import nn

BOTTOM_UP = "backbone.bottom_up."


@torch.no_grad()
def inherit(student: nn.Module, teacher: nn.Module) -> tuple[list[str], list[str]]:
    """Copy the teacher's weights into the student, but for the bottom-up network, wherever name and shape agree.

    The log says what was taken, and what was not and why.

    Args:
        student: in place.
        teacher: unchanged.

    Returns:
        names of the tensors that were copied, and of the teacher's that were not.
    """
    own, theirs = student.state_dict(), teacher.state_dict()
    pyramid = any(name.startswith(BOTTOM_UP) for name in theirs)
    outside = BOTTOM_UP if pyramid else "backbone."
    above = {name: value for name, value in theirs.items() if not name.startswith(outside)}
    taken, left = [], []
    for name, value in above.items():
        if name not in own:
            left.append(f"{name} (the student has none)")
        elif own[name].shape != value.shape:
            left.append(f"{name} ({tuple(value.shape)}, the student's is {tuple(own[name].shape)})")
        else:
            own[name].copy_(value)
            taken.append(name)
    logger = logging.getLogger(__name__)
    logger.info("The student inherits %d of the teacher's %d tensors of neck and heads.", len(taken), len(above))
    if taken:
        logger.info("Inherited: %s", ", ".join(taken))
    if left:
        logger.warning("Not inherited: %s", ", ".join(left))
    return taken, [text.split(" ")[0] for text in left]
