"""Train or evaluate a detector: Detectron2's train_net.py with odam_d2's models, keys and datasets."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.engine import default_argument_parser, default_setup
from detectron2.evaluation import verify_results
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger

from odam_d2.cli.common import run_command
from odam_d2.cli.processes import run_processes
from odam_d2.config import load_config
from odam_d2.data.own import FORMS, add_datasets
from odam_d2.data.same_classes import check_same_classes
from odam_d2.engine import ODAMTrainer
from odam_d2.model_zoo.files import find_config_file
from odam_d2.modeling.checkpoint import CompleteCheckpointer
from odam_d2.modeling.config_check import check_config
from odam_d2.training_curves import draw_training_curves

EXAMPLES = """
examples:
  odam train --config-file demo/fcos_nanodet_g.yaml --dataset mine=train.json:images/ \\
      --test-dataset mine_val=val.json:images/ MODEL.FCOS.NUM_CLASSES 3 OUTPUT_DIR output/mine
  odam train --eval-only --config-file output/mine/config.yaml MODEL.WEIGHTS output/mine/model_final.pth
"""
# What to say after Ctrl-C.
GOES_ON = "with --resume the same command goes on from its last checkpoint"


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line: Detectron2's, with two options more."""
    parser = default_argument_parser(epilog=EXAMPLES)
    parser.prog, parser.description, parser.allow_abbrev = "odam train", __doc__, False
    keys = {"--dataset": "DATASETS.TRAIN, or with --eval-only DATASETS.TEST", "--test-dataset": "DATASETS.TEST"}
    for option, what in keys.items():
        help = f"becomes {what}: a registered one, or your own: {FORMS}; may be given several times"
        parser.add_argument(option, action="append", default=[], metavar="NAME", help=help)
    args = parser.parse_args(argv)
    if not args.config_file:
        parser.error("--config-file is missing")
    return args


def read_training_config(args: argparse.Namespace) -> CfgNode:
    """The config of this run, with datasets that are there and have the detector's classes.

    Raises:
        FileNotFoundError: no such config, or a missing annotation file.
        ValueError: a key, value or dataset that cannot be used, such as a device that is not there.
    """
    cfg = load_config(args.config_file, args.opts)
    check_config(cfg)
    data = cfg.DATASETS
    if args.eval_only:
        if args.dataset or args.test_dataset:
            data.TEST = add_datasets(cfg, [*args.dataset, *args.test_dataset])
    elif args.dataset or args.test_dataset:
        data.TRAIN = add_datasets(cfg, args.dataset) or data.TRAIN
        # The config's own test data would be of other classes than these.
        data.TEST = add_datasets(cfg, args.test_dataset)
    used = {"TEST": data.TEST} if args.eval_only else {"TRAIN": data.TRAIN, "TEST": data.TEST}
    key, names = next(iter(used.items()))
    if not names:
        raise ValueError(f"DATASETS.{key} is empty; name a dataset with --dataset")
    check_same_classes(cfg, [name for several in used.values() for name in several])
    return cfg


def work(args: argparse.Namespace) -> None:
    """One process of the run."""
    cfg = read_training_config(args)
    cfg.freeze()
    # Detectron2 prints the file that it is told.
    default_setup(cfg, argparse.Namespace(**{**vars(args), "config_file": find_config_file(args.config_file)}))
    setup_logger(cfg.OUTPUT_DIR, distributed_rank=comm.get_rank(), name="odam_d2")
    if not args.eval_only:
        trainer = ODAMTrainer(cfg)
        trainer.resume_or_load(resume=args.resume)
        trainer.train()
        if comm.is_main_process():
            folder = Path(cfg.OUTPUT_DIR)
            draw_training_curves(folder / "metrics.json", folder / "curves.png")
        return
    model = ODAMTrainer.build_model(cfg)
    CompleteCheckpointer(model, save_dir=cfg.OUTPUT_DIR).resume_or_load(cfg.MODEL.WEIGHTS, resume=args.resume)
    verify_results(cfg, ODAMTrainer.test(cfg, model))


def run_process(args: argparse.Namespace) -> int:
    """One process of the run; the exit code is 1 where it cannot be done."""

    def run() -> int:
        work(args)
        return 0

    return run_command(run, "" if args.eval_only else GOES_ON, shown=comm.is_main_process())


def run(argv: Sequence[str] | None) -> int:
    """Run in as many processes as asked for."""
    args = parse_arguments(argv)
    where = {"machine_rank": args.machine_rank, "dist_url": args.dist_url}
    return run_processes(run_process, (args,), args.num_gpus, args.num_machines, **where)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the exit code is 1 where it cannot be done."""
    return run_command(lambda: run(argv))
