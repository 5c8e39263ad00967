"""Feature pyramids that Detectron2's yaml files cannot name: any timm network, and FCOS's ResNet pyramid.

Shapes: N images, (H,W) padded image, C channels, (Hl,Wl) level.
"""

import math
from collections.abc import Sequence

import timm
import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, FPN, Backbone, build_resnet_backbone
from detectron2.modeling.backbone.fpn import LastLevelMaxPool, LastLevelP6P7
from timm.layers import freeze_batch_norm_2d
from torch import Tensor, nn

TOP_BLOCKS = ("p6p7", "p6", "none")


class TimmBackbone(Backbone):
    """A timm network seen as a Detectron2 bottom-up backbone.

    A stage of stride ``2**i`` is called ``res{i}`` as in Detectron2's ResNets, so ``MODEL.FPN.IN_FEATURES`` and the
    explanation layers ``res3`` to ``res5`` mean the same for every network. Parameter names are timm's own.

    Args:
        name: a timm model that supports ``features_only``.
        out_features: the stages to return, for example ``("res3", "res4", "res5")``.
        pretrained: let timm fetch its ImageNet weights.
        freeze_bn: replace batch normalisation by its stored statistics.

    Raises:
        ValueError: timm does not know the network, or it has no stage of a wanted stride.
    """

    def __init__(self, name: str, out_features: Sequence[str], pretrained: bool = False, freeze_bn: bool = True):
        super().__init__()
        if not timm.is_model(name):
            close = timm.list_models(f"*{name[:6]}*")[:5]
            raise ValueError(f"MODEL.TIMM.NAME {name!r} is not a timm model; similar names: {close}")
        network = timm.create_model(name, features_only=True, pretrained=pretrained)
        stages = {
            f"res{int(math.log2(r))}": (c, r)
            for c, r in zip(network.feature_info.channels(), network.feature_info.reduction())
        }
        missing = [f for f in out_features if f not in stages]
        if missing:
            raise ValueError(f"timm's {name} has no stage {missing}; its stages are {sorted(stages)}")
        self._stage_names = list(stages)
        self._out_features = list(out_features)
        self._out_feature_channels = {f: stages[f][0] for f in out_features}
        self._out_feature_strides = {f: stages[f][1] for f in out_features}
        self.network = freeze_batch_norm_2d(network) if freeze_bn else network

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Run the network.

        Args:
            images: normalised images, (N,3,H,W).

        Returns:
            stage name -> feature map (N,C,Hl,Wl).
        """
        if images.device.type == "cpu":
            # The layout passes on from layer to layer; max-pooling and small convolutions are a fifth faster in it.
            images = images.contiguous(memory_format=torch.channels_last)
        stages = dict(zip(self._stage_names, self.network(images)))
        return {f: stages[f] for f in self._out_features}

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Channels and stride of every returned stage."""
        return {
            f: ShapeSpec(channels=self._out_feature_channels[f], stride=self._out_feature_strides[f])
            for f in self._out_features
        }


def _top_block(name: str, in_channels: int, out_channels: int, in_feature: str) -> nn.Module | None:
    if name == "p6p7":
        return LastLevelP6P7(in_channels, out_channels, in_feature=in_feature)
    if name == "p6":
        return LastLevelMaxPool()
    if name == "none":
        return None
    raise ValueError(f"MODEL.TIMM.TOP_BLOCK is {name!r}; valid values are {', '.join(TOP_BLOCKS)}")


@BACKBONE_REGISTRY.register()
def build_timm_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """An FPN over the timm network that ``MODEL.TIMM`` names."""
    in_features: list[str] = cfg.MODEL.FPN.IN_FEATURES
    bottom_up = TimmBackbone(cfg.MODEL.TIMM.NAME, in_features, cfg.MODEL.TIMM.PRETRAINED, cfg.MODEL.TIMM.FREEZE_BN)
    channels = cfg.MODEL.FPN.OUT_CHANNELS
    return FPN(
        bottom_up=bottom_up,
        in_features=in_features,
        out_channels=channels,
        norm=cfg.MODEL.FPN.NORM,
        top_block=_top_block(cfg.MODEL.TIMM.TOP_BLOCK, channels, channels, "p5"),
        fuse_type=cfg.MODEL.FPN.FUSE_TYPE,
    )


@BACKBONE_REGISTRY.register()
def build_fcos_resnet_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """Detectron2's ResNet-FPN with P6 and P7 computed from P5, as its ``fcos_R_50_FPN_1x.py`` builds it.

    ``build_retinanet_resnet_fpn_backbone`` differs only in that it computes them from res5.
    """
    channels = cfg.MODEL.FPN.OUT_CHANNELS
    return FPN(
        bottom_up=build_resnet_backbone(cfg, input_shape),
        in_features=cfg.MODEL.FPN.IN_FEATURES,
        out_channels=channels,
        norm=cfg.MODEL.FPN.NORM,
        top_block=LastLevelP6P7(channels, channels, in_feature="p5"),
        fuse_type=cfg.MODEL.FPN.FUSE_TYPE,
    )
