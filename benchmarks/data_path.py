"""The data path of ImageNet-sized images: an epoch's random crops, against a loader of image files with two workers.

No network trains here: each contender hands out the batches of an epoch as a student takes them, normalised, on the
device. Images are made on the spot: JPEG files of ImageNet's usual 500 x 375 pixels.
"""

from __future__ import annotations

import argparse
import os
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.material import Material
from benchmarks.peer import WORKERS
from benchmarks.rounds import Contender, interleaved
from clipkd.data.residency import FRACTION
from clipkd.embeddings import prepare
from clipkd.plugins import students
from clipkd.plugins.datasets import IMAGENET_MEAN, IMAGENET_STD
from clipkd.runs.job import open_batches, open_job, open_teacher_targets
from clipkd.spec.cells import Cell
from clipkd.spec.layout import Layout
from clipkd.spec.settings import Hyperparameters

NAME = "imagenet-shaped"
SIDES = (500, 375)
CLASSES, TEST_IMAGES = 2, 8
REPEATS = 25
"""How often an image comes up in an epoch of clipkd, so that it takes about as long as the peer's."""


def save_images(folder: Path, train: int) -> Path:
    """Save JPEG files in `train/` and `val/`, half of them upright; return the folder."""
    generator = np.random.default_rng(0)
    for split, count in (("train", train), ("val", TEST_IMAGES)):
        for number in range(count):
            path = folder / split / str(number % CLASSES) / f"{number}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            coarse = Image.fromarray(generator.integers(0, 256, (30, 40, 3), dtype=np.uint8))
            sides = SIDES if number % 2 else SIDES[::-1]
            coarse.resize(sides, Image.Resampling.BICUBIC).save(path, quality=90)
    return folder


def peer(folder: Path, size: int, batch_size: int, device: torch.device) -> Contender:
    """Return the released protocol's epoch: files through torchvision's transforms and a `DataLoader`."""
    from clipkd.core.vision import torchvision

    transforms = torchvision.transforms
    transform = transforms.Compose(
        [
            transforms.Resize(size),
            transforms.RandomResizedCrop(size),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD),
        ]
    )
    images = torchvision.datasets.ImageFolder(str(folder / "train"), transform)

    def epoch() -> None:
        for batch, _ in torch.utils.data.DataLoader(images, batch_size, shuffle=True, num_workers=WORKERS):
            batch.to(device)

    return epoch


def ours(cell: Cell, layout: Layout, batch_size: int, device: torch.device, fraction: str) -> Contender:
    """Return clipkd's epoch, its thumbnails in memory or, where `fraction` is 0, read from the disk."""
    before = os.environ.get(FRACTION)
    os.environ[FRACTION] = fraction
    job = open_job(cell, Hyperparameters(batch_size=batch_size, precision="fp32"), layout, device)
    batches = open_batches(job, open_teacher_targets(job))
    os.environ.pop(FRACTION)
    if before is not None:
        os.environ[FRACTION] = before
    once = job.images
    shown = replace(once, labelled=once.labelled.repeat(REPEATS), count=once.count * REPEATS)
    generator = torch.Generator().manual_seed(0)

    def epoch() -> None:
        for _ in batches.epoch(batch_size, False, generator, shown=shown):
            pass

    return epoch


def measure(material: Material, options: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Return images per second of each contender's epoch, wall and CPU, and how many times the peer's."""
    size = students.get(options.student).image_size
    images = options.steps * options.batch_size
    folder = save_images(material.folder / NAME, images)
    layout = Layout(material.folder / "data")
    cell = Cell("reference", NAME, options.student, "none", "supervised", 0, source=str(folder))
    prepare.for_training(cell, layout, device)
    contenders = {
        "clipkd, in memory": ours(cell, layout, options.batch_size, device, "1"),
        "clipkd, from the disk": ours(cell, layout, options.batch_size, device, "0"),
        f"peer, {WORKERS} workers": peer(folder, size, options.batch_size, device),
    }
    times = interleaved(contenders, options.rounds)
    result: dict[str, Any] = {"side": size, "image": list(SIDES)}
    for name, taken in times.items():
        count = images if name.startswith("peer") else images * REPEATS
        result[name] = {
            "images_per_s": round(count / statistics.median(taken.wall)),
            "images_per_cpu_s": round(count / statistics.median(taken.cpu)),
            "images_per_cpu_s_lowest": round(count / max(taken.cpu)),
            "images_per_cpu_s_highest": round(count / min(taken.cpu)),
            "rounds": len(taken.cpu),
        }
    slow = result[f"peer, {WORKERS} workers"]
    for name in contenders:
        for clock in ("s", "cpu_s"):
            speed = f"images_per_{clock}"
            result[name][f"{speed}_ratio"] = round(result[name][speed] / slow[speed], 1)
    return result
