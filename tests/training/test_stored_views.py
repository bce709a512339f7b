"""K stored views of each image: what is stored is what the teacher says of the very image that the student sees."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from clipkd.cli import main
from clipkd.data import augmentation
from clipkd.data.batches import Turn
from clipkd.data.rand_augment import rand_augment
from clipkd.data.view_batches import Stored, ViewBatches
from clipkd.embeddings import parts, prepare
from clipkd.runs.folder import RunFolder
from clipkd.runs.job import open_batches, open_job, open_teacher_targets
from clipkd.runs.standardisation import Standardisation
from clipkd.runs.training import train
from clipkd.spec.cells import Cell
from clipkd.spec.layout import Layout
from clipkd.spec.refusals import checked
from clipkd.spec.settings import Hyperparameters
from clipkd.spec.views import REPLAY_SEED, Sample
from tests.conftest import save_vit
from tests.embeddings.test_audit import reseal
from tests.photos import save_photos
from tests.training.test_signals import gradients

pytestmark = pytest.mark.usefixtures("mirrored_digits")

CPU = torch.device("cpu")
BAR = {"float32": 1e-5, "int16": 1e-4}
"""The largest relative difference of a gradient."""
WIDTH = 192
"""Of the teacher's embeddings, as in a ViT-Ti: over so many, what int16 rounds off averages out."""


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder of images of many sizes."""
    return save_photos(tmp_path_factory.mktemp("images") / "photos")


@pytest.fixture(scope="module")
def wide_vit(tmp_path_factory):
    """A teacher with embeddings of a real width."""
    folder = tmp_path_factory.mktemp("teacher") / "wide-vit"
    save_vit(folder, hidden_size=WIDTH, num_attention_heads=3, intermediate_size=WIDTH)
    return folder


def opened(cell: Cell, layout: Layout):
    """Return job, targets and batches of a cell, as it would be trained."""
    prepare.for_training(cell, layout, CPU, 256)
    job = open_job(cell, Hyperparameters(), layout, CPU)
    targets = open_teacher_targets(job)
    return job, targets, open_batches(job, targets)


def cell_of(train_type, recipe, teacher, photos=None, source="replayed") -> Cell:
    dataset, where = ("photos", str(photos)) if photos else ("digits", None)
    return Cell(recipe, dataset, "tiny-32", str(teacher), train_type, 0, source, source=where)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("train_type", "recipe", "dtype", "labels"),
    [
        ("teacher-KD", "modern-full", "float32", "all"),
        ("feature-KD", "modern-full", "int16", "all"),
        ("vanilla", "modern-crop", "int16", "all"),
        ("vanilla", "modern-full", "float32", 60),
        *(
            pytest.param(*one, marks=pytest.mark.long)
            for one in (
                *(("vanilla", "modern-full", dtype, "all") for dtype in BAR),
                ("teacher-KD", "modern-full", "int16", "all"),
                ("feature-KD", "modern-full", "float32", "all"),
                ("teacher-KD", "modern-randaugment", "int16", "all"),
                ("feature-KD", "modern-crop", "float32", 60),
            )
        ),
    ],
)
def test_stored_equals_live_in_targets_and_gradients(train_type, recipe, dtype, labels, digits_folder, wide_vit):
    """With few labels of unlabelled images too, and of labelled ones that are shown again in the epoch."""
    cell = replace(cell_of(train_type, recipe, wide_vit), labels=labels)
    compare(cell, Layout(digits_folder, dtype=dtype, views=3))


@pytest.mark.parametrize("train_type", ["teacher-KD", "feature-KD"])
def test_stored_equals_live_on_images_of_many_sizes(train_type, photos, vit_folder, tmp_path):
    """Their views are the dataset's own crops, of thumbnails, with what the recipe adds to these."""
    compare(cell_of(train_type, "modern-full", vit_folder, photos), Layout(tmp_path, views=2, sample=Sample(5)))


def compare(cell: Cell, layout: Layout) -> None:
    """Compare a run on stored views with a teacher that looks at the run's own images, in its fifth epoch."""
    job, stored, batches = opened(cell, layout)
    assert stored.teacher is None
    # The same source of batches, which shows a live teacher what it shows the student.
    batches.with_pixels = True
    ask = asked(job)
    size, turn = min(32, batches.count), Turn(0, 5)

    def first(batches):
        return next(iter(batches.epoch(size, False, torch.Generator().manual_seed(5), turn=turn)))

    batch = first(batches)
    assert len(set(batch.views.tolist())) > 1
    known = (batch.labels if batch.labels.ndim == 1 else batch.labels.sum(dim=1) - 1) >= -1e-6
    assert known.all() == (cell.labels == "all")
    target, width = ask(batch), stored.width

    def gradient(signal):
        return gradients(job, batch, signal, width)

    torch.testing.assert_close(stored(batch), target, rtol=1e-3, atol=2e-3)
    right = gradient(target)

    def off(signal):
        return ((gradient(signal) - right).norm() / right.norm()).item()

    assert off(stored(batch)) < BAR[layout.dtype]
    # Controls: views that are nearly those, and their targets.
    other = batch.views.roll(1) if job.layout.views > 2 else 1 - batch.views
    wrong = {"another view": stored(batch_with(batch, views=other)), "another image": stored(rolled(batch))}
    seeds = Stored(REPLAY_SEED + 1, layout.views)
    wrong["another seed"] = ask(first(ViewBatches(batches.source, batches.augmentation, batches.classes, seeds, True)))
    if job.recipe.augment == "full":
        with pytest.MonkeyPatch.context() as patch:
            partners = augmentation.partners
            patch.setattr(augmentation, "partners", lambda drawn, *more: partners(np.roll(drawn, 1), *more))
            wrong["another partner"] = ask(first(batches))
    for name, signal in wrong.items():
        assert off(signal) > 1e-3, name


def batch_with(batch, **changes):
    return type(batch)(**{**vars(batch), **changes})


def rolled(batch):
    return batch_with(batch, rows=batch.rows.roll(1))


def asked(job):
    """Return what a live teacher says of a batch, in the form in which the run's train type wants it."""
    live = open_teacher_targets(open_job(replaced(job.cell), Hyperparameters(), job.layout, CPU))
    store = job.layout.replayed_embeddings(job.cell)
    if job.cell.method.signal == "scores":
        return live
    standardised = Standardisation.of_images(next(one for one in job.inputs if one.path == store.folder))
    return lambda batch: torch.from_numpy(standardised(live(batch).numpy()))


def replaced(cell: Cell) -> Cell:
    return Cell(**{**vars(cell), "teacher_source": "live"})


def test_a_view_is_what_pil_and_a_loop_make_of_its_numbers(photos, vit_folder, tmp_path):
    """Image by image: thumbnail, region, mirror, operations, partner; blended or pasted by hand."""
    layout = Layout(tmp_path, views=4, sample=Sample(5))
    job, _, batches = opened(cell_of("supervised", "modern-full", "none", photos), layout)
    batches.with_pixels = True
    for batch in batches.epoch(16, False, torch.Generator().manual_seed(1), turn=Turn(0, 3)):
        drawn = batches.augmentation.draw(REPLAY_SEED, batch.rows.numpy(), batch.views.numpy())
        images = []
        for place, row in enumerate(drawn.rows.tolist()):
            image = Image.fromarray(job.dataset.image("train", row))
            short = image.resize([32 * side // min(image.size) for side in image.size], Image.Resampling.BILINEAR)
            top, left, height, width = drawn.boxes[place].tolist()
            region = short.crop((left, top, left + width, top + height)).resize((32, 32), Image.Resampling.BILINEAR)
            pixels = np.asarray(region)[:, ::-1] if drawn.flips[place] else np.asarray(region)
            shown = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None]
            operations = (one[:, place : place + 1] for one in drawn.operations)
            images.append(rand_augment(shown, *operations, job.dataset.spec.mean_colour)[0].numpy() / 255)
        assert not set(drawn.rows.tolist()) & set(job.dataset.validation.tolist())
        for place in range(drawn.count):
            own, partner, share = images[place], images[drawn.count + place], drawn.mix.shares[place]
            wanted = own * share + partner * (1 - share)
            if drawn.mix.is_cut[place]:
                top, left, height, width = drawn.mix.squares[place]
                wanted = own.copy()
                wanted[:, top : top + height, left : left + width] = partner[:, top : top + height, left : left + width]
                assert share == pytest.approx(1 - height * width / 32**2)
            # PIL may take rows first: one level in the rounding, which an operation may multiply by at most a few.
            assert np.median(np.abs(batch.native[place].numpy() - wanted)) < 1.5 / 255
            assert np.abs(batch.native[place].numpy() - wanted).mean() < 2 / 255


@pytest.mark.slow
@pytest.mark.parametrize("train_type", ["supervised", "embed-KD"])
def test_who_needs_no_embeddings_of_views_sees_the_same_ones(train_type, digits_folder, vit_folder):
    layout = Layout(digits_folder, views=3, sample=Sample(5))
    teacher = "none" if train_type == "supervised" else vit_folder
    job, _, batches = opened(cell_of(train_type, "modern-full", teacher), layout)
    _, _, others = opened(cell_of("feature-KD", "modern-full", vit_folder), layout)
    _, _, fresh = opened(cell_of(train_type, "modern-full", teacher, source="cached"), layout)
    for epoch in (1, 2):
        one, other, new = (
            next(iter(source.epoch(64, False, torch.Generator().manual_seed(2), turn=Turn(0, epoch))))
            for source in (batches, others, fresh)
        )
        for name in ("rows", "views", "inputs", "labels"):
            assert torch.equal(getattr(one, name), getattr(other, name)), name
        assert not torch.equal(one.inputs, new.inputs)
    assert job.cell.folder.endswith(f"{train_type}-replayed/seed0")


def test_a_run_shows_no_view_twice_in_k_epochs(photos, vit_folder, tmp_path):
    layout, numbers = Layout(tmp_path, views=2, sample=Sample(5)), Hyperparameters(epochs=2, batch_size=12)
    cell = checked(cell_of("vanilla", "modern-full", vit_folder, photos, source="cached"))
    assert cell.teacher_source == "replayed", "what can't be cached whole is replayed"
    prepare.for_training(cell, layout, CPU, 256)
    job, seen, batch = open_job(cell, numbers, layout, CPU), [], ViewBatches.batch

    def watched(self, seed, plan, views, drawn, *more):
        seen.extend(zip(drawn.rows[: drawn.count].tolist(), views.tolist(), strict=True))
        return batch(self, seed, plan, views, drawn, *more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ViewBatches, "batch", watched)
        train(job, RunFolder(tmp_path / "run"))
    assert len(seen) == len(set(seen)) == 2 * job.dataset.training.size


def test_nothing_but_vectors_is_stored_and_an_audit_finds_a_wrong_one(digits_folder, vit_folder, tmp_path, capsys):
    data = tmp_path / "data"
    shutil.copytree(digits_folder / "datasets", data / "datasets")
    layout = Layout(data, views=2)
    cell = cell_of("feature-KD", "modern-full", vit_folder)
    prepare.for_training(cell, layout, CPU, 256)
    folder = layout.replayed_embeddings(cell).folder
    names = {"manifest.json", "train.npy", "train-grid.npy", "train-mean.npy", "train-deviation.npy"}
    names.add("train-digests.npy")  # 16 bytes an image
    assert {path.name for path in folder.iterdir()} == names
    assert np.load(folder / "train.npy").shape[1:] == (2, 16)
    assert json.loads((folder / "manifest.json").read_text())["identity"]["views"]["augment"] == "full"
    command = ["audit", "digits", str(vit_folder), "--data", str(data), "--images", "70", "--device", "cpu"]
    assert main(command) == 0, "three batches"
    assert "2 full views of each training image, 140 views looked at again" in capsys.readouterr().out
    reseal(folder, "train", lambda values: values[:, ::-1].copy())
    assert main(command) != 0
    assert " view 0" in capsys.readouterr().out


def test_parts_that_were_left_and_shards_make_the_same_store(photos, vit_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(parts, "VIEWS", 64)
    made = []
    for shards in (1, 3):
        layout = Layout(tmp_path / str(shards), views=5)
        store = layout.replayed_embeddings(cell_of("feature-KD", "modern-full", vit_folder, photos))
        for shard in range(1, shards):
            prepare.embeddings(store, layout, str(photos), CPU, 7, (shard, shards))
            assert not (store.folder / "manifest.json").exists()
        prepare.embeddings(store, layout, str(photos), CPU, 7)
        made.append((store.folder / "train.npy").read_bytes())
    assert made[0] == made[1]
