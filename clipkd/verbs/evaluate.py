"""`clipkd evaluate`."""

from __future__ import annotations

import argparse
from pathlib import Path

from clipkd import datasets, recipes, students
from clipkd.options import data_options, device_of, device_options, layout_of

TEXT = "Measure a saved student on the test split."


def add_options(child: argparse.ArgumentParser) -> None:
    data_options(child)
    device_options(child)
    child.add_argument("checkpoint", type=Path, help="a .safetensors or .pt file")
    child.add_argument("--dataset-name", required=True, help="the dataset that it was trained on")
    child.add_argument("--student", default="base-32", help="the student that the file holds")
    child.add_argument("--recipe", default="corrected", help="decides how the loss is computed")


def run(options: argparse.Namespace) -> None:
    spec = datasets.get(options.dataset_name, options.dataset_source)
    student, recipe = students.get(options.student), recipes.get(options.recipe)
    from clipkd.data.dataset import open_dataset
    from clipkd.training.checkpoint import evaluate_file

    device = device_of(options)
    dataset = open_dataset(spec, layout_of(options).dataset(spec))
    score = evaluate_file(options.checkpoint, dataset, student, recipe, device)
    print(f"top-1 {score['top1']:.4f}  top-5 {score['top5']:.4f}  loss {score['loss']:.4f}  ({spec.title}, test split)")
