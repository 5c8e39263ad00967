"""Turn a training checkpoint into weights to ship: the model alone, in half precision."""

import argparse
import pickle
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from odam_d2.cli.arguments import make_parser
from odam_d2.cli.common import run_command
from odam_d2.files import open_atomically


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = make_parser("export-weights", __doc__)
    parser.add_argument("checkpoint", type=Path, help="model_final.pth of a training run")
    parser.add_argument("output", type=Path, help="for example projects/ODAM/weights/fcos_nanodet_g.pth")
    return parser.parse_args(argv)


def read_model(path: Path) -> dict[str, Tensor]:
    """The tensors of a training checkpoint's model.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is no checkpoint of a training run.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no checkpoint {path}")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)["model"]
    # What PyTorch raises for a file of another kind depends on the file's first bytes.
    except (pickle.UnpicklingError, EOFError, KeyError, IndexError, TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{path} is no checkpoint of a training run, which holds tensors under 'model'") from error


def to_half(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors with floating-point ones in half precision.

    Raises:
        ValueError: a number that half precision cannot hold.
    """
    half = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in state.items()}
    overflown = [name for name, tensor in half.items() if not torch.isfinite(tensor).all()]
    if overflown:
        raise ValueError(f"half precision cannot hold the numbers of {overflown[0]}")
    return {name: tensor.contiguous() for name, tensor in half.items()}


def run(argv: Sequence[str] | None) -> int:
    """Read, convert and write."""
    args = parse_arguments(argv)
    half = to_half(read_model(args.checkpoint))
    args.output.parent.mkdir(parents=True, exist_ok=True)
    with open_atomically(args.output, "wb") as file:
        torch.save({"model": half, "__author__": "odam_d2"}, file)
    print(f"wrote {args.output}: {len(half)} tensors, {args.output.stat().st_size / 2**20:.1f} MiB")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the exit code is 1 where the checkpoint cannot be used."""
    return run_command(lambda: run(argv))
