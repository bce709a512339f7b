"""A dataset that is packed again, with other images or labels: the teacher sees only what it has not seen.

The expectation is always the store that an extraction from nothing makes of the same dataset.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from clipkd.cli import main
from clipkd.core.artifacts import open_artifact, read_manifest, write_manifest
from clipkd.core.errors import DataError
from clipkd.core.fingerprint import fingerprint
from clipkd.data.currency import is_current
from clipkd.data.dataset import Dataset
from clipkd.embeddings import parts, prepare
from clipkd.embeddings.extract import extract
from clipkd.embeddings.other_names import is_copied
from clipkd.embeddings.teacher import Teacher, load
from clipkd.embeddings.vectors import Vectors
from clipkd.plugins import datasets, teachers
from clipkd.runs.job import open_job
from clipkd.spec.cells import Cell
from clipkd.spec.layout import Embeddings, Layout
from clipkd.spec.settings import Hyperparameters
from clipkd.spec.views import Sample
from clipkd.tables.teachers import earlier_notes
from tests.conftest import save_vit

CPU = torch.device("cpu")
GENERATOR = np.random.default_rng(0)


def save_image(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(GENERATOR.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(path)


@dataclass
class Project:
    """A folder of images that changes, and what is made of it."""

    images: Path
    layout: Layout
    teacher_folder: Path
    name: str = "photos"

    @property
    def source(self) -> str:
        return f"{self.images}?size=16&augment=flip"

    @property
    def cell(self) -> Cell:
        return Cell("corrected", self.name, "tiny-32", str(self.teacher_folder), "vanilla", 0, source=self.source)

    def packed(self) -> Dataset:
        return prepare.dataset(datasets.get(self.name, self.source), self.layout, self.source, overwrite=True)

    def teacher(self) -> Teacher:
        spec = teachers.get(str(self.teacher_folder))
        prepare.teacher(spec, self.layout, CPU)
        return load(spec, self.layout.teacher(spec), CPU)

    def extracted(self, kind: str = "full", **options) -> tuple[Embeddings, int]:
        """Pack the images anew and extract; return the store and the passes through the teacher."""
        teacher, dataset = self.teacher(), self.packed()
        store = getattr(self.layout, f"{kind}_embeddings")(self.cell)
        extract(store, dataset, teacher, 8, **options)
        return store, teacher.forward_passes


@pytest.fixture
def project(tmp_path: Path, vit_folder: Path) -> Project:
    images = tmp_path / "photos"
    for split, count in (("train", 20), ("val", 4)):
        for number in range(count):
            save_image(images / split / "ab"[number % 2] / f"{number:02d}.png")
    return Project(images, Layout(tmp_path / "data", sample=Sample(5)), vit_folder)


def vectors_of(store: Embeddings) -> dict[str, np.ndarray]:
    artifact = open_artifact(store.folder, "embeddings", store.identity)
    names = [name for name in ("train", "test", "sample") if f"{name}.npy" in artifact.manifest["files"]]
    return {name: Vectors(artifact, name)[:] for name in names}


def check_as_from_nothing(project: Project, store: Embeddings, tmp_path: Path, kind: str = "full") -> None:
    """Compare a store with one that is made of the same images in an empty folder."""
    fresh = replace(project, layout=replace(project.layout, data=tmp_path / "fresh"))
    expected = vectors_of(fresh.extracted(kind)[0])
    found = vectors_of(store)
    assert found.keys() == expected.keys()
    for name, one in found.items():
        np.testing.assert_allclose(one, expected[name], rtol=0, atol=2e-4 * np.abs(one).max())


def added(images: Path) -> int:
    save_image(images / "train" / "a" / "00a.png")  # between two others
    save_image(images / "val" / "b" / "99.png")
    return 2 + 1


def removed(images: Path) -> int:
    (images / "train" / "a" / "04.png").unlink()
    return 0


def labelled_otherwise(images: Path) -> int:
    (images / "train" / "a" / "04.png").rename(images / "train" / "b" / "04.png")
    return 0


def unlabelled(images: Path) -> int:
    (images / "train" / "unlabeled").mkdir()
    for number in (4, 6, 8):
        (images / "train" / "a" / f"{number:02d}.png").rename(images / "train" / "unlabeled" / f"{number}.png")
    return 0


def repainted(images: Path) -> int:
    """Another image by the same name."""
    save_image(images / "train" / "a" / "04.png")
    return 2


def to_the_test_images(images: Path) -> int:
    (images / "train" / "a" / "04.png").rename(images / "val" / "a" / "04.png")
    return 0


def from_the_test_images(images: Path) -> int:
    """It was not shown mirrored."""
    (images / "val" / "a" / "00.png").rename(images / "train" / "a" / "v.png")
    return 2


@pytest.mark.parametrize(
    "change",
    [added, removed, labelled_otherwise, unlabelled, repainted, to_the_test_images, from_the_test_images],
)
def test_the_teacher_sees_what_it_has_not_seen(
    change: Callable[[Path], int], project: Project, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    _, passes = project.extracted()
    assert passes == 2 * 20 + 4
    expected = change(project.images)
    store, passes = project.extracted()
    assert passes == expected
    assert "images were embedded before" in capfd.readouterr().err
    check_as_from_nothing(project, store, tmp_path)


def test_a_new_version_of_a_dataset_may_have_a_name_of_its_own(project: Project, tmp_path: Path) -> None:
    project.extracted()
    newer = replace(project, name="photos-2", images=Path(shutil.copytree(project.images, tmp_path / "photos-2")))
    expected = added(newer.images)
    store, passes = newer.extracted()
    assert passes == expected
    check_as_from_nothing(newer, store, tmp_path)
    third = replace(newer, name="photos-3")
    assert third.extracted()[1] == 0, "the same images as they are"


def test_of_an_image_the_pixels_count_and_not_where_they_come_from(project: Project, monkeypatch) -> None:
    """As of a newer commit of a dataset of the hub: the dataset has another identity, and most images are as before."""
    project.extracted()
    expected = added(project.images)
    monkeypatch.setattr(Project, "source", property(lambda self: f"{self.images}?size=16&augment=flip&exif=ignore"))
    assert replace(project, name="scans").extracted()[1] == expected


def test_stores_of_other_images_are_not_read(project: Project, tmp_path: Path, capfd) -> None:
    store, _ = project.extracted()
    np.save(store.folder / "train.npy", np.zeros(3))  # who reads it says that it is damaged
    other = replace(project, name="others", images=tmp_path / "others")
    for split in ("train", "val"):
        for number in range(12):
            save_image(other.images / split / "ab"[number % 2] / f"{number}.png")
    capfd.readouterr()
    assert other.extracted()[1] == 2 * 12 + 12
    assert str(store.folder) not in capfd.readouterr().err


def test_images_of_another_size_are_presented_otherwise(project: Project, monkeypatch) -> None:
    project.extracted()
    monkeypatch.setattr(Project, "source", property(lambda self: f"{self.images}?augment=flip"))
    assert replace(project, name="photos-2").extracted()[1] == 2 * 20 + 4, "packed without `size`: resized in 8 bits"


def test_nothing_is_taken_over_where_nothing_was_changed(project: Project) -> None:
    store, _ = project.extracted()
    before = {path.name: path.read_bytes() for path in store.folder.iterdir()}
    assert project.extracted() == (store, 0)
    assert {path.name: path.read_bytes() for path in store.folder.iterdir()} == before


def test_a_sample_keeps_the_vectors_of_images_that_are_drawn_again(project: Project, tmp_path: Path) -> None:
    _, passes = project.extracted("sample")
    assert passes == 10
    added(project.images)
    store, passes = project.extracted("sample")
    assert passes < 10
    check_as_from_nothing(project, store, tmp_path, "sample")


@pytest.mark.parametrize(("recipe", "options"), [("corrected", ""), ("modern-crop", "?size=16&augment=flip")])
def test_stored_views_of_an_image_are_its_own(recipe: str, options: str, project: Project, tmp_path: Path, monkeypatch):
    """Random crops, of the dataset or the recipe: those of an image stay where others come."""
    monkeypatch.setattr(Project, "source", property(lambda self: f"{self.images}{options}"))
    cell = Cell(recipe, "photos", "tiny-32", str(project.teacher_folder), "vanilla", 0, teacher_source="replayed")
    monkeypatch.setattr(Project, "cell", property(lambda self: replace(cell, source=self.source)))
    project = replace(project, layout=replace(project.layout, views=3))
    _, passes = project.extracted("replayed")
    assert passes == 3 * 20
    added(project.images)
    removed(project.images)
    (project.images / "train" / "a" / "06.png").rename(project.images / "train" / "b" / "06.png")
    store, passes = project.extracted("replayed")
    assert passes == 3
    check_as_from_nothing(project, store, tmp_path, "replayed")


def test_views_mixed_with_those_of_others_are_made_again(project: Project, monkeypatch, capfd) -> None:
    cell = Cell(
        "modern-full", "photos", "tiny-32", str(project.teacher_folder), "vanilla", 0, teacher_source="replayed"
    )
    monkeypatch.setattr(Project, "cell", property(lambda self: replace(cell, source=self.source)))
    project = replace(project, layout=replace(project.layout, views=3))
    project.extracted("replayed")
    added(project.images)
    assert project.extracted("replayed")[1] == 3 * 21
    assert "no vector is taken over, as its views are mixed with those of other images" in capfd.readouterr().err


def test_facts_say_what_all_vectors_have_cost(project: Project) -> None:
    store, _ = project.extracted()
    first = read_manifest(store.folder)["facts"]
    added(project.images)
    store, passes = project.extracted()
    facts = read_manifest(store.folder)["facts"]
    assert facts["forward_passes"] == first["forward_passes"] + passes == 2 * 21 + 5
    assert facts["seconds"] > first["seconds"]
    assert facts["taken_over"] == 24
    assert facts["device"] == first["device"]
    removed(project.images)
    store, _ = project.extracted()
    assert read_manifest(store.folder)["facts"]["forward_passes"] == 2 * 20 + 5


def test_rounding_adds_up_only_until_a_vector_would_be_changed_too_far(project: Project, monkeypatch) -> None:
    """Each time that a dimension's range grows, int16 codes are others: what vectors have lost before is counted."""
    store, _ = project.extracted()
    formats = [read_manifest(store.folder)["facts"]["formats"]["train"]]
    monkeypatch.setattr("clipkd.embeddings.vectors.HOLDS", 3 * formats[0]["worst"])
    for _ in range(6):
        save_image(project.images / "train" / "a" / f"{len(formats)}x.png")
        store, _ = project.extracted()
        formats.append(read_manifest(store.folder)["facts"]["formats"]["train"])
        if formats[-1]["format"] == "float32":
            break
    carried = [one.get("carried", 0.0) for one in formats]
    assert carried == sorted(carried)
    assert carried[1] == formats[0]["worst"]
    assert carried[2] == carried[1] + formats[1]["worst"]
    assert formats[-1]["format"] == "float32"
    last = carried[-1]
    save_image(project.images / "train" / "b" / "more.png")
    store, _ = project.extracted()
    assert read_manifest(store.folder)["facts"]["formats"]["train"]["carried"] == last, "float32 rounds no more"


@pytest.mark.parametrize("shards", [1, 3])
def test_shards_and_killed_extractions_take_over_as_well(shards: int, project: Project, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(parts, "VIEWS", 8)
    project.extracted()
    expected, passes = added(project.images), 0
    dataset, teacher = project.packed(), project.teacher()
    store = project.layout.full_embeddings(project.cell)
    made = read_manifest(store.folder)
    for number in range(1, shards + 1) if shards > 1 else []:
        extract(store, dataset, teacher, 8, (number, shards))
        assert read_manifest(store.folder) == made, "until the new store is whole, the old one is there"
    extract(store, dataset, teacher, 8)
    passes += teacher.forward_passes
    assert passes == expected
    check_as_from_nothing(project, store, tmp_path)


def test_vectors_of_other_weights_are_not_taken_over(project: Project, tmp_path: Path, capfd) -> None:
    own = tmp_path / "vit"
    save_vit(own)
    project = replace(project, teacher_folder=own)
    store, _ = project.extracted()
    manifest = read_manifest(store.folder)
    files = manifest["files"]
    write_manifest(store.folder, "embeddings", store.identity, manifest["facts"] | {"weights_sha256": "0" * 64}, files)
    added(project.images)
    _, passes = project.extracted()
    assert passes == 2 * 21 + 5
    assert "no vector is taken over, as it was made with other weights" in capfd.readouterr().err


def test_a_damaged_store_gives_no_vectors(project: Project, tmp_path: Path, capfd) -> None:
    store, _ = project.extracted()
    codes = np.load(store.folder / "train.npy")
    codes[0] += 1
    np.save(store.folder / "train.npy", codes)
    added(project.images)
    store, passes = project.extracted()
    assert passes == 2 * 21 + 5
    assert "sha256 mismatch" in capfd.readouterr().err
    check_as_from_nothing(project, store, tmp_path)


def test_a_teacher_by_another_name_runs_over_no_image_again(project: Project, monkeypatch, capfd) -> None:
    project.packed()
    stores = []
    for name in ("", "one=", "two="):
        cell = replace(project.cell, teacher=f"{name}{project.teacher_folder}")
        stores.append(project.layout.full_embeddings(cell))
        prepare.embeddings(stores[-1], project.layout, project.source, CPU)
        monkeypatch.setattr("clipkd.embeddings.extract.make_part", None)  # no view is shown to a teacher from here on
    assert len({store.folder for store in stores}) == 3
    contents = [{path.name: path.read_bytes() for path in store.folder.iterdir()} for store in stores]
    assert contents[0] == contents[1] == contents[2]
    assert "the same teacher by another name" in capfd.readouterr().err


def test_a_store_by_another_name_counts_only_if_it_is_of_these_images_and_weights(project: Project) -> None:
    store, _ = project.extracted()
    other = replace(project.cell, teacher=f"one={project.teacher_folder}")
    renamed, folder = project.layout.full_embeddings(other), project.layout.teacher(teachers.get(other.teacher))
    assert not is_copied(renamed, "another content", folder)
    manifest = read_manifest(store.folder)
    facts = manifest["facts"] | {"weights_sha256": "0" * 64}
    write_manifest(store.folder, "embeddings", store.identity, facts, manifest["files"])
    assert not is_copied(renamed, facts["dataset_content"], folder)
    assert not renamed.folder.exists()


def test_what_is_made_of_embeddings_follows(project: Project) -> None:
    """Prototypes and heads are of the dataset as it is packed now, without a word from the user."""
    layout, cell = project.layout, project.cell
    cells = [cell, replace(cell, train_type="embed-KD")]
    for one in cells:
        prepare.for_training(one, layout, CPU)
    added(project.images)
    packed = project.packed()
    folders = [layout.head(cell)[0], layout.prototypes(cells[1])[0], layout.sample_embeddings(cells[1]).folder]
    assert not any(is_current(folder, packed.spec, layout.dataset(packed.spec)) for folder in folders)
    for one in cells:
        prepare.for_training(one, layout, CPU)
    for folder in folders:
        assert read_manifest(folder)["facts"]["dataset_content"] == packed.content


def test_a_dataset_that_an_older_version_packed_has_digests_too(project: Project, tmp_path: Path) -> None:
    dataset = project.packed()
    expected = {split: dataset.digests(split) for split in ("train", "test")}
    older = Path(shutil.copytree(dataset.artifact.path, tmp_path / "older"))
    manifest = read_manifest(older)
    files = {name: entry for name, entry in manifest["files"].items() if not name.endswith("-digests.npy")}
    write_manifest(older, "dataset", manifest["identity"], manifest["facts"], files)
    opened = Dataset(dataset.spec, open_artifact(older, "dataset"))
    for split, digests in expected.items():
        assert digests.shape == (len(opened.labels(split)), 16)
        assert (opened.digests(split) == digests).all()


def test_a_training_whose_dataset_is_packed_again_says_to_start_it_again(project, tmp_path):
    """Not to restore a file, which is what it says of one that was damaged."""
    cell = replace(project.cell, teacher="none", train_type="supervised")
    prepare.for_training(cell, project.layout, CPU)
    job = open_job(cell, Hyperparameters(), project.layout, CPU)
    place = project.layout.dataset(cell.dataset_spec)
    job.refuse_changed_inputs()
    added(project.images)
    project.packed()
    with pytest.raises(DataError, match=f"{place} was made again: run the command again, to train on what"):
        job.refuse_changed_inputs()
    job = open_job(cell, Hyperparameters(), project.layout, CPU)
    path = place / "train-labels.npy"
    path.write_bytes(path.read_bytes()[:-1] + b"\x07")
    with pytest.raises(DataError, match=f"Restore the file, or delete {place} to regenerate it"):
        job.refuse_changed_inputs()


def test_packing_says_whether_the_dataset_is_another_now(project, capfd):
    command = ["download", "photos", "--dataset-source", project.source, "--data", str(project.layout.data)]

    def said(*more: str) -> str:
        assert main([*command, *more]) == 0
        return capfd.readouterr().err

    assert "was packed" not in said()
    assert "its source is not read again. To do so, add --overwrite" in said()
    assert "was packed again; its images and labels are as they were" in said("--overwrite")
    added(project.images)
    assert "was packed again, and is another dataset now" in said("--overwrite")


def test_parts_of_an_extraction_that_was_killed_are_taken_over_when_images_are_added_meanwhile(
    project: Project, tmp_path: Path, monkeypatch, capfd
) -> None:
    monkeypatch.setattr(parts, "VIEWS", 8)
    teacher, dataset = project.teacher(), project.packed()
    store = project.layout.full_embeddings(project.cell)
    extract(store, dataset, teacher, 8, (1, 2))  # 3 of the 5 parts of 4 training images each
    done = teacher.forward_passes
    assert 0 < done < 2 * 20 + 4
    expected = added(project.images)
    store, passes = project.extracted()
    assert passes == (2 * 20 + 4 - done) + expected
    assert f"{done // 2} of 26 images were embedded before" in capfd.readouterr().err
    facts = read_manifest(store.folder)["facts"]
    assert facts["forward_passes"] == 2 * 21 + 5, "what all vectors have cost"
    assert facts["taken_over"] == done // 2
    check_as_from_nothing(project, store, tmp_path)


def moved(images: Path) -> None:
    """One of the five is held out for validation at most."""
    for path in (images / "train" / "a").glob("0*.png"):
        path.rename(images / "val" / "a" / f"moved-{path.name}")


def of_another_class(images: Path) -> None:
    for number in range(4):
        save_image(images / "train" / "c" / f"{number}.png")
    save_image(images / "val" / "c" / "0.png")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (added, r"was trained on photos as it was before: \d of 19 labelled training images are new to it"),
        (removed, r"was trained on photos as it was before: \d of 17 labelled training images are new to it"),
        (moved, "was trained on [45] of the test images that photos has now; delete .* to train it again"),
        (of_another_class, "was trained on photos when it had other classes; delete .* to train it again"),
    ],
)
def test_a_teacher_trained_here_is_used_further_unless_it_saw_test_images(change, said, project, capfd):
    data = ["--data", str(project.layout.data), "--device", "cpu"]
    images = ["photos", "--dataset-source", project.source]
    extracting = ["extract", "--dataset", *images, "--views", "full", *data]
    extracting += ["--teacher-model", "trained:test_resnet@32?epochs=1"]
    assert main(extracting) == 0
    (path,) = project.layout.data.glob("teachers/*/*/model.safetensors")
    weights = path.read_bytes()
    change(project.images)
    assert main(["download", *images, "--overwrite", *data[:2]]) == 0
    told = capfd.readouterr().err
    assert "used further unless one of those is a test image now" in told
    code, told = main(extracting), capfd.readouterr().err
    assert re.search(said, told), told
    assert path.read_bytes() == weights
    assert code == (3 if "delete .* to train" in said else 0)
    if code:
        shutil.rmtree(path.parent)
        assert main(extracting) == 0
        assert path.read_bytes() != weights
    else:
        assert "were embedded before" in told
        assert "to train it again, delete" in told.lower()
        data_of = fingerprint(datasets.get("photos", project.source).identity())
        cell = replace(project.cell, teacher=f"trained:test_resnet@32?on=photos&data={data_of}&epochs=1")
        results = SimpleNamespace(teachers=SimpleNamespace(layout=project.layout))
        (note,) = earlier_notes(results, [cell], {cell.teacher: "cnn"})
        assert re.match(f"cnn {said}.*; its own test accuracy is that of then", note)
