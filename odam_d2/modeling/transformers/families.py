"""What the library's detectors have in common and where they differ: one table."""

from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True)
class Family:
    """The models of one ``model_type``.

    Args:
        title: what people read.
        no_object: a query's classes and "no object" share one softmax; else each class has a sigmoid of its own.
        best_class_alone: a query is an object of its best class; else it may be several objects.
        masks: padding is masked out, and boxes are relative to the image without it; else they are relative to the
            padded image.
        divisibility: of the sides of the padded image; 1 for any.
        projections: name of what brings stages to the encoder's width, a convolution or a list of them.
        selection: name of what scores locations, the best of which become the queries; "" where queries are learned.
        as_many_as_queries: of the pairs of a query and a class, as many enter as there are queries; else as many as
            detections are kept. Only where a query may be several objects.
        dense: every query attends to every cell of one map; else to a few points of several.
        text: its classes are phrases of a text that comes with the image.
        tokens: its logits are those of the text's tokens; else of the phrases.
        backbone: name of what gives the stages and their masks.
        encoder_output: what its output calls the feature maps.
    """

    title: str
    no_object: bool
    best_class_alone: bool
    masks: bool
    divisibility: int
    projections: str
    selection: str = ""
    as_many_as_queries: bool = False
    dense: bool = False
    text: bool = False
    tokens: bool = False
    backbone: str = "backbone"
    encoder_output: str = "last_hidden_state"

    @property
    def architecture(self) -> str:
        """Which of odam_d2's detectors its networks are for."""
        if not self.text:
            return "ODAMDETR"
        return "ODAMGrounded" if self.tokens else "ODAMOWL"


_REAL_TIME = {
    "no_object": False,
    "best_class_alone": False,
    "masks": False,
    "divisibility": 32,
    "projections": "encoder_input_proj",
    "selection": "enc_score_head",
    "as_many_as_queries": True,
}
_GROUNDED = {
    "no_object": False,
    "best_class_alone": True,
    "masks": True,
    "divisibility": 1,
    "projections": "input_proj_vision",
    "selection": "encoder_output_class_embed",
    "text": True,
    "tokens": True,
    "backbone": "backbone.conv_encoder",
    "encoder_output": "last_hidden_state_vision",
}
FAMILIES = {
    "detr": Family("DETR", True, True, True, 1, "input_projection", dense=True),
    "conditional_detr": Family("Conditional DETR", False, False, True, 1, "input_projection", dense=True),
    "deformable_detr": Family("Deformable DETR", False, False, True, 1, "input_proj"),
    "rt_detr": Family("RT-DETR", **_REAL_TIME),
    "rt_detr_v2": Family("RT-DETRv2", **_REAL_TIME),
    "d_fine": Family("D-FINE", **_REAL_TIME),
    "grounding-dino": Family("GroundingDINO", **_GROUNDED),
    "mm-grounding-dino": Family("MM-GroundingDINO", **_GROUNDED),
    "owlv2": Family("OWLv2", False, True, False, 1, projections="", text=True),
}


def family_of(network: nn.Module) -> Family:
    """The family of a model.

    Raises:
        ValueError: a model of another kind; the known ones are listed.
    """
    kind = getattr(getattr(network, "config", None), "model_type", type(network).__name__)
    if kind not in FAMILIES:
        known = ", ".join(f"{name} ({family.title})" for name, family in FAMILIES.items())
        raise ValueError(f"a model of type {kind!r} cannot be explained; these can: {known}")
    return FAMILIES[kind]


def selecting_module(network: nn.Module, family: Family) -> nn.Module | None:
    """What scores locations, the best of which become the queries; None where queries are learned."""
    if family.selection:
        return getattr(network.model, family.selection)
    # Deformable DETR's two-stage form asks the head that no decoder layer has.
    return network.model.decoder.class_embed[-1] if getattr(network.config, "two_stage", False) else None
