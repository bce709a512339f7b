"""What augmentation costs beside a step of a student."""

from __future__ import annotations

import statistics
import time

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from clipkd.data.augmentation import Augmentation
from clipkd.data.pixels import normalised
from clipkd.plugins import datasets, recipes, students
from clipkd.plugins.students._vit import build_student
from clipkd.runs.optimiser import adamw
from clipkd.spec.settings import Hyperparameters

BATCH, SIDE, CLASSES, BAR = 64, 32, 100, 0.05


@pytest.fixture
def one_thread():
    """As `make` runs it: a process per core is faster than one process with several threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.long
@pytest.mark.usefixtures("one_thread")
def test_full_augmentation_costs_less_than_a_twentieth_of_a_base_step():
    """CPU time: machines are shared. Over what any recipe does: pick the images, mirror and normalise them."""
    pixels = torch.randint(256, (1000 * SIDE * SIDE * 3,), dtype=torch.uint8)
    sizes, whole = np.full((1000, 2), SIDE), np.arange(1000)
    spec = datasets.get("cifar100")
    full = Augmentation("full", spec, SIDE, sizes, whole)
    student = build_student(students.get("base-32"), CLASSES, None, recipes.get("modern-full")).train()
    optimiser = adamw(student, Hyperparameters(), recipes.get("modern-full"))
    augmenting, stepping = [], []
    for number in range(8):
        rows = np.random.default_rng(number).permutation(1000)[:BATCH]
        begin = time.process_time()
        drawn = full.draw(0, rows)
        inputs = normalised(full.make(drawn, pixels, drawn.rows * SIDE * SIDE * 3), spec.mean, spec.std)
        inputs = full.for_student(inputs, 0, number, rows, BATCH)
        targets = full.targets(torch.from_numpy(drawn.rows % CLASSES), drawn, CLASSES)
        middle = time.process_time()
        if number < 4:
            optimiser.zero_grad()
            cross_entropy(student(inputs).logits, targets).backward()
            optimiser.step()
            stepping.append(time.process_time() - middle)
        augmenting.append(middle - begin)
    share = statistics.median(augmenting) / statistics.median(stepping)
    print(f"{1000 * statistics.median(augmenting):.1f} ms of {1000 * statistics.median(stepping):.0f} ms: {share:.1%}")
    assert share < BAR
