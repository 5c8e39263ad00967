#!/usr/bin/env python
"""Turn a training checkpoint into weights to ship: the model alone, in half precision."""

import argparse
from pathlib import Path

import torch


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path, help="model_final.pth of a training run")
    parser.add_argument("output", type=Path, help="for example projects/ODAM/weights/fcos_lite0.pth")
    args = parser.parse_args()
    if not args.checkpoint.is_file():
        raise SystemExit(f"there is no checkpoint {args.checkpoint}")
    state = torch.load(args.checkpoint, map_location="cpu", weights_only=True)["model"]
    half = {
        name: tensor.half().contiguous() if tensor.is_floating_point() else tensor for name, tensor in state.items()
    }
    overflown = [name for name, tensor in half.items() if not torch.isfinite(tensor).all()]
    if overflown:
        raise SystemExit(f"half precision cannot hold {overflown[0]}")
    args.output.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"model": half, "__author__": "odam_d2"}, args.output)
    print(f"wrote {args.output}: {len(half)} tensors, {args.output.stat().st_size / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
