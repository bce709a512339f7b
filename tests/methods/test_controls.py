"""Controls: what each takes away from its method, and what it keeps."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from clipkd.embeddings import prepare
from clipkd.plugins import methods
from clipkd.runs.job import open_batches, open_job, open_teacher_targets, training_rows
from clipkd.spec.cells import Cell
from clipkd.spec.layout import Layout
from clipkd.spec.settings import Hyperparameters
from clipkd.spec.views import Sample

CPU = torch.device("cpu")
CLASSES, WIDTH = 6, 16
CONTROLS = ["teacher-KD-permuted", "teacher-KD-within-class", "vanilla-permuted", "vanilla-within-class"]


@pytest.fixture
def prototypes() -> torch.Tensor:
    """Class means of several lengths that are nearly parallel, as those of a real teacher are [C, D]."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(CLASSES, WIDTH, generator=generator, dtype=torch.float64)
    return normalize(5 + noise, dim=1) * torch.arange(1, CLASSES + 1)[:, None]


def order_of(gram: torch.Tensor, other: torch.Tensor) -> list[int]:
    """Return which row and column of `gram` each of `other` is; told by the lengths, which all differ."""
    order = [int((gram.diagonal() - value).abs().argmin()) for value in other.diagonal()]
    torch.testing.assert_close(other, gram[order][:, order])
    return order


@pytest.mark.parametrize("name", ["embed-KD-permuted", "embed-KD-random"])
def test_a_control_keeps_the_angles_and_lengths_and_gives_none_its_own(name, prototypes):
    control = methods.get(name)
    for seed in range(10):
        made = control.class_targets(prototypes, seed=seed)
        order = order_of(prototypes @ prototypes.T, made @ made.T)
        assert sorted(order) == list(range(CLASSES))
        assert all(number != place for place, number in enumerate(order)), "a class kept its own place"
        assert torch.equal(made, control.class_targets(prototypes, seed=seed))
    assert not torch.equal(made, control.class_targets(prototypes, seed=0))
    # The control of the check: directions drawn one by one have the lengths, but not the angles.
    drawn = normalize(torch.randn(CLASSES, WIDTH, dtype=torch.float64), dim=1) * prototypes.norm(dim=1, keepdim=True)
    with pytest.raises(AssertionError):
        order_of(prototypes @ prototypes.T, drawn @ drawn.T)


def test_random_prototypes_are_turned_and_permuted_ones_are_not(prototypes):
    rows = {tuple(row) for row in prototypes.tolist()}
    assert {tuple(row) for row in methods.get("embed-KD-permuted").class_targets(prototypes, seed=3).tolist()} == rows
    turned = methods.get("embed-KD-random").class_targets(prototypes, seed=3)
    cosines = normalize(turned, dim=1) @ normalize(prototypes, dim=1).T
    assert cosines.abs().max() < 0.9


def test_several_vectors_of_a_class_stay_together():
    prototypes = torch.randn(CLASSES, 3, WIDTH, dtype=torch.float64)
    flat = prototypes.flatten(0, 1)
    for name in ("embed-KD-permuted", "embed-KD-random"):
        made = methods.get(name).class_targets(prototypes, seed=1).flatten(0, 1)
        order = order_of(flat @ flat.T, made @ made.T)
        assert [number // 3 for number in order] == [number // 3 for number in order[::3] for _ in range(3)]


def test_every_method_with_a_teacher_has_controls_of_its_own():
    for name in ("teacher-KD", "feature-KD", "feature-KD-mse", "RKD", "sigmoid-KD", "vanilla", "DKD", "DIST"):
        within, permuted = methods.get(f"{name}-within-class"), methods.get(f"{name}-permuted")
        assert (within.decides, permuted.decides) == (True, False)
        assert type(within) is type(permuted) is type(methods.get(name))
        assert {within.control_of, permuted.control_of} == {name}
    for name in ("embed-KD", "embed-KD-nd"):
        assert methods.get(f"{name}-permuted").decides
        assert f"{name}-within-class" not in methods.names()
    assert not [name for name in methods.names() if name.startswith("supervised-") or name.count("permuted") > 1]


def test_a_control_permutes_what_its_method_prepares(prototypes):
    class Doubled(methods.Method):
        def prepare(self, prototypes, seed):
            return 2 * prototypes

    (control,) = methods.controls(Doubled("doubled", "Doubled", "prototypes"))
    found = control.class_targets(prototypes, seed=0)
    assert torch.equal(found, 2 * methods.get("embed-KD-permuted").class_targets(prototypes, seed=0))


@pytest.mark.parametrize("name", [name for name, spec in methods.known().items() if spec.signal == "prototypes"])
def test_prototypes_stay_on_the_device_where_they_are(name):
    """A tensor without storage stands for one of a GPU: mixed with one of the CPU it fails."""
    on_device = torch.empty(CLASSES, WIDTH, device="meta")
    assert methods.get(name).class_targets(on_device, seed=0).device.type == "meta"


def test_onehot_prototypes_are_the_axes(prototypes):
    onehot = methods.get("embed-KD-onehot").class_targets(prototypes, seed=0)
    assert onehot.shape == (CLASSES, WIDTH)
    torch.testing.assert_close(onehot @ onehot.T, torch.eye(CLASSES, dtype=torch.float64))
    assert methods.get("embed-KD-onehot").class_targets(prototypes[:, :4], seed=0).shape == (CLASSES, CLASSES)
    assert methods.get("embed-KD").class_targets(prototypes, seed=0) is prototypes


@pytest.mark.parametrize("name", CONTROLS)
def test_each_image_is_taught_another_ones_targets(name):
    random = np.random.default_rng(5)
    labels = random.integers(0, 4, 60)
    labels[7] = 9  # a class of one image
    rows = np.sort(random.permutation(60)[:50])
    rows = np.union1d(rows, [7])
    control = methods.get(name)
    found = control.target_rows(labels, rows, 3)
    chosen = dict(zip(rows.tolist(), found[rows].tolist(), strict=True))
    assert sorted(chosen.values()) == rows.tolist(), "each image's targets are used once, and none of held-out images"
    alone = [7] if control.target_of == "another image of the class" else []
    assert [row for row, other in chosen.items() if row == other] == alone
    for members in [rows] if not alone else [rows[labels[rows] == label] for label in np.unique(labels)]:
        # One cycle, followed image by image, goes through all that may be exchanged.
        row, seen = int(members[0]), set()
        while row not in seen:
            seen.add(row)
            row = chosen[row]
        assert seen == set(members.tolist())
    assert np.array_equal(found, control.target_rows(labels, rows, 3))
    assert not np.array_equal(found, control.target_rows(labels, rows, 4))
    assert methods.get(control.control_of).target_rows(labels, rows, 3) is None


@pytest.mark.parametrize("name", CONTROLS)
def test_the_targets_are_those_that_are_stored_of_the_other_image(name, digits_folder, vit_folder):
    layout = Layout(digits_folder, dtype="float32")
    cell = Cell("corrected", "digits", "tiny-32", str(vit_folder), name, 3)
    prepare.for_training(cell, layout, CPU, 256)
    job = open_job(cell, Hyperparameters(), layout, CPU)
    targets = open_teacher_targets(job)
    batch = next(iter(open_batches(job, targets).epoch(32, False, torch.Generator().manual_seed(0))))
    full = layout.full_embeddings(cell)
    stored = np.load(full.folder / "train.npy")
    if cell.method.signal == "scores":
        stored = stored @ np.load(full.head()[0] / "weight.npy").T + np.load(full.head()[0] / "bias.npy")
    other = cell.method.target_rows(job.dataset.train_labels, training_rows(job), seed=3)
    for place, (row, view) in enumerate(zip(batch.rows.tolist(), batch.views.tolist(), strict=True)):
        given = targets(batch)[place].numpy()
        np.testing.assert_allclose(given, stored[other[row], view], rtol=1e-5, atol=1e-5)
        assert not np.allclose(given, stored[row, view], rtol=1e-3, atol=1e-3)


def test_classes_of_one_image_are_named(digits_folder, vit_folder, capsys, monkeypatch):
    layout = Layout(digits_folder, dtype="float32")
    cell = Cell("reference", "digits", "tiny-32", str(vit_folder), "teacher-KD-within-class", 0)
    prepare.for_training(cell, layout, CPU, 256)
    job = open_job(cell, Hyperparameters(), layout, CPU)
    open_teacher_targets(job)
    assert "own targets" not in capsys.readouterr().err
    labels = job.dataset.train_labels.copy()
    labels[labels == 8] = 7
    labels[5] = 8
    monkeypatch.setitem(vars(job.dataset), "train_labels", labels)
    vars(job).pop("images")
    vars(job).pop("labelled")
    open_teacher_targets(job)
    assert "classes of one training image keep that image's own targets: 8" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["embed-KD", "embed-KD-permuted", "embed-KD-random"])
def test_a_control_of_drawn_prototypes_is_as_wide_as_they_are(name, digits_folder, vit_folder):
    layout = Layout(digits_folder, sample=Sample("all"), form="gaussian")
    cell = Cell("corrected", "digits", "tiny-32", str(vit_folder), name, 0)
    prepare.for_training(cell, layout, CPU, 256)
    job = open_job(cell, Hyperparameters(), layout, CPU)
    targets = open_teacher_targets(job)
    batch = next(iter(open_batches(job, targets).epoch(8, False, torch.Generator().manual_seed(0))))
    drawn = torch.stack([targets(batch) for _ in range(1000)]).double()
    folder, _ = layout.prototypes(cell)
    mean, deviation = (torch.from_numpy(np.load(folder / f"{one}.npy")).double() for one in ("prototypes", "deviation"))
    prepared = cell.method.class_targets(mean, seed=0)
    order = order_of(mean @ mean.T, prepared @ prepared.T)
    assert (order == list(range(10))) == (name == "embed-KD")
    # A rotation mixes the dimensions' deviations; their squares' sum over all dimensions stays.
    wanted = deviation.square().sum(dim=1)[order]
    torch.testing.assert_close(drawn.var(dim=0).sum(dim=1), wanted, rtol=0.1, atol=0)
    torch.testing.assert_close(drawn.mean(dim=0), prepared, rtol=0, atol=0.2 * deviation.max().item())
