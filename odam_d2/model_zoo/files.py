"""Where the configs and weights that come with odam_d2 lie: inside the installed package, else in the checkout."""

from difflib import get_close_matches
from pathlib import Path

PACKAGE = Path(__file__).parent
CHECKOUT = PACKAGE.parents[1]
# In order of preference. Only a checkout has projects/ODAM; without that test, "configs" beside an installed package
# could be anybody's.
_IS_CHECKOUT = (CHECKOUT / "projects" / "ODAM").is_dir()
CONFIG_FOLDERS = (PACKAGE / "configs", *([CHECKOUT / "configs"] if _IS_CHECKOUT else []))
WEIGHTS_FOLDERS = (PACKAGE / "weights", *([CHECKOUT / "projects" / "ODAM" / "weights"] if _IS_CHECKOUT else []))


def list_configs() -> list[str]:
    """Names of all experiments, such as ``demo/fcos_nanodet_g.yaml``, sorted; ``Base...`` are what they share."""
    return sorted(name for name in _files(CONFIG_FOLDERS, "yaml") if not Path(name).name.startswith("Base"))


def get_config_file(name: str) -> str:
    """The file of a config.

    Args:
        name: relative to ``configs/``, such as ``demo/fcos_nanodet_g.yaml``.

    Returns:
        an absolute path.

    Raises:
        FileNotFoundError: no config has that name; the closest names are listed.
    """
    files = _files(CONFIG_FOLDERS, "yaml")
    if name not in files:
        closest = get_close_matches(name, list_configs(), cutoff=0.0)
        hint = f"the closest names are {', '.join(closest)}" if files else "this installation came without any"
        raise FileNotFoundError(f"odam_d2 has no config {name!r}; {hint}")
    return str(files[name])


def find_config_file(config_file: str) -> str:
    """The file that a user means by a path, or by the name of one of odam_d2's configs.

    Args:
        config_file: path of a yaml file or, where there is no such file, a name as for :func:`get_config_file`.

    Returns:
        a path.

    Raises:
        FileNotFoundError: it is neither; names of configs that are close to it are listed.
    """
    if Path(config_file).is_file():
        return config_file
    files = _files(CONFIG_FOLDERS, "yaml")
    if config_file in files:
        return str(files[config_file])
    # Of a path from another folder the end may be the name of a config.
    end = "/".join(Path(config_file).parts[-2:])
    closest = get_close_matches(end, list_configs())
    hint = f"; names of odam_d2's own that are close to it are {', '.join(closest)}" if closest else ""
    raise FileNotFoundError(f"there is no config file {config_file}{hint}")


def get_weights_file(name: str) -> str:
    """The file of weights that come with odam_d2.

    Args:
        name: such as ``fcos_nanodet_g.pth``.

    Returns:
        an absolute path.

    Raises:
        FileNotFoundError: there are none of that name; those that exist are listed.
    """
    files = _files(WEIGHTS_FOLDERS, "pth")
    if name not in files:
        existing = f"those that exist are {', '.join(sorted(files))}" if files else "this installation came without any"
        raise FileNotFoundError(f"odam_d2 has no weights {name!r}; {existing}")
    return str(files[name])


def get_model_file(name: str) -> str:
    """The description of a transformer detector that a config names in ``MODEL.TRANSFORMERS.CONFIG``.

    Args:
        name: relative to ``configs/``, such as ``quick/detr.json``.

    Returns:
        an absolute path.

    Raises:
        FileNotFoundError: there is none of that name; those that exist are listed.
    """
    files = _files(CONFIG_FOLDERS, "json")
    if name not in files:
        raise FileNotFoundError(f"odam_d2 has no {name!r}; those that exist are {', '.join(sorted(files)) or 'none'}")
    return str(files[name])


def _files(folders: tuple[Path, ...], suffix: str) -> dict[str, Path]:
    """Name relative to its folder -> file; of two files of one name the first folder's."""
    found = ((folder, path) for folder in reversed(folders) for path in folder.rglob(f"*.{suffix}"))
    return {path.relative_to(folder).as_posix(): path for folder, path in found}
