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


class Small(Student):
    """A student on a device whose memory is too small for more than four images at once."""

    def forward(self, inputs):
        if len(inputs) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return super().forward(inputs)


def test_images_that_do_not_fit_the_memory_at_once_are_taken_in_parts(capfd):
    generator = torch.Generator().manual_seed(0)
    batches = [(torch.randn(n, 6, generator=generator), torch.arange(n) % 8) for n in (13, 13, 3)]
    student = Small()
    whole = Student()
    whole.load_state_dict(student.state_dict())
    recipe = recipes.get("corrected")
    found, expected = evaluate_each(student, batches, recipe), evaluate_each(whole, batches, recipe)
    assert found[1].tolist() == expected[1].tolist()
    assert found[0].loss == pytest.approx(expected[0].loss, rel=1e-6)
    said = capfd.readouterr().err
    assert said.count("13 images at once are too many for the memory of cpu; it goes on with 7") == 1


def test_one_image_that_does_not_fit_is_an_error():
    class TooLarge(Student):
        def forward(self, inputs):
            raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        evaluate_each(TooLarge(), [(torch.zeros(3, 6), torch.zeros(3, dtype=torch.int64))], recipes.get("corrected"))
