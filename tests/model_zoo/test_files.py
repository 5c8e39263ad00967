"""Configs by name: every experiment is listed, and a name with a typing mistake is answered by those close to it."""

from pathlib import Path

import pytest

from odam_d2.model_zoo import files, get_config_file, list_configs
from odam_d2.model_zoo.files import find_config_file, get_weights_file

ROOT = Path(__file__).parents[2]


def test_every_experiment_of_the_checkout_is_listed():
    yamls = [path for path in Path("configs").rglob("*.yaml") if not path.stem.startswith("Base")]
    assert list_configs() == sorted(path.relative_to("configs").as_posix() for path in yamls)
    assert {"demo/fcos_nanodet_g.yaml", "explain/retinanet_R_50_FPN_1x.yaml"} < set(list_configs())
    assert "demo/Base-photographs.yaml" not in list_configs() and "quick/Base.yaml" not in list_configs()


def test_a_name_gives_the_absolute_path_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert get_config_file("demo/fcos_nanodet_g.yaml") == str(ROOT / "configs" / "demo" / "fcos_nanodet_g.yaml")
    # What experiments share has a name, to be a _BASE_ of a user's.
    assert get_config_file("demo/Base-photographs.yaml") == str(ROOT / "configs" / "demo" / "Base-photographs.yaml")


def test_an_unknown_name_is_answered_by_the_closest_ones():
    words = r"'demo/fcos_nanodt.yaml'; the closest names are demo/fcos_nanodet_g.yaml, "
    with pytest.raises(FileNotFoundError, match=words):
        get_config_file("demo/fcos_nanodt.yaml")
    # Nothing is close to this, but something is closest.
    with pytest.raises(FileNotFoundError, match=r"'xyz'; the closest names are .+yaml, .+yaml, .+yaml$"):
        get_config_file("xyz")
    for outside in ("../README.md", "../setup.py", str(ROOT / "configs" / "demo" / "fcos_nanodet_g.yaml")):
        with pytest.raises(FileNotFoundError, match="closest"):
            get_config_file(outside)


def test_a_file_counts_before_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_config_file("demo/fcos_nanodet_g.yaml") == str(ROOT / "configs" / "demo" / "fcos_nanodet_g.yaml")
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "fcos_nanodet_g.yaml").write_text("VERSION: 2\n")
    assert find_config_file("demo/fcos_nanodet_g.yaml") == "demo/fcos_nanodet_g.yaml"


def test_a_path_that_is_neither_is_answered_by_close_names_if_there_are_any(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = r"config file demo/fcos_nanodt.yaml; .*close to it are demo/fcos_nanodet_g"
    with pytest.raises(FileNotFoundError, match=words):
        find_config_file("demo/fcos_nanodt.yaml")
    with pytest.raises(
        FileNotFoundError, match=r"configs/demo/fcos_nanodet_g.yaml; .*close to it are demo/fcos_nanodet_g.yaml"
    ):
        find_config_file("configs/demo/fcos_nanodet_g.yaml")
    with pytest.raises(FileNotFoundError, match=r"there is no config file /data/xyz/q.yml$"):
        find_config_file("/data/xyz/q.yml")


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Folders as an installed package and a checkout might have them."""
    for name in ("package/demo/a.yaml", "checkout/demo/a.yaml", "checkout/demo/b.yaml"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.setattr(files, "CONFIG_FOLDERS", (tmp_path / "package", tmp_path / "checkout"))
    return tmp_path


def test_the_installed_package_counts_before_the_checkout(installed):
    assert list_configs() == ["demo/a.yaml", "demo/b.yaml"]
    assert get_config_file("demo/a.yaml") == str(installed / "package" / "demo" / "a.yaml")
    assert get_config_file("demo/b.yaml") == str(installed / "checkout" / "demo" / "b.yaml")


def test_an_installation_without_configs_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "CONFIG_FOLDERS", (tmp_path / "nowhere",))
    assert list_configs() == []
    with pytest.raises(FileNotFoundError, match="'a.yaml'; this installation came without any$"):
        get_config_file("a.yaml")
    with pytest.raises(FileNotFoundError, match="there is no config file a.yaml$"):
        find_config_file("a.yaml")


def test_the_folders_are_where_a_wheel_and_a_checkout_have_them():
    assert files.CONFIG_FOLDERS == (ROOT / "odam_d2/model_zoo/configs", ROOT / "configs")
    assert files.WEIGHTS_FOLDERS == (ROOT / "odam_d2/model_zoo/weights", ROOT / "projects/ODAM/weights")


def test_weights_are_looked_up_in_the_same_order(tmp_path, monkeypatch):
    folders = (tmp_path / "package", tmp_path / "checkout")
    monkeypatch.setattr(files, "WEIGHTS_FOLDERS", folders)
    with pytest.raises(FileNotFoundError, match="'a.pth'; this installation came without any$"):
        get_weights_file("a.pth")
    for folder in folders:
        folder.mkdir()
        (folder / "a.pth").touch()
    (folders[1] / "b.pth").touch()
    assert get_weights_file("a.pth") == str(folders[0] / "a.pth")
    assert get_weights_file("b.pth") == str(folders[1] / "b.pth")
    with pytest.raises(FileNotFoundError, match="'c.pth'; those that exist are a.pth, b.pth$"):
        get_weights_file("c.pth")
