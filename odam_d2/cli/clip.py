"""Show why CLIP finds photographs and texts alike: maps of their cosine, several methods side by side, as in Figure 9.

A sheet a photograph, a row a text, a column a method; raw maps beside it, whose scores are the cosines. CLIP learned
from whole images: neither ODAM nor Grad-CAM shows reliably where in a photograph the text's object is.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from odam_d2.cli.arguments import add_images, add_names, add_output, make_parser
from odam_d2.cli.common import FAILED, each_image, prepare_for_network, run_command
from odam_d2.data.images import find_images, read_image
from odam_d2.explain import GRADIENT_METHODS, METHODS, SMOOTHINGS, check_methods
from odam_d2.files import name_images
from odam_d2.modeling.clip.similarity import FITS, ImageTextModel, Similarity, explain_similarity
from odam_d2.modeling.explainable import check_layers
from odam_d2.show.page import fit
from odam_d2.show.results import ExplainedImage, save_raw_maps
from odam_d2.show.sheets import CELL_SIDE
from odam_d2.show.similarities import similarity_sheet

DEFAULT_METHODS = ("odam", "gradcam")


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = make_parser("clip", __doc__)
    help = "a folder that OpenCLIP wrote, or a model of it on the hub, such as timm/resnet50x4_clip.openai"
    parser.add_argument("--model", required=True, metavar="NAME_OR_FOLDER", help=help)
    help = "what the photographs may show, such as 'a bottle'; once for each"
    parser.add_argument("--text", required=True, action="append", metavar="TEXT", help=help)
    add_images(parser)
    add_output(parser)
    methods = f"of {', '.join(GRADIENT_METHODS)}; default {','.join(DEFAULT_METHODS)}"
    add_names(parser, "--methods", methods, DEFAULT_METHODS)
    parser.add_argument(
        "--layer", help="res2 to res5 of a ResNet, block1, block2, ... of a transformer; default the last"
    )
    parser.add_argument("--smoothing", choices=SMOOTHINGS, default="none", help="of ODAM's gradients; default none")
    help = "all of a photograph in another aspect ratio (default), or its middle square, as CLIP is evaluated"
    parser.add_argument("--fit", choices=FITS, default="whole", help=help)
    return parser.parse_args(argv)


def as_results(found: Similarity, path: Path) -> ExplainedImage:
    """What is written of a photograph: a text is a detection that covers the image, a method a target."""
    height, width = found.image.shape[:2]
    count = len(found.texts)
    maps = found.heat_maps
    first = next(iter(maps.values()))
    return ExplainedImage(
        file=path,
        image=np.ascontiguousarray(found.image[:, :, ::-1]),
        boxes=np.tile(np.float32([0, 0, width, height]), (count, 1)),
        classes=np.arange(count),
        class_names=found.texts,
        scores=found.cosines.cpu().numpy(),
        levels=[found.layer] * count,
        maps={method: own.maps.cpu().numpy() for method, own in maps.items()},
        stride=first.stride,
        network_size=first.image_size,
        pictures={method: lambda size, own=own: own.to_picture(size).cpu().numpy() for method, own in maps.items()},
        seconds_detection=0.0,
        seconds_maps=0.0,
    )


def draw(results: ExplainedImage) -> np.ndarray:
    """The sheet of a photograph, (hs,ws,3) uint8 RGB."""
    size = fit(results.image.shape[:2], CELL_SIDE)
    maps = {METHODS[method].title: own(size) for method, own in results.pictures.items()}
    labels = [f"{text} {cosine:.3f}" for text, cosine in zip(results.class_names, results.scores.tolist())]
    return similarity_sheet(results.image, labels, maps, f"why they are alike, at {results.levels[0]}")


def run(argv: Sequence[str] | None) -> int:
    """Explain all photographs; the exit code is 0 where at least one could be."""
    args = parse_arguments(argv)
    prepare_for_network()
    check_methods(args.methods, GRADIENT_METHODS)
    names = name_images(find_images(args.input))
    model = ImageTextModel.from_pretrained(args.model)
    # Mistakes that all photographs would share come before the first of them.
    check_layers([args.layer or model.layers[-1]], model.layers)
    model.encode_texts(args.text)
    args.output.mkdir(parents=True, exist_ok=True)

    def explain_image(path: Path) -> None:
        found = explain_similarity(
            model, read_image(path), args.text, args.methods, args.layer, args.fit, args.smoothing
        )
        results = as_results(found, path)
        save_raw_maps(args.output / f"{names[path]}_clip.npz", results)
        Image.fromarray(draw(results)).save(args.output / f"{names[path]}_clip.png")

    shown = sum(1 for _ in each_image(names, "explaining", explain_image))
    print(f"{shown} of {len(names)} images: see {args.output}")
    return 0 if shown else FAILED


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the exit code is 1 where nothing could be explained."""
    return run_command(lambda: run(argv), "the sheets of finished images are kept")
