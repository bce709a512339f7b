"""What tests/training/test_ranks.py starts with torchrun: one rank of several."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch

from clipkd.plugins import methods, recipes, students
from clipkd.plugins.students._vit import Outputs, build_student
from clipkd.runs.evaluation import evaluate_each
from clipkd.runs.ranks import Ranks, join, leave

BATCH, CLASSES, WIDTH = 7, 10, 16
SHAPES = {"prototypes": (CLASSES, WIDTH), "embeddings": (BATCH, WIDTH), "scores": (BATCH, CLASSES)}


def gradients(train_type: str, recipe_name: str, ranks: Ranks, is_gathered: bool = True) -> dict[str, torch.Tensor]:
    """Return each parameter's gradient after one batch, float64, without dropout."""
    recipe, method = recipes.get(recipe_name), methods.get(train_type)
    torch.manual_seed(0)
    student = build_student(students.get("tiny-32"), CLASSES, WIDTH, recipe).double().eval()
    images, labels = torch.randn(BATCH, 3, 32, 32).double(), torch.randint(0, CLASSES, (BATCH,))
    signal = torch.randn(SHAPES[method.signal]).double()
    here = ranks.shard(BATCH)
    part = student(images[here])
    if is_gathered:
        outputs = Outputs(ranks.gather(part.embedding, BATCH), ranks.gather(part.logits, BATCH))
    else:  # each rank for itself, as plain data-parallel training would have it
        outputs, labels = part, labels[here]
        signal = signal if method.signal == "prototypes" else signal[here]
    method.loss(student, outputs, labels, signal, recipe)["loss"].backward()
    ranks.average_gradients(student.parameters())
    return {name: parameter.grad for name, parameter in student.named_parameters() if parameter.grad is not None}


def correct(ranks: Ranks) -> np.ndarray:
    """Return which of 29 images, in batches of 4, an untrained student classifies correctly."""
    torch.manual_seed(0)
    recipe = recipes.get("corrected")
    student = build_student(students.get("tiny-32"), CLASSES, None, recipe)
    batches = [(torch.randn(4, 3, 32, 32), torch.randint(0, 3, (4,))) for _ in range(7)]
    last = torch.randn(1, 3, 32, 32)
    return evaluate_each(student, [*batches, (last, student.eval()(last).logits.argmax(dim=1))], recipe, ranks)[1]


if __name__ == "__main__":
    torch.set_num_threads(1)
    ranks = join(torch.device("cpu"))
    found = {
        (train_type, recipe, is_gathered): gradients(train_type, recipe, ranks, is_gathered)
        for train_type in ("vanilla", "teacher-KD", "embed-KD")
        for recipe in ("reference", "corrected")
        for is_gathered in (True, False)
    }
    np.save(Path(sys.argv[1]) / f"{ranks.rank}.npy", correct(ranks))
    torch.save({"/".join(map(str, key)): value for key, value in found.items()}, Path(sys.argv[1]) / f"{ranks.rank}.pt")
    leave()
