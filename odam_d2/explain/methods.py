"""Every method of explanation in one table: what it is called, what people read, and what it can do."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from odam_d2.explain import weightings
from odam_d2.explain.attention.flow import Flow, last_cross_attention, relevance, rollout
from odam_d2.explain.targets import Target, target_name
from odam_d2.explain.weightings import Weighting

# Phi of ODAM: none as in the paper's numbers, gaussian as in its figures. Other methods do not smooth.
SMOOTHINGS = ("none", "gaussian")


@dataclass(frozen=True)
class Method:
    """One way to explain a prediction.

    Args:
        title: what people read.
        source: where it was published.
        kind: ``gradients``: from a trace, at a layer. ``masks``: the detector is asked about perturbed images, and has
            no layers and no paths to choose from. ``attention``: from what a transformer's queries attend to; likewise.
        weighting: smoothing -> how gradients become weights; for ``gradients``.
        batchable: whether all predictions of an image can be explained together (where nothing is smoothed).
        targets: names it can explain; None for all.
        meanings: target -> what its map answers, where that is not what it says for other methods.
        flow: from attention matrices to what queries draw from cells; for ``attention``.
        by_gradient: whether ``flow`` takes attention weighed with the gradient of the target.
    """

    title: str
    source: str
    kind: Literal["gradients", "masks", "attention"] = "gradients"
    weighting: Mapping[str, Weighting] = field(default_factory=dict)
    batchable: bool = False
    targets: tuple[str, ...] | None = None
    meanings: Mapping[str, str] = field(default_factory=dict)
    flow: Flow | None = None
    by_gradient: bool = False


def _unsmoothed(weighting: Weighting) -> dict[str, Weighting]:
    return dict.fromkeys(SMOOTHINGS, weighting)


METHODS: dict[str, Method] = {
    "odam": Method(
        "ODAM",
        "Zhao, Hsiao and Chan, IEEE TPAMI 2024",
        weighting={"none": weightings.identity, "gaussian": weightings.gaussian},
        batchable=True,
    ),
    "gradcam": Method("Grad-CAM", "Selvaraju et al., ICCV 2017", weighting=_unsmoothed(weightings.global_average)),
    "gradcam++": Method(
        "Grad-CAM++", "Chattopadhay et al., WACV 2018", weighting=_unsmoothed(weightings.grad_cam_plus_plus)
    ),
    "hirescam": Method(
        "HiResCAM",
        "Draelos and Carin, arXiv 2011.08891",
        weighting=_unsmoothed(weightings.identity),
        batchable=True,
    ),
    "layercam": Method("LayerCAM", "Jiang et al., IEEE TIP 2021", weighting=_unsmoothed(weightings.positive_gradient)),
    "ssgradcam++": Method(
        "SSGrad-CAM++",
        "Yamauchi, CVPR workshops 2024",
        weighting=_unsmoothed(weightings.spatial_grad_cam_plus_plus),
    ),
    "drise": Method(
        "D-RISE",
        "Petsiuk et al., CVPR 2021",
        kind="masks",
        targets=("class_score",),
        # It compares whole detections, box and class, whatever its only target is called.
        meanings={"class_score": "why this box with this class"},
    ),
    "attention": Method(
        "Attention",
        "Carion et al., ECCV 2020",
        kind="attention",
        targets=("class_score",),
        meanings={"class_score": "what this query attends to"},
        flow=last_cross_attention,
    ),
    "rollout": Method(
        "Attention rollout",
        "Abnar and Zuidema, ACL 2020",
        kind="attention",
        targets=("class_score",),
        meanings={"class_score": "what this query attends to, through all layers"},
        flow=rollout,
    ),
    "game": Method("GAME", "Chefer et al., ICCV 2021", kind="attention", flow=relevance, by_gradient=True),
}
GRADIENT_METHODS = tuple(name for name, method in METHODS.items() if method.kind == "gradients")
# Those that need a trace alone.
TRACE_METHODS = tuple(name for name, method in METHODS.items() if method.kind != "masks")


def check_methods(methods: Sequence[str], valid: Sequence[str] = tuple(METHODS)) -> None:
    """Refuse a method that does not exist.

    Raises:
        ValueError: lists the valid names.
    """
    for method in methods:
        if method not in valid:
            raise ValueError(f"unknown method {method!r}; valid methods are {', '.join(valid)}")


def check_method_targets(method: str, targets: Sequence[Target]) -> None:
    """Refuse targets that a method does not have.

    Args:
        method: a name of :data:`METHODS`.
        targets: names or functions.

    Raises:
        ValueError: names the target and those that the method has.
    """
    own = METHODS[method]
    for target in targets:
        if own.targets is not None and target not in own.targets:
            raise ValueError(
                f"{method} explains a detection as a whole, its box and its class together; its only target is "
                f"{', '.join(own.targets)}, not {target_name(target)!r}"
            )
