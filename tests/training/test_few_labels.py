"""Few labels: which images are labelled, that no other label is in reach of a run, and what the losses make of it."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

import clipkd
from clipkd.core.errors import InputError
from clipkd.core.typed_json import read_model
from clipkd.core.unlabelled import UNLABELLED
from clipkd.data.augmentation import mixed_targets
from clipkd.data.batches import order
from clipkd.data.dataset import open_dataset
from clipkd.data.labelled import divided, evenly, images_shown, labelled_rows, training_images
from clipkd.embeddings import head, prepare, prototypes
from clipkd.plugins import methods, recipes
from clipkd.plugins.methods import _losses as losses
from clipkd.plugins.students._vit import build_student
from clipkd.runs.finished import read_history
from clipkd.runs.folder import RunFolder
from clipkd.runs.job import open_batches, open_job, open_teacher_targets
from clipkd.runs.record import Metrics, Score
from clipkd.runs.training import train, train_together
from clipkd.spec.cells import Cell
from clipkd.spec.layout import Layout
from clipkd.spec.refusals import checked
from clipkd.spec.settings import Hyperparameters

CPU = torch.device("cpu")
LABELS = 60
NUMBERS = Hyperparameters(epochs=1, batch_size=128, learning_rate=1e-3)


def cell_of(train_type: str, teacher, labels=LABELS, seed: int = 0, recipe: str = "corrected") -> Cell:
    name = str(teacher) if methods.get(train_type).signal != "nothing" else "none"
    return Cell(recipe, "digits", "tiny-32", name, train_type, seed, epochs=1, labels=labels)


@pytest.fixture
def dataset(digits_folder):
    return open_job(cell_of("supervised", None), NUMBERS, Layout(digits_folder), CPU).dataset


def test_smaller_choices_are_part_of_larger_ones_and_even_over_the_classes():
    labels = np.random.default_rng(0).choice(7, size=900, p=[0.4, 0.3, 0.1, 0.1, 0.05, 0.04, 0.01])
    rows, there = np.flatnonzero(np.arange(900) % 3 != 0), np.zeros(0, dtype=int)
    counts = np.bincount(labels[rows])
    for number in (7, 20, 100, 300, 599, 600):
        found = evenly(labels, rows, number, seed=5)
        assert len(found) == len(set(found)) == number
        assert set(there) <= set(found) <= set(rows)
        there, taken = found, np.bincount(labels[found], minlength=7)
        # Even, but where a class has no more.
        short = taken == counts
        assert (taken[~short].max(initial=0) - taken[~short].min(initial=900) <= 1) or short.all()
        assert taken[short].max(initial=0) <= taken[~short].max(initial=900)
    assert set(evenly(labels, rows, 100, seed=6)) != set(evenly(labels, rows, 100, seed=5))


def test_both_parts_together_are_even_over_the_classes(dataset):
    for number in (103, 107, 153):
        chosen = np.concatenate(labelled_rows(dataset, number, 3))
        taken = np.bincount(dataset.train_labels[chosen])
        assert taken.sum() == number
        assert taken.max() - taken.min() == 1


@pytest.mark.parametrize(
    ("labelled", "others", "share", "shown"),
    [
        (400, 100, 0.8, 500),
        (900, 100, 0.9, 1000),
        (401, 100, 0.8, 501),
        (399, 100, 0.8, 898),
        (100, 700, 1 / 8, 800),
        (100, 701, 1 / 8, 901),
    ],
)
def test_labelled_images_are_repeated_only_where_their_share_is_too_small(labelled, others, share, shown):
    assert images_shown(labelled, others, share) == shown


def test_a_fifth_of_the_labels_is_for_validation_and_none_beside_them_is_seen(dataset):
    small, large = labelled_rows(dataset, 60, 3), labelled_rows(dataset, 200, 3)
    assert [len(part) for part in (*small, *large)] == [48, 12, 160, 40]
    for few, more, split in zip(small, large, (dataset.training, dataset.validation), strict=True):
        assert set(few) < set(more) < set(split)
    shown = training_images(dataset, dataset.training, small.training, True, 1 / 8)
    seen = np.flatnonzero(shown.labels != UNLABELLED)
    assert seen.tolist() == small.training.tolist()
    assert (shown.labels[seen] == dataset.train_labels[seen]).all()


@pytest.mark.parametrize(("count", "words"), [(100_000, "1,442 labels at most"), (11, "12 or more")])
def test_impossible_numbers_of_labels_are_refused(count, words, dataset):
    with pytest.raises(InputError, match=words):
        labelled_rows(dataset, count)


def test_without_a_labelled_image_to_validate_on_few_labels_are_refused():
    with pytest.raises(InputError, match="no labelled image of Photos is held out for validation"):
        divided(6, 20, 0, 2, "Photos")


@pytest.mark.parametrize("share", [0, 1 / 8, 0.5])
@pytest.mark.parametrize("sees_unlabelled", [True, False])
def test_every_train_type_takes_the_same_steps_and_every_batch_has_its_share_of_labels(sees_unlabelled, share, dataset):
    known = labelled_rows(dataset, LABELS, 0).training
    shown = training_images(dataset, dataset.training, known, sees_unlabelled, share)
    rows, (passes, repeats) = order(shown, torch.Generator().manual_seed(1))
    rows, passes = rows.numpy(), passes.numpy()
    assert (passes < repeats.numpy()).all()
    others = len(dataset.training) - len(known)
    assert len(rows) == shown.count == training_images(dataset, dataset.training, known, True, share).count
    times = np.bincount(rows, minlength=len(dataset.train_labels))
    assert times[known].max() - times[known].min() <= 1
    assert set(times[np.setdiff1d(dataset.training, known)]) == {int(sees_unlabelled)}
    assert len(set(zip(rows, passes, strict=True))) == len(rows)
    if sees_unlabelled:
        in_batch = [np.isin(rows[begin : begin + 64], known).sum() for begin in range(0, len(rows) - 63, 64)]
        assert max(in_batch) - min(in_batch) <= 1
        assert min(in_batch) >= 64 * share
        assert max(in_batch) <= max(64 * share + 1 + 64 * len(known) / others, 1 + 64 * len(known) / shown.count)


def scrambled(job) -> None:
    """Put other labels on every training image whose label the run must not see."""
    labels = job.dataset.train_labels.copy()
    hidden = np.setdiff1d(np.arange(len(labels)), np.concatenate(job.labelled))
    labels[hidden] = (labels[hidden] + np.random.default_rng(1).integers(1, 10, len(hidden))) % 10
    job.dataset.__dict__["train_labels"] = labels


def student_of(cell, layout, folder, monkeypatch, change=None) -> bytes:
    """Return the bytes of a student that is trained after `change` was done to its job's labels.

    Which images are labelled stays as it was: an even choice looks at the class of each.
    """
    job = open_job(cell, NUMBERS, layout, CPU)
    known = job.labelled
    if change:
        change(job)
    for module in (head, prototypes):
        monkeypatch.setattr(module, "labelled_rows", lambda *given: known)
    monkeypatch.setattr(prepare, "dataset", lambda *given, **more: job.dataset)
    data = replace(layout, data=layout.data)
    for artifact in (layout.head(cell)[0], layout.prototypes(cell)[0]) if cell.teacher != "none" else ():
        if artifact.exists():
            artifact.rename(folder.with_name(f"{folder.name}-{artifact.name}"))
    prepare.for_training(cell, data, CPU, 256)
    train(job, RunFolder(folder))
    return (folder / "student.safetensors").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize(
    "train_type",
    ["vanilla", "embed-KD", *(pytest.param(other, marks=pytest.mark.long) for other in ("supervised", "teacher-KD"))],
)
def test_labels_that_a_run_must_not_see_change_not_one_bit(
    train_type, digits_folder, vit_folder, tmp_path, monkeypatch
):
    layout, cell = Layout(digits_folder, dtype="float32"), cell_of(train_type, vit_folder)
    right = student_of(cell, layout, tmp_path / "right", monkeypatch)
    assert student_of(cell, layout, tmp_path / "hidden", monkeypatch, scrambled) == right

    def one_label(job) -> None:
        job.dataset.train_labels[job.labelled.training[-1]] = 9 - job.dataset.train_labels[job.labelled.training[-1]]

    assert student_of(cell, layout, tmp_path / "seen", monkeypatch, one_label) != right


@pytest.mark.long
def test_a_second_round_learns_from_the_first_and_from_no_hidden_label(
    digits_folder, vit_folder, tmp_path, monkeypatch
):
    """The student of the first round teaches all images, by its own classifier."""
    layout = Layout(digits_folder, dtype="float32")
    for name, change in (("seen", None), ("other", lambda job: job.dataset.train_labels.__setitem__(
        job.labelled.training[-1], 9 - job.dataset.train_labels[job.labelled.training[-1]]))):  # fmt: skip
        student_of(cell_of("vanilla", vit_folder), layout, tmp_path / f"first-{name}", monkeypatch, change)
    second = cell_of("vanilla", tmp_path / "first-seen")
    right = student_of(second, layout, tmp_path / "right", monkeypatch)
    assert student_of(second, layout, tmp_path / "hidden", monkeypatch, scrambled) == right
    other = cell_of("vanilla", tmp_path / "first-other")
    assert student_of(other, layout, tmp_path / "taught-otherwise", monkeypatch) != right


def test_the_teachers_accuracy_is_that_on_labelled_images_though_batches_have_none(digits_folder, vit_folder, tmp_path):
    cell, layout = cell_of("vanilla", vit_folder, 20, recipe="corrected?labelled_share=0"), Layout(digits_folder)
    numbers = NUMBERS.model_copy(update={"batch_size": 32})
    prepare.for_training(cell, layout, CPU, 256)
    job = open_job(cell, numbers, layout, CPU)
    targets = open_teacher_targets(job)
    train(job, RunFolder(tmp_path))
    right, empty = [], 0
    for batch in open_batches(job, targets).epoch(32, True, torch.Generator().manual_seed(0)):
        known = batch.labels >= 0
        right += (targets(batch).argmax(dim=1) == batch.labels)[known].tolist()
        empty += not known.any()
    assert (len(right), empty > 10) == (16, True)
    (row,) = read_history(tmp_path / "history.csv", 1)
    assert row.train["teacher_top1"] == pytest.approx(np.mean(right), abs=1e-6)


PER_IMAGE = [name for name in methods.names() if methods.get(name).sees_unlabelled and "-within" not in name]


@pytest.mark.parametrize("recipe", ["reference", "corrected", "modern"])
@pytest.mark.parametrize("name", [name for name in PER_IMAGE if not methods.get(name).control_of])
def test_the_loss_is_the_labelled_images_cross_entropy_and_the_teachers_terms_of_all(name, recipe):
    method, switches = methods.get(name), recipes.get(recipe)
    torch.manual_seed(0)
    student = build_student(cell_of("supervised", None).student_spec, 10, 6, switches, method.learns_bias).eval()
    scores = method.signal == "scores"
    signal, logits, embedding = torch.randn(8, 10 if scores else 6), torch.randn(8, 10), torch.randn(8, 64)
    outputs = SimpleNamespace(logits=logits.requires_grad_(), embedding=embedding.requires_grad_())
    all_labels = torch.tensor([3, 1, 3, 0, 9, 1, 2, 3])
    partly = all_labels.clone()
    partly[[1, 2, 4, 5, 7]] = UNLABELLED

    def parts(labels):
        return method.loss(student, outputs, labels, signal, switches)

    found, full, none = parts(partly), parts(all_labels), parts(torch.full((8,), UNLABELLED))
    p = logits.detach().double().softmax(dim=1)
    p = p.softmax(dim=1) if switches.student_output == "probabilities" else p
    assert found["classification"].item() == pytest.approx(-np.mean([np.log(p[i, partly[i]]) for i in (0, 3, 6)]))
    terms = {
        part: value
        for part, value in found.items()
        if part not in ("loss", "classification", "teacher_top1", "labelled")
    }
    weighed = sum(switches.weight(part) * value.item() for part, value in terms.items())
    assert found["loss"].item() == pytest.approx(found["classification"].item() + weighed, rel=1e-5)
    lighter = method.loss(student, outputs, partly, signal, recipes.get(f"{recipe}?classification_weight=0.25"))
    assert lighter["loss"].item() == pytest.approx(0.25 * found["classification"].item() + weighed, rel=1e-5)
    # Nothing in them depends on labels, but in the recipe that makes images of one class each other's positives.
    needs_classes = switches.same_class_targets and name in {"teacher-KD", "sigmoid-KD"}
    for part, value in terms.items():
        assert (value.item() == full[part].item()) == (not needs_classes)
    # No label in the batch: finite, and the gradient is that of the teacher's terms.
    assert none["classification"].item() == 0
    assert np.isfinite(none["loss"].item())
    (logit_gradient,) = torch.autograd.grad(none["loss"], [outputs.logits], allow_unused=True)
    assert (logit_gradient is None or not logit_gradient.any()) == (not scores)
    assert logit_gradient is None or torch.isfinite(logit_gradient).all()


def test_mixed_targets_of_unlabelled_images_leave_the_mean_of_the_known_ones():
    labels, share = torch.tensor([2, UNLABELLED, 0, UNLABELLED]), 0.7
    logits = torch.randn(4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    targets = mixed_targets(labels, labels.flip(0), 3, share).double()
    smooth = {label: 0.9 * np.eye(3)[label] + 0.1 / 3 for label in (2, 0)}
    # Image i is mixed with image 3 - i: its own label counts `share`, the other's the rest.
    known = [(0, share, 2), (3, 1 - share, 2), (1, 1 - share, 0), (2, share, 0)]
    log_p = logits.log_softmax(dim=1).numpy()
    wanted = sum(-weight * smooth[label] @ log_p[i] for i, weight, label in known) / sum(w for _, w, _ in known)
    assert losses.cross_entropy(logits, targets).item() == pytest.approx(wanted, rel=1e-6)
    assert losses.class_numbers(targets).tolist() == [2, UNLABELLED, 0, UNLABELLED]


def test_images_shown_again_in_an_epoch_are_augmented_anew(digits_folder):
    job = open_job(cell_of("supervised", None, recipe="modern-randaugment"), NUMBERS, Layout(digits_folder), CPU)
    (batch,) = open_batches(job, open_teacher_targets(job)).epoch(2000, False, torch.Generator().manual_seed(0))
    again = batch.inputs[batch.rows == batch.rows[0]]
    assert len(again) > 5
    # RandAugment leaves some as they are.
    assert len({image.numpy().tobytes() for image in again}) > 0.8 * len(again)


def test_runs_side_by_side_see_their_own_labels(digits_folder, tmp_path):
    def jobs(*seeds):
        opened = [
            open_job(cell_of("supervised", None, seed=seed), NUMBERS, Layout(digits_folder), CPU) for seed in seeds
        ]
        return [(job, RunFolder(tmp_path / f"{len(seeds)}-{job.cell.seed}")) for job in opened]

    together, alone = train_together(jobs(0, 1)), [train(*jobs(seed)[0]) for seed in (0, 1)]
    for one, other in zip(together, alone, strict=True):
        assert one.last.test.loss == pytest.approx(other.last.test.loss, rel=1e-3)
    assert together[0].last.test.loss != pytest.approx(together[1].last.test.loss, rel=1e-2)


def test_a_control_within_classes_is_refused(vit_folder):
    with pytest.raises(InputError, match="use 'vanilla-permuted'"):
        checked(cell_of("vanilla-within-class", vit_folder))
    assert checked(cell_of("vanilla-permuted", vit_folder)).labels == LABELS


@pytest.mark.parametrize("train_type", ["feature-KD", "embed-KD"])
def test_a_classifier_that_nothing_would_train_is_refused(train_type, vit_folder):
    recipe = "corrected?classification_weight=0"
    with pytest.raises(InputError, match="leave the student's classifier untrained"):
        checked(cell_of(train_type, vit_folder, recipe=recipe))
    assert checked(cell_of("vanilla", vit_folder, recipe=recipe))


def test_teachers_are_run_once_whatever_the_labels(vit_folder, digits_folder):
    layout = Layout(digits_folder)
    for train_type in ("vanilla", "teacher-KD", "embed-KD"):
        stores = {
            store.folder
            for labels in (60, 200)
            for seed in (0, 1)
            for store in layout.stores(cell_of(train_type, vit_folder, labels, seed)).values()
        }
        assert len(stores) == 1
        assert stores == {layout.full_embeddings(cell_of("vanilla", vit_folder, "all")).folder}


@pytest.mark.parametrize(("labels", "kept", "by"), [(60, 2, "last"), (500, 1, "validation")])
def test_fewer_than_100_validation_images_choose_no_epoch(labels, kept, by, digits_folder, tmp_path, monkeypatch):
    """The first of two epochs is the better one on validation images; 12 and 100 are held out."""
    measured = {1: 0.9, 2: 0.1}
    monkeypatch.setattr(
        "clipkd.runs.epochs.score", lambda run, part: Score(top1=measured[run.epoch.number], top5=1.0, loss=1.0)
    )
    cell = replace(cell_of("supervised", None, labels), epochs=2)
    train(open_job(cell, NUMBERS.model_copy(update={"epochs": 2}), Layout(digits_folder), CPU), RunFolder(tmp_path))
    found = read_model(tmp_path / "metrics.json", Metrics)
    assert (found.selected.epoch, found.selected.by, found.validation_images) == (kept, by, labels // 5)
    assert (found.selected.test == found.last.test) == (kept == 2)
    assert found.identity.get("kept_epoch", {}).get("by") == ("last" if kept == 2 else None)


def no_labels(train_type: str, teacher, recipe: str = "corrected") -> Cell:
    return cell_of(train_type, teacher, labels="none", recipe=recipe)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("train_type", "recipe"),
    [("feature-KD", "corrected"), pytest.param("RKD", "modern-full", marks=pytest.mark.long)],
)
def test_without_labels_a_student_learns_from_embeddings_alone_and_claims_no_accuracy(
    train_type, recipe, digits_folder, vit_folder, tmp_path, monkeypatch
):
    layout = Layout(digits_folder, dtype="float32", views=2)
    cell = checked(no_labels(train_type, vit_folder, recipe))
    right = student_of(cell, layout, tmp_path / "right", monkeypatch)
    assert student_of(cell, layout, tmp_path / "hidden", monkeypatch, scrambled) == right
    metrics = read_model(tmp_path / "right/metrics.json", Metrics)
    assert (metrics.classes, metrics.last.test, metrics.selected.test, metrics.selected.by) == (0, None, None, "none")
    assert metrics.train_images == len(open_job(cell, NUMBERS, layout, CPU).dataset.training)
    history = read_history(tmp_path / "right/history.csv", 1)
    assert (history[0].val, "classification" in history[0].train) == (None, False)
    student = clipkd.load(tmp_path / "right", "cpu")
    images = list(open_dataset(cell.dataset_spec, layout.dataset(cell.dataset_spec)).images("test")[:3])
    assert student.embed(images).shape == (3, 64)
    with pytest.raises(InputError, match="trained without labels"):
        student.predict(images)


@pytest.mark.parametrize(
    ("train_type", "recipe", "words"),
    [
        ("supervised", "corrected", "'supervised' needs classes"),
        ("vanilla", "corrected", "'vanilla' needs classes"),
        ("embed-KD", "corrected", "'embed-KD' needs classes"),
        ("feature-KD-within-class", "corrected", "needs classes"),
        ("feature-KD", "reference", "one vector for all images would be a perfect answer"),
        ("feature-KD", "corrected?same_class_targets=true", "it needs the classes"),
    ],
)
def test_what_needs_classes_is_refused_without_labels(train_type, recipe, words, vit_folder):
    with pytest.raises(InputError, match=words):
        checked(no_labels(train_type, vit_folder, recipe))
    assert checked(no_labels("feature-KD-permuted", vit_folder)).folder.endswith("/feature-KD-permuted-no-labels/seed0")


@pytest.mark.parametrize(
    ("place", "recipe"),
    [
        (".", "corrected"),
        ("train", "corrected"),
        ("unlabeled", "corrected"),
        ("train/unlabeled", "corrected"),
        ("unlabeled", "modern-full"),  # mixes images, but has no labels to mix
    ],
)
def test_a_folder_of_images_without_labels_trains_a_student(place, recipe, vit_folder, tmp_path):
    folder = tmp_path / "scraps" / place
    folder.mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 256, (9, 5, 5, 3), dtype=np.uint8)
    for number, image in enumerate(pixels):
        Image.fromarray(image).resize((40, 32)).save(folder / f"{number}.png")
    source = f"{tmp_path / 'scraps'}?size=32&augment=flip" if place == "train" else str(tmp_path / "scraps")
    if place == "train":
        for path in folder.iterdir():
            Image.open(path).resize((32, 32)).save(path)
    cell = replace(no_labels("feature-KD", vit_folder, recipe), dataset="scraps", source=source)
    cell = checked(replace(cell, teacher_source="cached" if place == "train" else "replayed"))
    layout = Layout(tmp_path / "data", views=2)
    prepare.for_training(cell, layout, CPU, 256)
    with pytest.raises(InputError, match=r"has a label: train with labels: none"):
        open_job(replace(cell, labels="all"), NUMBERS, layout, CPU)
    job = open_job(cell, Hyperparameters(epochs=1, batch_size=4, learning_rate=1e-3), layout, CPU)
    assert (len(job.dataset.training), job.dataset.classes) == (9, [])
    done = train(job, RunFolder(tmp_path / "run"))
    assert (done.train_images, done.last.test) == (9, None)
    assert clipkd.load(tmp_path / "run", "cpu").embed(pixels[0]).shape == (1, 64)
