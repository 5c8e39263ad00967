"""``odam://NAME``: weights that come with odam_d2, wherever Detectron2 takes a path. Importing this registers it."""

from typing import IO, Any

from detectron2.utils.file_io import PathHandler, PathManager

from odam_d2.model_zoo.files import get_weights_file


class ODAMPathHandler(PathHandler):
    """Resolves ``odam://fcos_lite0.pth``; read-only."""

    PREFIX = "odam://"

    def _get_supported_prefixes(self) -> list[str]:
        return [self.PREFIX]

    def _get_local_path(self, path: str, force: bool = False, **kwargs: Any) -> str:
        self._check_kwargs(kwargs)
        return get_weights_file(path.removeprefix(self.PREFIX))

    def _open(self, path: str, mode: str = "r", buffering: int = -1, **kwargs: Any) -> IO:
        if set(mode) - set("rbt"):
            raise ValueError(f"{path} comes with odam_d2 and is read only; it cannot be opened with mode {mode!r}")
        return PathManager.open(self._get_local_path(path), mode, buffering, **kwargs)


PathManager.register_handler(ODAMPathHandler())
