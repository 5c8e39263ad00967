"""The console command ``odam``, also ``python -m odam_d2.cli``: finds the command's module and hands the rest on."""

import sys
from collections.abc import Sequence
from importlib import import_module

from odam_d2.cli.common import FAILED, INTERRUPTED, print_error, print_interrupted

# Each is a module of this package, imported only when it runs.
COMMANDS = {
    "explain": "explain the detections in photographs: sheets, raw maps, a page to click through",
    "compare": "show what several detectors saw in the same photographs, side by side",
    "explain-nms": "list what NMS removed in photographs, on account of whom and why",
    "train": "train a detector, or with --eval-only measure its detections; on your own data, too",
    "evaluate": "measure how good the explanations of a detector are, over a dataset",
    "errors": "sort the errors of a detector, and show what misled it",
    "attention": "compare maps with where people looked, from their eye fixations",
    "trust": "make questionnaires about which maps people trust, and read the answers",
    "figures": "make figures of the paper from detectors and images of your own",
    "clip": "show why CLIP finds photographs and texts alike",
    "show-attention": "show where a student learns from its teacher, level by level",
    "sanity": "check that maps depend on the weights and on the detection they explain",
    "evaluate-crowdhuman": "AP, MR-2, JI and recall of a file of detections",
    "make-synthetic-crowd": "make the synthetic crowds that stand in for CrowdHuman",
    "convert-odgt": "turn CrowdHuman's odgt into COCO's JSON",
    "check-hub-models": "check transformer detectors with weights of the Hugging Face hub",
    "prepare-backbone": "fetch the weights that training the bundled detectors begins with",
    "export-weights": "turn a training checkpoint into weights to ship",
}
# Exit code of a command line that cannot be understood, as argparse has it.
MISUSED = 2


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: its name and its own words; default those that the program was started with.

    Returns:
        the exit code: the command's, or 2 where it is unknown.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if words and words[0] in ("-h", "--help"):
        print(_help())
        return 0
    if not words or words[0] not in COMMANDS:
        what = f"unknown command {words[0]!r}" if words else "no command was named"
        print_error(f"{what}; valid commands are {', '.join(COMMANDS)}")
        return MISUSED
    try:
        module = import_module(f"odam_d2.cli.{words[0].replace('-', '_')}")
    except ModuleNotFoundError as error:
        package = (error.name or "").split(".")[0]
        if package in ("", "odam_d2"):
            raise
        print_error(
            f"odam {words[0]} needs the package {package}, which is not installed: run 'bash scripts/setup_env.sh "
            "--active' in odam_d2's folder"
        )
        return FAILED
    except KeyboardInterrupt:
        # PyTorch and Detectron2 take seconds to import.
        print_interrupted()
        return INTERRUPTED
    return module.main(words[1:])


def _help() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {what}" for name, what in COMMANDS.items()]
    return "\n".join(
        [
            "usage: odam COMMAND ...",
            "",
            "Ask a Detectron2 detector why.",
            "",
            *lines,
            "",
            "odam COMMAND --help tells a command's options.",
        ]
    )
