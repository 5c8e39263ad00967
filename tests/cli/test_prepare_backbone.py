"""``odam prepare-backbone``: the package's tensors under Detectron2's names, or one sentence."""

import subprocess

import pytest
import timm
import torch

from odam_d2.cli import prepare_backbone
from odam_d2.cli.prepare_backbone import PACKAGE, main, to_detectron2


@pytest.fixture(scope="module")
def package():
    """As the package has them: timm's tensors in timm's order, under other names."""
    state = timm.create_model("efficientnet_lite0").state_dict()
    return {f"other.{i}": tensor for i, tensor in enumerate(state.values())}


def test_tensors_go_where_timms_stages_have_theirs(package, monkeypatch, tmp_path, call):
    monkeypatch.setattr(prepare_backbone, "download_state_dict", lambda: package)
    output = tmp_path / "made" / "backbone.pth"
    done = call(main, "--output", output)
    assert done.code == 0 and done.out.startswith(f"wrote {output}: "), done.err
    content = torch.load(output, weights_only=True)
    assert content["matching_heuristics"] is False
    # The stem's convolution is the first tensor; the classifier is no stage.
    assert torch.equal(content["model"]["backbone.bottom_up.network.conv_stem.weight"], package["other.0"])
    assert not [name for name in content["model"] if "classifier" in name or "num_batches" in name]
    stages = timm.create_model("efficientnet_lite0", features_only=True).state_dict()
    wanted = {f"backbone.bottom_up.network.{name}" for name in stages if not name.endswith("num_batches_tracked")}
    assert set(content["model"]) == wanted


def test_tensors_of_another_network_are_refused(package):
    first, *rest = package.items()
    with pytest.raises(ValueError, match="do not fit timm's efficientnet_lite0.*other.0"):
        to_detectron2({first[0]: torch.zeros(3), **dict(rest)})
    with pytest.raises(ValueError, match="do not fit"):
        to_detectron2(dict(rest[:-1]))


def test_a_package_index_out_of_reach_gives_one_sentence(monkeypatch, tmp_path, call):
    monkeypatch.setattr(subprocess, "run", lambda command: subprocess.CompletedProcess(command, 1))
    done = call(main, "--output", tmp_path / "backbone.pth")
    assert done.code == 1 and f"pip could not download {PACKAGE}" in done.err and done.err.count("\n") == 1
    assert not (tmp_path / "backbone.pth").exists()
