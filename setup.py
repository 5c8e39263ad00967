"""Install odam_d2 into an environment that already has PyTorch and Detectron2."""

import re
from pathlib import Path

from setuptools import find_packages, setup

init = Path(__file__).with_name("odam_d2") / "__init__.py"

setup(
    name="odam_d2",
    version=re.search(r'^__version__ = "(.+)"$', init.read_text(), re.MULTILINE)[1],
    description="ODAM for Detectron2: one heat map per detection and per predicted attribute",
    packages=find_packages(include=["odam_d2", "odam_d2.*"]),
    package_data={"odam_d2.show": ["templates/*.html"], "odam_d2.evaluation.study": ["templates/*.html"]},
    entry_points={"console_scripts": ["odam=odam_d2.cli.main:main"]},
    python_requires=">=3.10",
    # torch, torchvision and detectron2 are missing on purpose, and so is OpenCV, of which there are four packages:
    # installing odam_d2 must never replace the ones a user has. `bash scripts/setup_env.sh` brings them all.
    install_requires=[
        "fvcore",
        "iopath",
        "matplotlib",
        "numpy",
        "Pillow",
        "pycocotools",
        "PyYAML",
        "rich",
        "scipy",
        "timm",
    ],
)
