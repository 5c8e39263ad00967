#!/usr/bin/env python
"""Train or evaluate a detector of odam_d2: Detectron2's ``train_net.py`` with odam_d2's models and keys."""

import argparse

import odam_d2.cli  # noqa: F401  hides other packages' notices, so it comes before them

# isort: split
from detectron2.config import CfgNode
from detectron2.engine import default_argument_parser, default_setup, launch
from detectron2.evaluation import verify_results
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger

from odam_d2.config import load_config
from odam_d2.engine import ODAMTrainer
from odam_d2.model_zoo.files import find_config_file
from odam_d2.modeling.checkpoint import CompleteCheckpointer


def setup(args: argparse.Namespace) -> CfgNode:
    """The frozen config of this run."""
    file = find_config_file(args.config_file)
    cfg = load_config(file, args.opts)
    cfg.freeze()
    # Detectron2 prints the file that it is told.
    default_setup(cfg, argparse.Namespace(**{**vars(args), "config_file": file}))
    setup_logger(cfg.OUTPUT_DIR, distributed_rank=comm.get_rank(), name="odam_d2")
    return cfg


def main(args: argparse.Namespace) -> dict:
    """One process of the run."""
    cfg = setup(args)
    if not args.eval_only:
        trainer = ODAMTrainer(cfg)
        trainer.resume_or_load(resume=args.resume)
        return trainer.train()
    model = ODAMTrainer.build_model(cfg)
    CompleteCheckpointer(model, save_dir=cfg.OUTPUT_DIR).resume_or_load(cfg.MODEL.WEIGHTS, resume=args.resume)
    results = ODAMTrainer.test(cfg, model)
    verify_results(cfg, results)
    return results


if __name__ == "__main__":
    arguments = default_argument_parser().parse_args()
    launch(
        main,
        arguments.num_gpus,
        num_machines=arguments.num_machines,
        machine_rank=arguments.machine_rank,
        dist_url=arguments.dist_url,
        args=(arguments,),
    )
