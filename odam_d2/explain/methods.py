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
            no layers and no paths to choose from. ``region_masks``: likewise, about one region of them. ``attention``:
            from what a transformer's queries attend to, likewise without layers and paths.
        weighting: smoothing -> how gradients become weights; for ``gradients``.
        batchable: whether all predictions of an image can be explained together (where nothing is smoothed).
        targets: names it can explain; None for all.
        meanings: target -> what its map answers, where that is not what it says for other methods.
        flow: from attention matrices to what queries draw from cells; for ``attention``.
        by_gradient: whether ``flow`` takes attention weighed with the gradient of the target.
        own_combined: whether it explains ``combined`` by itself, and not by the maximum of the maps of its parts.
        counts: what takes its time, for people who wait.
    """

    title: str
    source: str
    kind: Literal["gradients", "masks", "region_masks", "attention"] = "gradients"
    weighting: Mapping[str, Weighting] = field(default_factory=dict)
    batchable: bool = False
    targets: tuple[str, ...] | None = None
    meanings: Mapping[str, str] = field(default_factory=dict)
    flow: Flow | None = None
    by_gradient: bool = False
    own_combined: bool = False
    counts: str = ""


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
        counts="masks of D-RISE",
    ),
    "bbam": Method(
        "BBAM",
        "Lee et al., CVPR 2021",
        kind="region_masks",
        # The paper's two heads together, the class head alone, and the box head side by side.
        targets=("combined", "class_score", "x1", "y1", "x2", "y2"),
        meanings={
            "combined": "the least that keeps class and box",
            "class_score": "the least that keeps the class",
            "x1": "the least that keeps the left side",
            "y1": "the least that keeps the top side",
            "x2": "the least that keeps the right side",
            "y2": "the least that keeps the bottom side",
        },
        own_combined=True,
        counts="steps of BBAM",
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
TRACE_METHODS = tuple(name for name, method in METHODS.items() if method.kind in ("gradients", "attention"))


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
    own = METHODS[method].targets
    for target in targets:
        if own is None or target in own:
            continue
        if len(own) == 1:
            raise ValueError(
                f"{method} explains a detection as a whole, its box and its class together; its only target is "
                f"{own[0]}, not {target_name(target)!r}"
            )
        raise ValueError(f"{method} has no target {target_name(target)!r}; its targets are {', '.join(own)}")
