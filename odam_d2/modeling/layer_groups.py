"""The layers of a convolutional detector, by what they are there for."""

from torch import nn

PREDICTORS, TOWER, PYRAMID = "predictors", "head tower", "FPN"


def layer_groups(model: nn.Module) -> dict[str, list[nn.Parameter]]:
    """The layers behind an explained output, from the top down, in the order of a cascading randomisation.

    Args:
        model: a detector whose parts are called as in Detectron2: ``backbone``, and ``head`` or ``roi_heads``.

    Returns:
        name -> parameters: the predictors, the head's towers, the FPN with its extra levels, the backbone's stages.
        Proposal generators, masks and embeddings do not act on the output of a given detection, and are left out.
    """
    groups: dict[str, list[nn.Parameter]] = {PREDICTORS: [], TOWER: [], PYRAMID: []}
    stages: dict[str, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        part, _, rest = name.partition(".")
        if part == "backbone":
            inside = rest.removeprefix("bottom_up.").removeprefix("network.")
            below = rest.startswith("bottom_up.") or not hasattr(model.backbone, "bottom_up")
            (stages.setdefault(_stage(inside), []) if below else groups[PYRAMID]).append(parameter)
        elif part in ("head", "roi_heads") and not rest.startswith(("mask", "keypoint", "embedding")):
            tower = rest.startswith(("cls_subnet", "bbox_subnet", "box_head", "res5"))
            groups[TOWER if tower else PREDICTORS].append(parameter)
    groups |= dict(reversed(stages.items()))
    return {name: parameters for name, parameters in groups.items() if parameters}


def _stage(name: str) -> str:
    """``res4.0.conv1.weight`` -> ``res4``, ``blocks.3.1.conv.weight`` -> ``blocks.3``."""
    first, _, rest = name.partition(".")
    number = rest.partition(".")[0]
    return f"{first}.{number}" if number.isdigit() and first in ("blocks", "stages", "layers") else first
