"""Random weights that DETR, Conditional DETR and Deformable DETR can be trained from."""

import math

import torch
from torch import nn

from odam_d2.modeling.transformers.families import family_of

# Of a class, before anything was learned, where each has a sigmoid of its own.
PRIOR = 0.01
# Of deformable attention; the library draws them as its authors do, in a pattern that chance must not replace.
_PATTERNS = ("sampling_offsets", "attention_weights")


@torch.no_grad()
def draw_weights(network: nn.Module) -> None:
    """Draw the weights of DETR and its first followers anew; the backbone keeps its own, and so do other families.

    The library draws nearly every weight from a normal distribution with a standard deviation of 0.02, queries
    included. They are then all but equal, attend to everything alike, and thousands of steps pass in which nothing is
    learned. Here, as in the authors' own code: queries of variance 1, Xavier's matrices in encoder and decoder,
    PyTorch's own convolutions and heads, and with focal loss classes that are rare and boxes that begin on their
    queries' reference points.

    Args:
        network: a detector of the library with random weights.
    """
    family = family_of(network)
    if family.selection or family.text:
        return
    for name, module in network.model.named_modules():
        if name.startswith(f"{family.backbone}.") or name.endswith(_PATTERNS):
            continue
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
        elif isinstance(module, (nn.Conv2d, nn.Embedding)):
            module.reset_parameters()
    for name, head in network.named_children():
        # One for all layers of the decoder, or one for each.
        for own in head if isinstance(head, nn.ModuleList) else [] if head is network.model else [head]:
            linears = [module for module in own.modules() if isinstance(module, nn.Linear)]
            for linear in linears:
                linear.reset_parameters()
            if not family.no_object:
                _begin_focal(linears[-1], classes=name.startswith("class"))


def _begin_focal(last: nn.Linear, classes: bool) -> None:
    """The last layer of what says classes, or boxes, for training with focal loss."""
    if classes:
        nn.init.constant_(last.bias, -math.log((1 - PRIOR) / PRIOR))
    else:
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
