"""``docs/clip.md``: its code as a reader runs it, with the extra and a tiny model in the place of a real one."""

import json

import pytest
import torch

from pages import check_command, make_smaller, read_blocks, split_commands

PAGE = "docs/clip.md"
VISION = {"layers": [1, 1, 1, 1], "width": 8, "image_size": 64}
TEXT = {"context_length": 12, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}


def test_its_commands_are_understood():
    commands = [words for block in read_blocks(PAGE, "bash") for words in split_commands(block)]
    assert [words[:2] for words in commands if words[0] == "odam"] == [["odam", "clip"]] * 2
    for words in commands:
        check_command(words)


def test_its_python_and_the_command_on_a_folder_run(tmp_path, monkeypatch, capsys):
    open_clip = pytest.importorskip("open_clip", reason="the extra 'clip' is not installed")
    from PIL import Image
    from skimage import data

    from odam_d2.cli import clip

    photo = Image.fromarray(data.chelsea())
    photo.thumbnail((160, 160))
    photo.save(tmp_path / "photo.jpg")
    torch.manual_seed(0)
    network = open_clip.CLIP(embed_dim=16, vision_cfg=VISION, text_cfg=TEXT)
    (tmp_path / "my_clip").mkdir()
    torch.save(network.state_dict(), tmp_path / "my_clip" / "open_clip_pytorch_model.bin")
    config = {"model_cfg": {"embed_dim": 16, "vision_cfg": VISION, "text_cfg": TEXT}}
    (tmp_path / "my_clip" / "open_clip_config.json").write_text(json.dumps(config))
    monkeypatch.chdir(tmp_path)
    (code,) = read_blocks(PAGE, "python")
    exec(compile(code, PAGE, "exec"), {"__name__": "page"})
    assert f"torch.Size([2, {photo.height}, {photo.width}])" in capsys.readouterr().out
    (words,) = [w for b in read_blocks(PAGE, "bash") for w in split_commands(b) if "my_clip" in w]
    assert clip.main(make_smaller("clip", words[2:])) == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"photo_clip.npz", "photo_clip.png"}
