"""The score of a split, against counts and means that are taken image by image."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from clipkd.plugins import recipes
from clipkd.plugins.students._heads import Outputs
from clipkd.runs.evaluation import evaluate_each, images_of
from tests.training.test_finite import run_of


class Student(nn.Module):
    """A linear layer behind a dropout that would be seen."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 8)

    def forward(self, inputs):
        logits = self.layer(F.dropout(inputs, 0.5, self.training))
        return Outputs(logits=logits, embedding=inputs)


@pytest.mark.parametrize("recipe", ["reference", "corrected"])
def test_a_score_is_over_images_without_dropout_and_training_goes_on_with_it(recipe):
    generator = torch.Generator().manual_seed(0)
    inputs, labels = torch.randn(50, 6, generator=generator), torch.randint(0, 8, (50,), generator=generator)
    torch.manual_seed(0)
    student = Student().train()
    # Batches of different sizes: a mean over them is not that over the images.
    batches = zip(inputs.split([30, 13, 7]), labels.split([30, 13, 7]), strict=True)
    score, correct = evaluate_each(student, batches, recipes.get(recipe))
    assert student.training
    scores = student.layer(inputs).detach()
    order = scores.argsort(dim=1, descending=True)
    assert correct.tolist() == (order[:, 0] == labels).tolist()
    assert score.top1 == pytest.approx(correct.mean())
    assert score.top5 == pytest.approx((order[:, :5] == labels[:, None]).any(dim=1).double().mean().item())
    ends = scores.softmax(dim=1) if recipe == "reference" else scores
    each = [-(one.log_softmax(dim=0)[label]).item() for one, label in zip(ends, labels, strict=True)]
    assert score.loss == pytest.approx(sum(each) / 50, rel=1e-6)


def test_the_epoch_is_chosen_on_the_images_that_are_not_trained_on(digits_folder, tmp_path):
    run = run_of(digits_folder, tmp_path)
    rows = np.setdiff1d(np.arange(len(run.job.dataset.train_labels)), run.batches.shown.labelled)
    assert 0 < len(rows) < run.batches.count
    found, wanted = images_of(run, "validation"), run.batches.evaluation("train", rows, len(rows))
    inputs, labels = next(wanted)
    each = list(found)
    assert torch.equal(torch.cat([some for some, _ in each]), inputs)
    assert torch.equal(torch.cat([some for _, some in each]), labels)
