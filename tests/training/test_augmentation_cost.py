"""What augmentation costs beside a step of a student."""

from __future__ import annotations

import statistics
import time

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from clipkd.data.augmentation import Augmentation
from clipkd.data.pixels import normalised, unit
from clipkd.data.resampling import resized
from clipkd.plugins import recipes, students
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
    full, sizes = Augmentation("full", CLASSES, (120, 120, 120)), np.full((BATCH, 2), SIDE)
    student = build_student(students.get("base-32"), CLASSES, None, recipes.get("modern-full")).train()
    optimiser = adamw(student, Hyperparameters(), recipes.get("modern-full"))
    augmenting, stepping = [], []
    for number in range(8):
        rows = np.random.default_rng(number).permutation(1000)[:BATCH]
        begin = time.process_time()
        images = resized(pixels, rows * SIDE * SIDE * 3, sizes, SIDE, full.boxes(0, rows, sizes))
        inputs = normalised(unit(full.view(images, 0, rows)), (0.5,) * 3, (0.5,) * 3)
        inputs, targets = full.for_student(inputs, torch.from_numpy(rows % CLASSES), 0, number, rows)
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
