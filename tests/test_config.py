"""Reading configs: what is wrong is named."""

import pytest

from odam_d2.config import load_config


def test_options_override_the_file():
    cfg = load_config("configs/quick/fcos.yaml", ["MODEL.FCOS.NUM_CLASSES", "3"])
    assert cfg.MODEL.FCOS.NUM_CLASSES == 3
    assert cfg.MODEL.META_ARCHITECTURE == "ODAMFCOS"


def test_what_is_wrong_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="absent.yaml"):
        load_config(str(tmp_path / "absent.yaml"))
    for text, culprit in {
        "MODEL: {NO_SUCH_KEY: 1}": "NO_SUCH_KEY",
        "MODEL: [": "cannot be used",
        "MODEL: {FCOS: {NUM_CLASSES: many}}": "NUM_CLASSES",
        "just words": "cannot be used",
        "_BASE_: nowhere.yaml": "nowhere.yaml",
    }.items():
        (tmp_path / "wrong.yaml").write_text(text)
        with pytest.raises(ValueError, match=f"(?s)wrong.yaml.*{culprit}"):
            load_config(str(tmp_path / "wrong.yaml"))
    with pytest.raises(ValueError, match="NO.SUCH"):
        load_config("configs/quick/fcos.yaml", ["NO.SUCH", "1"])
    with pytest.raises(ValueError, match="pairs.*MODEL.DEVICE"):
        load_config("configs/quick/fcos.yaml", ["MODEL.DEVICE"])


def test_yaml_cannot_run_code(tmp_path):
    (tmp_path / "evil.yaml").write_text("OUTPUT_DIR: !!python/object/apply:os.getcwd []")
    with pytest.raises(ValueError, match="evil.yaml"):
        load_config(str(tmp_path / "evil.yaml"))
