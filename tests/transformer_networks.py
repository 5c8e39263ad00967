"""Tiny random transformer detectors of every family, built offline."""

import copy

import torch
from torch import nn

RESNET = {
    "model_type": "resnet",
    "embedding_size": 8,
    "hidden_sizes": [8, 8, 16, 32],
    "depths": [1, 1, 1, 1],
    "layer_type": "basic",
    "out_features": ["stage2", "stage3", "stage4"],
}
PLAIN = {
    "backbone_config": RESNET,
    "d_model": 32,
    "num_queries": 7,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 16,
    "decoder_ffn_dim": 16,
    "num_labels": 3,
}
HYBRID = PLAIN | {
    "encoder_hidden_dim": 32,
    "encoder_in_channels": [8, 16, 32],
    "decoder_in_channels": [32, 32, 32],
    "encoder_layers": 1,
    "decoder_n_points": 2,
    "num_denoising": 4,
}
TWO_STAGE = {"two_stage": True, "with_box_refine": True, "two_stage_num_proposals": 7}
KINDS = {
    "detr": ("detr", PLAIN),
    "conditional_detr": ("conditional_detr", PLAIN),
    "deformable_detr": ("deformable_detr", PLAIN | {"num_feature_levels": 4}),
    "deformable_two_stage": ("deformable_detr", PLAIN | TWO_STAGE),
    "rt_detr": ("rt_detr", HYBRID),
    "rt_detr_v2": ("rt_detr_v2", HYBRID | {"decoder_n_levels": 3, "decoder_offset_scale": 0.5}),
    "d_fine": ("d_fine", HYBRID | {"decoder_n_points": [2, 2, 2], "max_num_bins": 8}),
}
SELECTING = ("deformable_two_stage", "rt_detr", "rt_detr_v2", "d_fine")


def tiny_network(kind: str, seed: int = 0, **options) -> nn.Module:
    """A random network whose queries differ from each other; classes 0, 1 and 2."""
    import transformers

    name, settings = KINDS[kind]
    config = transformers.AutoConfig.for_model(name, **copy.deepcopy(settings | options))
    torch.manual_seed(seed)
    network = transformers.AutoModelForObjectDetection.from_config(config, attn_implementation="eager")
    return spread_queries(network).eval()


def spread_queries(network: nn.Module) -> nn.Module:
    """Random weights, large enough for queries to differ from each other."""
    with torch.no_grad():
        for parameter in network.parameters():
            # The library's own starting values leave all queries alike.
            fan_in = parameter[0].numel() if parameter.dim() > 1 else 25
            parameter.copy_(
                torch.randn(parameter.shape).to(parameter) * fan_in**-0.5 + (parameter.dim() == 1) * parameter
            )
    return network


def tiny_detr(kind: str, seed: int = 0, network: nn.Module | None = None, **options):
    """The same as a detector."""
    from odam_d2.modeling import ODAMDETR

    arguments = {"pixel_mean": [120.0, 110.0, 100.0], "pixel_std": [60.0, 58.0, 57.0]}
    return ODAMDETR(network=network or tiny_network(kind, seed), **{**arguments, **options}).eval()


def quick_checkpoint(kind: str, folder) -> str:
    """The file of a checkpoint of a quick config, ``detr`` or ``rt_detr``, whose queries differ."""
    from detectron2.modeling import build_model

    from helpers import small_cfg

    torch.manual_seed(0)
    model = build_model(small_cfg(kind))
    spread_queries(model.network)
    torch.save({"model": model.state_dict()}, folder / f"{kind}.pth")
    return str(folder / f"{kind}.pth")
