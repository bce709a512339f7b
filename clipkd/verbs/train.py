"""`clipkd train`: takes the flags of the paper's released code."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import get_args

from clipkd.cells import TeacherSource
from clipkd.options import (
    cell_of,
    data_options,
    device_of,
    device_options,
    form_options,
    layout_of,
    positive,
    rate,
    seed,
    store_options,
)

TEXT = "Train a student; what it needs of the teacher is taken from the store or made first."


def add_options(child: argparse.ArgumentParser) -> None:
    data_options(child)
    store_options(child)
    form_options(child)
    device_options(child)
    # The first three, with --dataset-name and --teacher-model, are the released code's.
    child.add_argument("--train-type", required=True, help="embed-KD, teacher-KD, vanilla, supervised or a control")
    child.add_argument(
        "--log-folder", type=Path, help="the run's folder (default: results/runs/<recipe>/<dataset>/...)"
    )
    child.add_argument(
        "--ckpt-save-name",
        type=Path,
        help="student file, .pt or .safetensors; a bare name lies in the log folder (default: student.safetensors)",
    )
    child.add_argument("--seed", type=seed, default=0, help="seed of weights, order, flips and dropout")
    child.add_argument(
        "--teacher-source",
        choices=get_args(TeacherSource),
        default="cached",
        help="stored signal; the teacher in every step; the teacher once per view, in training; stored random views",
    )
    child.add_argument("--epochs", type=positive, default=200)
    child.add_argument("--batch-size", type=positive, default=64)
    child.add_argument("--learning-rate", type=rate, default=1e-4)
    child.add_argument("--weight-decay", type=rate, default=0.1)
    child.add_argument(
        "--embed-batch-size",
        type=positive,
        default=64,
        help="images per teacher pass, where embeddings have to be made",
    )


def run(options: argparse.Namespace) -> None:
    cell = cell_of(options, options.train_type)
    from clipkd import stages
    from clipkd.runs import RunFolder
    from clipkd.training.job import Hyperparameters, open_job
    from clipkd.training.loop import train
    from clipkd.training.ranks import join, leave

    folder = options.log_folder or Path("results/runs") / cell.folder
    name = options.ckpt_save_name
    checkpoint = folder / name if name is not None and name.parent == Path() else name
    run_folder = RunFolder(folder, checkpoint)
    device, layout = device_of(options), layout_of(options)
    ranks = join(device)
    try:
        if ranks.is_first:
            stages.for_training(cell, layout, device, options.embed_batch_size)
        ranks.wait()
        numbers = Hyperparameters(options.epochs, options.batch_size, options.learning_rate, options.weight_decay)
        train(open_job(cell, numbers, layout, device, ranks.count), run_folder, ranks)
    finally:
        leave()
    if ranks.is_first:
        print(folder)
