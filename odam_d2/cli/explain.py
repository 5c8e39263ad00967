"""Explain the detections in photographs: contact sheets, raw maps, a manifest and one browsable page."""

import argparse
import json
import os
import platform
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import detectron2
import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.structures import Instances
from detectron2.utils.logger import setup_logger
from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

import odam_d2
from odam_d2.config import load_config
from odam_d2.data.images import find_images, read_image_bgr
from odam_d2.explain import (
    ALL_METHODS,
    BLACK_BOX,
    TARGETS,
    BlackBoxExplainer,
    GradientExplainer,
    check_methods,
    check_targets,
    explain,
)
from odam_d2.modeling.checkpoint import weights_sha256
from odam_d2.predictor import ODAMPredictor
from odam_d2.show.page import MAP_SIDE, PHOTO_SIDE, ReportImage, fit, write_report
from odam_d2.show.sheets import contact_sheet
from odam_d2.show.words import DRISE_MEANINGS, TARGET_MEANINGS
from odam_d2.structures import HeatMaps

DEFAULT_TARGETS = ("class_score", "x1", "y1", "x2", "y2", "combined")
# Exit code of a program stopped by Ctrl-C.
INTERRUPTED = 130


@dataclass
class Outputs:
    """Where the results go, and what has been produced so far.

    Args:
        folder: output folder.
        run: facts about the run.
    """

    folder: Path
    run: dict[str, Any]

    def __post_init__(self) -> None:
        self.images: list[dict[str, Any]] = []
        self.failed: list[dict[str, str]] = []
        self.pages: list[str] = []
        self.meanings = DRISE_MEANINGS if self.run["method"] == BLACK_BOX else TARGET_MEANINGS
        try:
            for sub in ("sheets", "maps"):
                (self.folder / sub).mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.folder):
                pass  # fails here, before any work is done, where the folder cannot be written
        except OSError as error:
            raise OSError(f"the output folder {self.folder} cannot be written: {error.strerror}") from error

    def name_for(self, path: Path) -> str:
        """A file name of its own for each image, also where two folders hold the same name."""
        taken = {entry["name"] for entry in self.images}
        name, count = path.stem, 1
        while name in taken:
            count += 1
            name = f"{path.stem}_{count}"
        return name

    def write_manifest(self) -> None:
        """The manifest so far, replaced in one step: it is valid JSON at every moment, one image a line."""
        lines = ",\n".join(json.dumps(entry) for entry in self.images)
        failed = ",\n".join(json.dumps(entry) for entry in self.failed)
        text = f'{{"run": {json.dumps(self.run)},\n"images": [\n{lines}\n],\n"failed": [\n{failed}\n]}}\n'
        temporary = self.folder / "manifest.json.part"
        temporary.write_text(text)
        os.replace(temporary, self.folder / "manifest.json")

    def write_page(self) -> None:
        """The page over everything explained so far."""
        details = {key: str(value) for key, value in self.run.items()}
        title = f"Why {self.run['config']} sees what it sees"
        write_report(self.folder / "index.html", self.pages, title, details, self.meanings)


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config-file", required=True, metavar="YAML")
    parser.add_argument("--input", required=True, nargs="+", metavar="PATH", help="images, folders, glob patterns")
    parser.add_argument("--output", required=True, type=Path, metavar="DIR")
    parser.add_argument(
        "--targets",
        nargs="+",
        help=f"separated by spaces or commas, of {', '.join(TARGETS)}; default {' '.join(DEFAULT_TARGETS)}",
    )
    parser.add_argument("--method", default="odam", help=", ".join(ALL_METHODS))
    parser.add_argument("--features", default="fpn", help="fpn, roi_pool or a bottom-up stage such as res4")
    parser.add_argument("--confidence-threshold", type=float, help="default: ODAM.EXPLAIN.CONFIDENCE_THRESHOLD")
    parser.add_argument("--max-instances", type=int, help="an image; default: ODAM.EXPLAIN.MAX_INSTANCES")
    parser.add_argument("--opts", nargs=argparse.REMAINDER, default=[], metavar="KEY VALUE")
    return parser.parse_args()


def describe_run(args: argparse.Namespace, cfg: CfgNode, targets: Sequence[str]) -> dict[str, Any]:
    """Everything needed to make the same maps again."""
    options = cfg.ODAM.EXPLAIN
    black_box = {"masks": options.DRISE_MASKS}
    own = black_box if args.method == BLACK_BOX else {"features": args.features, "smoothing": options.SMOOTHING}
    return {
        "odam_d2": odam_d2.__version__,
        "detectron2": detectron2.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "device": cfg.MODEL.DEVICE,
        "config": args.config_file,
        "options": args.opts,
        "meta_architecture": cfg.MODEL.META_ARCHITECTURE,
        "weights": cfg.MODEL.WEIGHTS,
        "weights_sha256": weights_sha256(cfg.MODEL.WEIGHTS),
        "method": args.method,
        **own,
        "targets": list(targets),
        "confidence_threshold": options.CONFIDENCE_THRESHOLD,
        "max_instances": options.MAX_INSTANCES,
    }


def save_maps(path: Path, instances: Instances, heat_maps: dict[str, HeatMaps]) -> None:
    """Raw maps of one image: ``<target>`` (D,h',w') float32 over the padded network input, and how to place them."""
    first = next(iter(heat_maps.values()))
    np.savez_compressed(
        path,
        boxes=instances.pred_boxes.tensor.cpu().numpy(),
        scores=instances.scores.cpu().numpy(),
        classes=instances.pred_classes.cpu().numpy(),
        stride=first.stride,
        network_size=first.image_size,
        image_size=first.output_size,
        **{target: maps.maps.cpu().numpy() for target, maps in heat_maps.items()},
    )


def explain_image(
    predictor: ODAMPredictor,
    explainer: GradientExplainer | BlackBoxExplainer,
    targets: Sequence[str],
    path: Path,
    outputs: Outputs,
) -> None:
    """Explain one image and write everything about it."""
    options = predictor.cfg.ODAM.EXPLAIN
    image = read_image_bgr(path)
    start = time.perf_counter()
    # Detections come in descending score.
    instances, trace = predictor.trace(
        image,
        (explainer.layer,),
        lambda found: (found.scores >= options.CONFIDENCE_THRESHOLD).nonzero()[: options.MAX_INSTANCES, 0],
    )
    detected = time.perf_counter()
    heat_maps = explain(trace, targets, explainer)
    explained = time.perf_counter()
    name = outputs.name_for(path)
    save_maps(outputs.folder / "maps" / f"{name}.npz", instances, heat_maps)
    height, width = fit(image.shape[:2], PHOTO_SIDE)
    photo = np.asarray(Image.fromarray(image[:, :, ::-1]).resize((width, height), Image.Resampling.LANCZOS))
    boxes = instances.pred_boxes.tensor.cpu().numpy() * ([width / image.shape[1], height / image.shape[0]] * 2)
    shown = {
        target: maps.to_picture(fit((height, width), MAP_SIDE)).cpu().numpy() for target, maps in heat_maps.items()
    }
    full = {target: maps.to_picture((height, width)).cpu().numpy() for target, maps in heat_maps.items()}
    sheet = contact_sheet(photo, boxes, predictor.labels(instances), full, outputs.meanings)
    Image.fromarray(sheet).save(outputs.folder / "sheets" / f"{name}.png")
    names = [predictor.class_names[c] for c in instances.pred_classes.tolist()]
    facts = {
        "image": f"{image.shape[1]} x {image.shape[0]}",
        "detection": f"{detected - start:.3f} s",
        "maps": f"{len(instances) * len(targets)} in {explained - detected:.3f} s",
    }
    page = ReportImage(str(path.name), photo, boxes, names, instances.scores.cpu().numpy(), shown, facts)
    outputs.pages.append(page.encode())
    outputs.images.append(
        {
            "name": name,
            "file": str(path),
            "size": [image.shape[1], image.shape[0]],
            "classes": names,
            "scores": [round(s, 6) for s in instances.scores.tolist()],
            "boxes": [[round(v, 2) for v in box] for box in instances.pred_boxes.tensor.tolist()],
            "levels": list(trace.levels),
            "sheet": f"sheets/{name}.png",
            "maps": f"maps/{name}.npz",
            "seconds_detection": round(detected - start, 4),
            "seconds_maps": round(explained - detected, 4),
            "number_of_maps": len(instances) * len(targets),
        }
    )


def print_table(console: Console, outputs: Outputs) -> None:
    """One screen: an image a row while they fit, and the sums."""
    layer = f" at {outputs.run['features']}" if "features" in outputs.run else ""
    table = Table(title=f"Explained by {outputs.run['method']}{layer}")
    for column in ("image", "detections", "s / image", "ms / map"):
        table.add_column(column, justify="left" if column == "image" else "right")
    rows = outputs.images
    shown = max(3, console.height - 12)
    for row in rows[:shown]:
        per_map = f"{1000 * row['seconds_maps'] / row['number_of_maps']:.1f}" if row["number_of_maps"] else "-"
        seconds = row["seconds_detection"] + row["seconds_maps"]
        table.add_row(row["name"], str(len(row["boxes"])), f"{seconds:.3f}", per_map)
    if len(rows) > shown:
        table.add_row(f"... {len(rows) - shown} more in manifest.json", "", "", "")
    maps = sum(row["number_of_maps"] for row in rows)
    seconds_maps = sum(row["seconds_maps"] for row in rows)
    seconds = seconds_maps + sum(row["seconds_detection"] for row in rows)
    table.add_section()
    table.add_row(
        f"{len(rows)} images",
        str(sum(len(row["boxes"]) for row in rows)),
        f"{seconds / max(1, len(rows)):.3f}",
        f"{1000 * seconds_maps / maps:.1f}" if maps else "-",
    )
    console.print(table)


def choose_targets(args: argparse.Namespace) -> list[str]:
    """The targets that the command line asks for; a black box has one."""
    if args.targets is None:
        return list(DEFAULT_TARGETS[:1] if args.method == BLACK_BOX else DEFAULT_TARGETS)
    targets = [target for word in args.targets for target in word.split(",") if target]
    if not targets:
        raise ValueError("--targets names no target")
    return targets


def read_config(args: argparse.Namespace) -> CfgNode:
    """The config with what the command line changes."""
    cfg = load_config(args.config_file, args.opts)
    options = cfg.ODAM.EXPLAIN
    if args.confidence_threshold is not None:
        options.CONFIDENCE_THRESHOLD = args.confidence_threshold
    if args.max_instances is not None:
        options.MAX_INSTANCES = args.max_instances
    if options.MAX_INSTANCES < 1:
        raise ValueError(f"--max-instances is {options.MAX_INSTANCES}; at least 1 is needed")
    if not 0 <= options.CONFIDENCE_THRESHOLD <= 1:
        raise ValueError(f"--confidence-threshold is {options.CONFIDENCE_THRESHOLD}; it must lie between 0 and 1")
    return cfg


def main() -> int:
    """Run; the exit code is 0 where at least one image was explained."""
    args = parse_arguments()
    console = Console(stderr=True)
    setup_logger(name="fvcore").setLevel("WARNING")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    progress = Progress(*columns, console=console, disable=not console.is_terminal)
    images = progress.add_task("explaining", total=None)
    masks = progress.add_task("masks of D-RISE", total=None, visible=False)

    def tell(done: int, total: int) -> None:
        progress.update(masks, completed=done, total=total, visible=True)

    try:
        targets = choose_targets(args)
        # Mistakes that cost nothing to find come before the weights are read.
        check_targets(targets)
        check_methods([args.method], ALL_METHODS)
        paths = find_images(args.input)
        cfg = read_config(args)
        predictor = ODAMPredictor(cfg)
        explainer = predictor.make_explainer(args.method, args.features, progress=tell)
        explainer.check(targets)
        predictor.check_features((args.features,))
        outputs = Outputs(args.output, describe_run(args, cfg, targets))
    except (ValueError, OSError) as error:
        console.print(f"error: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        return 1
    code = 0
    try:
        with progress:
            for path in progress.track(paths, task_id=images):
                try:
                    explain_image(predictor, explainer, targets, path, outputs)
                except (ValueError, OSError) as error:
                    outputs.failed.append({"file": str(path), "reason": str(error)})
                    console.print(f"left out: {error}", style="yellow", markup=False, highlight=False, soft_wrap=True)
                outputs.write_manifest()
    except KeyboardInterrupt:
        done = len(outputs.images)
        console.print(f"interrupted: the results of {done} of {len(paths)} images are kept", markup=False)
        code = INTERRUPTED
    outputs.write_manifest()
    outputs.write_page()
    print_table(Console(), outputs)
    print(f"open {outputs.folder / 'index.html'}")
    return code or (0 if outputs.images else 1)
