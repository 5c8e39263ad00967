"""NanoDet-g's backbone as a timm network: plain 3 × 3 convolutions in cross-stage partial stages.

Small enough to train on a CPU, and there are weights of it that have seen all of COCO's training images
(``odam prepare-backbone``). Those have batch normalisation folded into the convolutions, so the
network has none: every convolution has a bias.

NanoDet: Lyu, https://github.com/RangiLyu/nanodet (Apache-2.0).

Shapes: N images, (H,W) padded image.
"""

from typing import Any

import torch
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn

# Channels that a stage computes (it returns twice as many) and its inner blocks, by the exponent of its stride.
STAGES = {2: (32, 1), 3: (64, 2), 4: (128, 2), 5: (256, 3)}
# timm looks for it here: there is nothing of this network that it could fetch.
default_cfgs = generate_default_cfgs({"nanodet_g": {}})


def _convolution(in_channels: int, out_channels: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(in_channels, out_channels, 3, stride, padding=1), nn.LeakyReLU(0.1))


class _Block(nn.Module):
    """Two convolutions of half the channels, both returned."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv1 = _convolution(channels, channels // 2)
        self.conv2 = _convolution(channels // 2, channels // 2)

    def forward(self, x: Tensor) -> Tensor:
        first = self.conv1(x)
        return torch.cat([self.conv2(first), first], dim=1)


class _Stage(nn.Module):
    """What comes in goes through the blocks and past them."""

    def __init__(self, in_channels: int, channels: int, blocks: int, stride: int):
        super().__init__()
        self.conv1 = _convolution(in_channels, channels, stride)
        self.blocks = nn.Sequential(*(_Block(channels) for _ in range(blocks)))
        self.conv2 = _convolution(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        return torch.cat([self.conv2(self.blocks(x)), x], dim=1)


class NanoDetG(nn.Module):
    """The stages of strides 4 to 32, ``stage2`` to ``stage5``; (N,3,H,W) in, (N,512,H/32,W/32) out."""

    def __init__(self, num_classes: int = 0, in_chans: int = 3):
        super().__init__()
        self.num_classes = num_classes
        self.feature_info: list[dict[str, Any]] = []
        channels = STAGES[2][0]
        self.stem = nn.Sequential(*_convolution(in_chans, channels, stride=2), nn.MaxPool2d(3, stride=2, padding=1))
        for exponent, (width, blocks) in STAGES.items():
            # The stem has brought the image to a quarter.
            stage = _Stage(channels, width, blocks, stride=1 if exponent == 2 else 2)
            channels = 2 * width
            self.add_module(f"stage{exponent}", stage)
            self.feature_info.append({"num_chs": channels, "reduction": 2**exponent, "module": f"stage{exponent}"})

    def forward(self, x: Tensor) -> Tensor:
        """Run all stages."""
        for module in self.children():
            x = module(x)
        return x


@register_model
def nanodet_g(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """For ``timm.create_model("nanodet_g", features_only=True)`` and so for ``MODEL.TIMM.NAME nanodet_g``."""
    indices = {"out_indices": tuple(range(len(STAGES)))}
    return build_model_with_cfg(NanoDetG, "nanodet_g", pretrained, feature_cfg=indices, **kwargs)
