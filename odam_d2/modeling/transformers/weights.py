"""Weights of transformer detectors that others wrote, by the names of Hugging Face's library."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from odam_d2.modeling.checkpoint import shorten

# Of the network in :class:`odam_d2.modeling.transformers.detector.ODAMDETR`.
PREFIX = "network."
# Names of Facebook's DETR, and what the library calls the same; in this order, the first that fits.
_FACEBOOK = (
    (r"backbone\.0\.body\.(.*)", r"model.backbone.model.\1"),
    (r"input_proj\.(.*)", r"model.input_projection.\1"),
    (r"query_embed\.(.*)", r"model.query_position_embeddings.\1"),
    (r"class_embed\.(.*)", r"class_labels_classifier.\1"),
    (r"bbox_embed\.(.*)", r"bbox_predictor.\1"),
    (r"transformer\.decoder\.norm\.(.*)", r"model.decoder.layernorm.\1"),
    (r"transformer\.(encoder|decoder)\.layers\.(\d+)\.(.*)", r"model.\1.layers.\2.\3"),
)
_PARTS = (
    (r"\.multihead_attn\.", ".encoder_attn."),
    (r"\.out_proj\.", ".o_proj."),
    (r"\.linear([12])\.", r".mlp.fc\1."),
    (r"\.norm1\.", ".self_attn_layer_norm."),
    (r"(encoder\.layers\.\d+)\.norm2\.", r"\1.final_layer_norm."),
    (r"(decoder\.layers\.\d+)\.norm2\.", r"\1.encoder_attn_layer_norm."),
    (r"\.norm3\.", ".final_layer_norm."),
)
# What a network under a feature pyramid is called in Detectron2's checkpoints, and what the library calls it.
_BOTTOM_UP, _BACKBONE = "backbone.bottom_up.network.", f"{PREFIX}model.backbone.model."
# RT-DETR and its kin have timm's network one module further down.
_WRAPPED = f"{_BACKBONE}_backbone."
# A key of which only Facebook's checkpoints have one.
_MARK = "transformer.encoder.layers.0.self_attn.in_proj_weight"


def adapt(weights: Mapping[str, Any], known: Iterable[str]) -> dict[str, Any]:
    """A checkpoint's weights by the names of the detector.

    Args:
        weights: by name, of Detectron2's checkpointer, of Facebook's DETR, or of a timm network under a feature
            pyramid, of which the network alone is taken.
        known: the detector's own names.

    Raises:
        ValueError: names those that the detector does not have.
    """
    known = set(known)
    if _MARK in weights:
        own = from_facebook(weights)
    elif any(name.startswith(_BOTTOM_UP) for name in weights):
        own = from_pyramid(weights, known)
    else:
        own = dict(weights)
    # How many batches a normalisation has seen is no weight, and frozen ones do not count.
    unexpected = [name for name in own if name not in known and not name.endswith("num_batches_tracked")]
    if unexpected:
        listed = shorten([f"{name} is unexpected" for name in sorted(unexpected)])
        raise ValueError(f"they do not fit this architecture: {listed}")
    return {name: value for name, value in own.items() if name in known}


def from_pyramid(weights: Mapping[str, Any], known: Iterable[str]) -> dict[str, Any]:
    """The backbone of a detector with a feature pyramid, by the library's names: what training may begin with.

    Stages that this detector does without are left out.

    Args:
        weights: of Detectron2's checkpointer, such as ``odam prepare-backbone`` writes.
        known: the detector's own names.
    """
    backbone = _WRAPPED if any(name.startswith(_WRAPPED) for name in known) else _BACKBONE
    parts = {name.removeprefix(backbone).split(".")[0] for name in known if name.startswith(backbone)}
    network = {name.removeprefix(_BOTTOM_UP): value for name, value in weights.items() if name.startswith(_BOTTOM_UP)}
    return {backbone + name: value for name, value in network.items() if name.split(".")[0] in parts}


def from_facebook(weights: Mapping[str, Any]) -> dict[str, Any]:
    """The weights of Facebook's DETR by the library's names; those without a counterpart keep their own.

    Args:
        weights: by Facebook's names.
    """
    renamed: dict[str, Any] = {}
    for name, value in weights.items():
        joined = re.fullmatch(r"(.*)\.in_proj_(weight|bias)", name)
        if joined is None:
            renamed[_rename(name)] = value
            continue
        # Query, key and value lie in one tensor there.
        for part, rows in zip("qkv", value.chunk(3)):
            renamed[_rename(f"{joined[1]}.{part}_proj.{joined[2]}")] = rows
    return renamed


def _rename(name: str) -> str:
    for pattern, new in _FACEBOOK:
        found = re.fullmatch(pattern, name)
        if found:
            name = f"{PREFIX}{found.expand(new)}"
            break
    else:
        return name
    for pattern, new in _PARTS if ".layers." in name and "bbox_predictor" not in name else ():
        name = re.sub(pattern, new, name)
    return name
