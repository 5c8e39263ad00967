"""Puts configs and weights into the package when it is built; everything else stands in pyproject.toml."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
# Folder of the repository -> its files. An editable installation reads them there.
ZOO = {
    "configs": sorted([*ROOT.glob("configs/**/*.yaml"), *ROOT.glob("configs/**/*.json")]),
    "projects/ODAM/weights": sorted(ROOT.glob("projects/ODAM/weights/*.pth")),
}


class BuildWithZoo(build_py):
    """The package with ``configs/`` and ``projects/ODAM/weights/`` in ``odam_d2/model_zoo``."""

    def run(self) -> None:
        """Copy the modules, and then the zoo."""
        if self.editable_mode:
            super().run()
            return
        # What an earlier build left there, a module that was deleted since, must not be packed.
        shutil.rmtree(Path(self.build_lib, "odam_d2"), ignore_errors=True)
        super().run()
        for folder, files in ZOO.items():
            if not files:
                raise FileNotFoundError(f"{ROOT / folder} is empty; build odam_d2 from its whole repository")
            target = Path(self.build_lib, "odam_d2", "model_zoo", Path(folder).name)
            for file in files:
                copy = target / file.relative_to(ROOT / folder)
                self.mkpath(str(copy.parent))
                self.copy_file(str(file), str(copy))


setup(cmdclass={"build_py": BuildWithZoo})
