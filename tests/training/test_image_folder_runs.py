"""A folder of images of many sizes: random crops, so the teacher runs live, and prototypes are stored."""

from __future__ import annotations

import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from clipkd.core.errors import InputError
from clipkd.core.fingerprint import fingerprint
from clipkd.embeddings import prepare
from clipkd.embeddings.teacher import load
from clipkd.runs.job import open_batches, open_job, open_teacher_targets
from clipkd.spec.cells import Cell
from clipkd.spec.grid import expand
from clipkd.spec.layout import Layout
from clipkd.spec.refusals import checked
from clipkd.spec.settings import Config, Hyperparameters
from clipkd.spec.views import Sample
from tests.warm import clipkd

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def flowers(tmp_path_factory):
    """Three classes of real scans, each image of another size, as PNG files."""
    from sklearn.datasets import load_digits

    folder = tmp_path_factory.mktemp("images") / "flowers"
    digits, generator = load_digits(), np.random.default_rng(0)
    for row in np.flatnonzero(digits.target < 3)[:90]:
        split = "train" if row % 4 else "val"
        path = folder / split / f"class-{digits.target[row]}"
        path.mkdir(parents=True, exist_ok=True)
        size = tuple(int(side) for side in generator.integers(30, 70, 2))
        pixels = (digits.images[row] * 15).astype(np.uint8)
        Image.fromarray(pixels).resize(size).convert("RGB").save(path / f"{row}.png")
    return folder


@pytest.mark.parametrize("recipe", ["reference", "corrected"])
@pytest.mark.parametrize("train_type", ["teacher-KD", "vanilla"])
def test_replayed_views_are_those_that_the_teacher_saw(train_type, recipe, flowers, vit_folder, tmp_path):
    layout = Layout(tmp_path, dtype="float32", views=3)
    job, batches, stored = opened(train_type, recipe, "replayed", flowers, vit_folder, layout)
    _, _, live = opened(train_type, recipe, "live", flowers, vit_folder, layout)
    assert stored.teacher is None
    assert job.thumbnails is not None
    folder = layout.replayed_embeddings(job.cell).folder
    boxes, flips = np.load(folder / "train-boxes.npy"), np.load(folder / "train-flips.npy")
    assert boxes.shape == (len(job.dataset.train_labels), 3, 4)
    assert len(np.unique(boxes.reshape(-1, 4), axis=0)) > len(boxes)
    seen = set()
    for batch in batches.epoch(16, False, torch.Generator().manual_seed(3)):
        # Rebuilt by hand, through PIL alone: the box of that view of the image with its short side at 32 px, resized,
        # mirrored, normalised; and for a teacher that sees the image itself, the same region of that.
        large = []
        for place in range(len(batch.rows)):
            row, view = int(batch.rows[place]), int(batch.views[place])
            image = Image.fromarray(job.dataset.image("train", row))
            short = image.resize([32 * side // min(image.size) for side in image.size], Image.Resampling.BILINEAR)
            top, left, height, width = boxes[row, view].tolist()
            region = short.crop((left, top, left + width, top + height))
            by_hand = np.asarray(region.resize((32, 32), Image.Resampling.BILINEAR)).astype(int)
            by_hand = by_hand[:, ::-1] if flips[row, view] else by_hand
            found = batch.inputs[place].permute(1, 2, 0).numpy() * np.array(job.dataset.spec.std)
            levels = np.rint((found + np.array(job.dataset.spec.mean)) * 255)
            assert np.abs(levels - by_hand).max() <= 1, "PIL may take rows first: one level in the rounding"
            assert np.abs(found + np.array(job.dataset.spec.mean) - levels / 255).max() < 1e-5
            across, down = (there / here for there, here in zip(image.size, short.size, strict=True))
            edges = left * across, top * down, (left + width) * across, (top + height) * down
            region = image.crop(tuple(int(np.floor(edge + 0.5)) for edge in edges))
            pixels = np.asarray(region.resize((24, 24), Image.Resampling.BILINEAR)).transpose(2, 0, 1) / 255
            large.append(pixels[:, :, ::-1].copy() if flips[row, view] else pixels)
            seen.add((row, view))
        # A live teacher, shown these very views, says what is stored.
        native = torch.tensor(np.stack(large), dtype=torch.float32) if recipe == "corrected" else None
        shown = dataclasses.replace(batch, native=native)
        # One level of 8 bits in some pixels of the rebuilt views; the control below is five times as far.
        bound = 1e-4 if native is None else 0.1
        torch.testing.assert_close(stored(batch), live(shown), rtol=1e-3, atol=bound)
        # The control: another view of the same images is not that.
        other = dataclasses.replace(batch, views=(batch.views + 1) % 3)
        assert not torch.allclose(stored(other), live(shown), rtol=1e-2, atol=0.5)
    assert len(seen) == batches.count


@pytest.mark.parametrize("train_type", ["supervised", "embed-KD"])
def test_who_needs_no_embeddings_of_views_trains_on_the_same_ones(train_type, flowers, vit_folder, tmp_path):
    layout = Layout(tmp_path, views=3, sample=Sample(5))
    teacher_kd, batches, _ = opened("teacher-KD", "corrected", "replayed", flowers, vit_folder, layout)
    stored = layout.replayed_embeddings(teacher_kd.cell).folder
    shutil.rmtree(stored)
    teacher = "none" if train_type == "supervised" else vit_folder
    job, others, _ = opened(train_type, "corrected", "replayed", flowers, teacher, layout)
    fresh = opened(train_type, "corrected", "cached", flowers, teacher, layout)
    assert not stored.exists(), "nothing but the images' sizes says which views these are"

    def epoch(source):
        return list(source.epoch(16, False, torch.Generator().manual_seed(3)))

    for batch, other, new in zip(epoch(batches), epoch(others), epoch(fresh[1]), strict=True):
        assert torch.equal(batch.rows, other.rows)
        assert torch.equal(batch.views, other.views)
        assert torch.equal(batch.inputs, other.inputs)
        assert not torch.allclose(batch.inputs, new.inputs)
    assert job.cell.folder == fresh[0].cell.folder.replace(train_type, f"{train_type}-replayed")
    two = dataclasses.replace(layout, views=2)
    identities = [job.identity, fresh[0].identity, dataclasses.replace(job, layout=two).identity]
    assert len({fingerprint(identity) for identity in identities}) == 3


@pytest.mark.parametrize(("recipe", "augment"), [("reference", "flip"), ("corrected", "flip"), ("corrected", "none")])
def test_whole_images_of_many_sizes_have_a_stored_teacher(recipe, augment, flowers, vit_folder, tmp_path):
    """Without crops every view is stored: what the teacher says of the student's input, or of the image itself."""
    layout = Layout(tmp_path, dtype="float32")
    where = f"{flowers}?augment={augment}"
    job, batches, stored = opened("teacher-KD", recipe, "cached", where, vit_folder, layout)
    assert job.thumbnails is None
    teacher = load(job.cell.teacher_spec, layout.teacher(job.cell.teacher_spec), CPU)
    mirrored = 0
    for batch in batches.epoch(16, False, torch.Generator().manual_seed(3)):
        if recipe == "reference":
            wanted = teacher.embed(batch.inputs)
        else:
            images = [job.dataset.image("train", int(row)) for row in batch.rows]
            shown = [image[:, ::-1] if view else image for image, view in zip(images, batch.views, strict=True)]
            tensors = [torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None] / 255 for image in shown]
            wanted = torch.cat([teacher.embed(teacher.present(one, None, None)) for one in tensors])
        torch.testing.assert_close(stored(batch), wanted, rtol=1e-4, atol=1e-4)
        mirrored += int(batch.views.sum())
    assert (mirrored > 0) == (augment == "flip")
    with pytest.raises(InputError, match="use teacher_source 'cached'"):
        checked(dataclasses.replace(job.cell, teacher_source="live"))


def test_a_teacher_that_sees_enlarged_images_is_named(flowers, vit_folder, tmp_path, capsys):
    """Packed at 20 pixels for a teacher of 24, and at 24, where nothing is to be said."""
    for pack, warned in (("20", True), ("24", False)):
        opened(
            "embed-KD",
            "corrected",
            "cached",
            f"{flowers}?pack={pack}",
            vit_folder,
            Layout(tmp_path / pack, sample=Sample(5)),
        )
        told = capsys.readouterr().err
        assert ("packed with a short side of 20 pixels" in told) == warned
        assert ("add ?pack=24 to the source" in told) == warned


def opened(train_type, recipe, source, flowers, vit_folder, layout):
    """Return job, batches and signal of a cell on the folder of images."""
    cell = Cell(recipe, "flowers", "tiny-32", str(vit_folder), train_type, 0, source, source=str(flowers))
    prepare.for_training(cell, layout, CPU, 64)
    job = open_job(cell, Hyperparameters(), layout, CPU)
    signal = open_teacher_targets(job)
    return job, open_batches(job, signal), signal


def test_replayed_runs_have_a_folder_of_their_own_and_never_share_a_row(flowers, vit_folder):
    block = {
        "name": "x", "datasets": ["flowers"], "teachers": [str(vit_folder)], "students": ["tiny-32"],
        "train_types": ["teacher-KD"], "recipes": ["corrected"], "seeds": [0], "teacher_source": "replayed",
    }  # fmt: skip
    config = {"training": {"epochs": 1}, "sources": {"flowers": str(flowers)}}

    def cells(*blocks):
        return expand(Config.model_validate(config | {"grid": list(blocks)}))[0]

    (cell,) = cells(block)
    assert cell.folder.endswith("/teacher-KD-replayed/seed0")
    assert not cell.is_cost_run
    with pytest.raises(InputError, match="split them into two grids"):
        cells(block, block | {"teacher_source": "live"})
    with pytest.raises(InputError, match="split them into two grids"):  # a row has seeds of any number of epochs
        cells(block, block | {"teacher_source": "live", "epochs": 2, "seeds": [1]})
    both = block | {"train_types": ["supervised", "embed-KD"]}
    assert [cell.folder.split("/")[-2] for cell in cells(both)] == ["supervised-replayed", "embed-KD-replayed"]
    with pytest.raises(InputError, match="none/supervised-replayed/seed0 and for the same run on views that are new"):
        cells(both, both | {"train_types": ["supervised"], "teacher_source": "cached"})
    with pytest.raises(InputError, match="use teacher_source 'cached'"):
        cells(block | {"datasets": ["digits"]})
    with pytest.raises(InputError, match="would keep nothing"):
        cells(block | {"teacher_source": "lazy"})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("train_type", "recipe", "source"),
    [("embed-KD", "reference", None), ("vanilla", "corrected", None), ("supervised", "corrected", "replayed")],
)
def test_train_types_work_on_random_crops(train_type, recipe, source, flowers, vit_folder, tmp_path):
    names = ["--dataset-name", "flowers", "--dataset-source", flowers, "--teacher-model", vit_folder]
    flags = ["--train-type", train_type, "--recipe", recipe, "--student", "tiny-32", "--epochs", 1, "--batch-size", 16]
    places = ["--data", tmp_path / "data", "--log-folder", tmp_path / "run", "--per-class", 5, "--threads", 1]
    clipkd("train", *names, *flags, *places, *(["--teacher-source", source] if source else []))
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    cost = json.loads((tmp_path / "run" / "cost.json").read_text())
    assert metrics["classes"] == 3
    live = train_type == "vanilla"
    assert metrics["cell"]["teacher_source"] == (source or ("live" if live else "cached"))
    assert cost["teacher"]["source"] == ("none" if source else metrics["cell"]["teacher_source"])
    assert cost["teacher"]["forward_passes"] == (cost["images_per_epoch"] if live else 0)
