"""``odam export-weights``: the model alone, in half precision, or one sentence."""

import pytest
import torch

from odam_d2.cli.export_weights import main


def save(path, content):
    torch.save(content, path)
    return path


def test_the_model_alone_is_kept_in_half_precision(tmp_path, call):
    # 0.1 in half precision is 0.0999755859375; whole numbers stay whole numbers.
    model = {"w": torch.tensor([[0.5, 0.1]]).T, "count": torch.tensor(70000)}
    checkpoint = save(tmp_path / "model_final.pth", {"model": model, "iteration": 7})
    output = tmp_path / "made" / "small.pth"
    done = call(main, checkpoint, output)
    assert done.code == 0 and done.out.startswith(f"wrote {output}: 2 tensors"), done.err
    content = torch.load(output, weights_only=True)
    assert set(content) == {"model", "__author__"}
    assert content["model"]["w"].dtype == torch.float16 and content["model"]["w"].is_contiguous()
    assert content["model"]["w"].tolist() == [[0.5], [0.0999755859375]]
    assert content["model"]["count"].dtype == torch.int64 and content["model"]["count"] == 70000


@pytest.mark.parametrize(
    ("content", "culprit"),
    [
        # The largest number of half precision is 65504.
        ({"model": {"fine": torch.zeros(1), "large": torch.tensor([65504.0, 1e5])}}, "the numbers of large"),
        ({"weights": {}}, "is no checkpoint of a training run"),
        (torch.zeros(3), "is no checkpoint of a training run"),
    ],
)
def test_what_cannot_be_exported_leaves_the_old_weights(content, culprit, tmp_path, call):
    (tmp_path / "old.pth").write_bytes(b"old")
    done = call(main, save(tmp_path / "model_final.pth", content), tmp_path / "old.pth")
    assert done.code == 1 and culprit in done.err and not done.out
    assert done.err.startswith("error: ") and done.err.count("\n") == 1
    assert (tmp_path / "old.pth").read_bytes() == b"old"


@pytest.mark.parametrize("content", [None, b"", b"no checkpoint"])
def test_a_file_that_pytorch_cannot_read_gives_one_sentence(content, tmp_path, call):
    path = tmp_path / "model_final.pth"
    if content is not None:
        path.write_bytes(content)
    done = call(main, path, tmp_path / "out.pth")
    assert done.code == 1 and str(path) in done.err and done.err.count("\n") == 1
    assert not (tmp_path / "out.pth").exists()
