"""The parts of a transformer detector, by what they are there for."""

import re

from torch import nn

from odam_d2.modeling.transformers.families import family_of

PREDICTORS, QUERIES, TEXT, PROJECTION = "predictors", "queries", "text", "projection"
# Heads of the library's models, wherever they stand.
_HEADS = ("class_labels_classifier", "bbox_predictor", "class_embed", "bbox_embed", "pre_bbox_head", "lqe_layers")
_TEXT = ("text_backbone.", "text_projection.")
_STAGE = re.compile(r"(?:layer|stages?[._]|blocks[._])(\d+)")


def transformer_groups(network: nn.Module) -> dict[str, list[nn.Parameter]]:
    """The layers behind an explained output, from the top down, in the order of a cascading randomisation.

    Args:
        network: of the library.

    Returns:
        name -> parameters: the predictors, the decoder's layers, the queries or what chooses them, the encoder's
        layers, the projections, and the backbone's stages.
    """
    found: dict[str, list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        found.setdefault(_group_of(name), []).append(parameter)
    below = sorted((g for g in found if g.startswith("backbone")), key=_number, reverse=True)
    layers = {
        part: sorted((g for g in found if g.startswith(f"{part}.")), key=_number, reverse=True)
        for part in ("decoder", "encoder")
    }
    order = [
        PREDICTORS,
        "decoder",
        *layers["decoder"],
        QUERIES,
        "encoder",
        *layers["encoder"],
        TEXT,
        PROJECTION,
        *below,
    ]
    return {group: found[group] for group in order if group in found}


def freeze_stages(network: nn.Module, freeze_at: int) -> None:
    """Freeze the backbone's first stages as Detectron2's ``MODEL.BACKBONE.FREEZE_AT`` says; the others are trained.

    Args:
        network: of the library, which freezes some of its backbones as a whole, of others the first stage.
        freeze_at: 0: nothing, 1: the stem, 2: the first stage (``res2``), too, ...

    Raises:
        ValueError: a model of an unknown kind.
    """
    family_of(network)
    for name, parameter in network.model.backbone.named_parameters():
        parameter.requires_grad_(_backbone_stage(name) >= freeze_at)


def _backbone_stage(name: str) -> int:
    """0 for the stem, 1 for the stage after it: ``layer1`` of timm's ResNets, ``stages.0`` of the library's own."""
    match = _STAGE.search(name)
    if match is None:
        return 0
    number = int(match[1])
    return number if "layer" in match[0] else number + 1


def _group_of(name: str) -> str:
    inside = name.removeprefix("model.")
    if any(head in name.split(".") for head in _HEADS):
        return PREDICTORS
    if inside.startswith("backbone."):
        return f"backbone.{_backbone_stage(inside)}"
    layer = re.match(r"(encoder|decoder)\.(?:aifi\.\d+\.)?layers\.(\d+)\.", inside)
    if layer:
        return f"{layer[1]}.{layer[2]}"
    if inside.startswith(("encoder.", "decoder.")):
        return inside.partition(".")[0]
    if inside.startswith(_TEXT):
        return TEXT
    return PROJECTION if re.match(r"(?:encoder_)?input_proj", inside) else QUERIES


def _number(group: str) -> int:
    return int(group.rpartition(".")[2])
