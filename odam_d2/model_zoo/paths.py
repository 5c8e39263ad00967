"""``odam://NAME``: weights and descriptions of models that come with odam_d2, wherever Detectron2 takes a path.

Importing this registers it.
"""

from typing import IO, Any

from detectron2.utils.file_io import PathHandler, PathManager

from odam_d2.model_zoo.files import get_model_file, get_weights_file


class ODAMPathHandler(PathHandler):
    """Resolves ``odam://fcos_nanodet_g.pth`` and ``odam://quick/detr.json``; read-only."""

    PREFIX = "odam://"

    def _get_supported_prefixes(self) -> list[str]:
        return [self.PREFIX]

    def _get_local_path(self, path: str, force: bool = False, **kwargs: Any) -> str:
        self._check_kwargs(kwargs)
        name = path.removeprefix(self.PREFIX)
        return get_model_file(name) if name.endswith(".json") else get_weights_file(name)

    def _open(self, path: str, mode: str = "r", buffering: int = -1, **kwargs: Any) -> IO:
        if set(mode) - set("rbt"):
            raise ValueError(f"{path} comes with odam_d2 and is read only; it cannot be opened with mode {mode!r}")
        return PathManager.open(self._get_local_path(path), mode, buffering, **kwargs)


PathManager.register_handler(ODAMPathHandler())
