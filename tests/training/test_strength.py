"""`augment: auto` chooses by parameters, images and epochs: the plan before the run, and the run as it was planned."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from clipkd.cli import main
from clipkd.core.errors import DataError, InputError
from clipkd.data.packing import validation_rows
from clipkd.embeddings import prepare
from clipkd.plugins import datasets, recipes, students
from clipkd.plugins.students import StudentSpec
from clipkd.runs.folder import RunFolder
from clipkd.runs.job import open_job
from clipkd.runs.training import train
from clipkd.spec import flags, grid, strength
from clipkd.spec.cells import Cell
from clipkd.spec.layout import Layout
from clipkd.spec.refusals import checked
from clipkd.spec.settings import Config, Hyperparameters
from clipkd.spec.strength import planned_strength, strength_for
from clipkd.spec.views import Sample
from tests.photos import save_photos

CPU = torch.device("cpu")
HUB = "hub:owner/birds@" + "0" * 40


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder of images of many sizes."""
    return save_photos(tmp_path_factory.mktemp("images") / "photos")


@pytest.mark.parametrize(("student", "images", "epochs", "wanted"), [
    ("tiny-32", 10_000, 40, "flip"),
    ("tiny-32", 2_000, 100, "crop"),
    ("small-32", 2_000, 100, "crop"),
    ("small-32", 50_000, 300, "crop"),
    ("base-32", 50_000, 310, "full"),
    ("base-32", 50_000, 20, "flip"),
    ("base-32", 2_000, 300, "crop"),
    ("timm:vit_tiny_patch16_224@32", 50_000, 100, "full"),
])  # fmt: skip
def test_augmentation_is_as_strong_as_student_and_run_are_large(student, images, epochs, wanted):
    assert strength_for(students.get(student), images, epochs) == wanted


@pytest.mark.parametrize("spec", [
    *(students.get(name) for name in ("tiny-32", "small-32", "base-64")),
    StudentSpec("odd", image_size=24, patch_size=6, width=40, layers=3, heads=2),
])  # fmt: skip
def test_a_students_parameters_by_formula_are_its_networks(spec):
    network = spec.network(2, None, "student", False)
    assert spec.parameters() == sum(parameter.numel() for parameter in network.parameters())


def test_what_is_known_before_packing_is_what_packing_finds(digits_folder):
    digits = datasets.get("digits")
    assert strength.packed_counts(digits, digits_folder) == digits.counts
    for name, classes in (("cifar10", 10), ("cifar100", 100)):
        spec = datasets.get(name)
        labels = np.repeat(np.arange(classes), 50_000 // classes)
        held_out = validation_rows(labels, spec.validation_fraction, [str(one) for one in range(classes)])
        assert spec.counts == (50_000, len(held_out))


@pytest.mark.parametrize(("student", "source", "epochs", "wanted"), [
    ("tiny-32", HUB, 10_000, "crop"),  # too small for full strength, whatever the images
    ("base-32", HUB, 40, None),
    ("base-32", "photos", 40, "flip"),  # few files
    ("base-32", "photos", 200, "crop"),
    ("base-32", "photos", 41, None),  # files enough for full strength, and not known how many are images
])  # fmt: skip
def test_a_plan_before_packing_is_made_where_the_number_of_images_does_not_matter(
    student, source, epochs, wanted, photos, tmp_path, monkeypatch
):
    if epochs == 41:
        monkeypatch.setattr(strength, "LONG", 300)
    source = str(photos) if source == "photos" else source
    spec = datasets.get("mine", source)
    asked = (recipes.get("modern"), students.get(student), spec, source, epochs, tmp_path)
    if wanted:
        assert planned_strength(*asked) == wanted
    else:
        told = f"run `clipkd download mine --dataset-source '{re.escape(source)}'` first, or name a strength, as in "
        with pytest.raises(InputError, match=told):
            planned_strength(*asked)
    if source == str(photos):  # the same once it is packed, and then always known
        main(["download", "mine", "--dataset-source", source, "--data", str(tmp_path)])
        assert planned_strength(*asked) == (wanted or "full")


@pytest.mark.parametrize(("epochs", "planned", "source"), [(1, "flip", "cached"), (100, "crop", "replayed")])
def test_modern_trains_on_what_its_plan_has_stored(epochs, planned, source, digits_folder, vit_folder, tmp_path):
    layout = Layout(digits_folder, views=1, sample=Sample(5))
    cell = Cell("modern", "digits", "tiny-32", str(vit_folder), "vanilla", 0, epochs=epochs)
    cell = checked(cell, digits_folder)
    assert (cell.strength, cell.teacher_source) == (planned, source)
    prepare.for_training(cell, layout, CPU, 256)
    job = open_job(cell, Hyperparameters(epochs=epochs, batch_size=512), layout, CPU)
    assert job.recipe.augment == planned
    assert job.facts()["augment"] == planned
    if epochs == 1:
        train(job, RunFolder(tmp_path / "run"))
        assert (tmp_path / "run/metrics.json").exists()

    # The control: a plan that has stored the views of another strength.
    other = replace(cell, strength="full")
    with pytest.raises(DataError, match="augmentation 'full' was planned, and 1,262 images of Digits ask for"):
        _ = open_job(other, Hyperparameters(epochs=epochs), layout, CPU).recipe


def test_own_images_are_stored_in_views_at_any_strength(photos, vit_folder, tmp_path):
    for epochs, planned in ((1, "flip"), (100, "crop")):
        for train_type in ("vanilla", "feature-KD"):
            cell = Cell(
                "modern", "photos", "tiny-32", str(vit_folder), train_type, 0, epochs=epochs, source=str(photos)
            )
            cell = checked(cell, tmp_path)
            assert (cell.strength, cell.teacher_source) == (planned, "replayed")


@pytest.mark.parametrize("recipe", ["modern", "modern?drop_path=0.3&teacher_normalisation=student"])
def test_a_store_is_made_by_flags_that_name_the_strength(recipe, vit_folder, tmp_path, capsys):
    block = {
        "name": "one", "datasets": ["digits"], "teachers": [str(vit_folder)], "students": ["tiny-32"],
        "train_types": ["vanilla"], "recipes": [recipe], "seeds": [0], "epochs": 100,
    }  # fmt: skip
    config = Config.model_validate({"grid": [block], "embeddings": {"views": 1}})
    ((cell,), _), layout = grid.expand(config), Layout.of(config, tmp_path)
    words = [*flags.extract_flags(config, cell.fixed, "replayed"), "--data", tmp_path, "--shard", "1/2"]
    assert "augment=crop" in words[words.index("--recipe") + 1]
    main(["download", "digits", "--data", str(tmp_path)])
    main(["extract", *map(str, words)])
    folder = layout.replayed_embeddings(cell).folder
    assert list(folder.parent.glob(f".{folder.name}.parts/*"))
    assert main(["extract", *map(str, [*words, "--recipe", recipe])]) == 2
    assert "name the one whose views are to be stored" in capsys.readouterr().err
