"""Trained students as teachers: their embeddings and scores in the store are those that `clipkd.load` gives."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import clipkd as package
from clipkd.core.artifacts import open_artifact, read_manifest, write_manifest
from clipkd.core.errors import DataError, InputError
from clipkd.core.files import sha256
from clipkd.core.fingerprint import fingerprint
from clipkd.data.dataset import Dataset
from clipkd.data.pixels import normalised, planes, unit
from clipkd.data.preprocessing import Preprocessing
from clipkd.embeddings import prepare, student_teacher
from clipkd.embeddings.student_teacher import StudentProcessor
from clipkd.embeddings.vectors import Vectors
from clipkd.export import formats
from clipkd.export.subject import Subject
from clipkd.export.teacher_store import TeacherStore
from clipkd.export.write import export
from clipkd.plugins import teachers
from clipkd.runs.record import SignalContent
from clipkd.spec.identities import run_identity
from clipkd.spec.layout import Embeddings, Layout
from clipkd.spec.refusals import checked
from clipkd.spec.settings import Hyperparameters
from clipkd.tables.consistency import other_weights
from clipkd.tables.informed import saw_all_labels
from clipkd.tables.teachers import trained_before
from tests.use.conftest import CELL, trained

CPU = torch.device("cpu")


def store_of(layout: Layout, teacher: str) -> Embeddings:
    """Return the stored embeddings of a teacher, with class scores."""
    store = layout.full_embeddings(replace(CELL, teacher=teacher, train_type="vanilla"))
    prepare.embeddings(store, layout, None, CPU, 256)
    prepare.head(store, layout, None, CPU)
    return store


@pytest.mark.parametrize("kind", ["run", "safetensors", "hf"])
def test_a_student_in_a_folder_teaches_what_it_says(
    kind: str, run_folder: Path, digits_folder: Path, digits: Dataset, tmp_path: Path
) -> None:
    folder = run_folder
    if kind != "run":
        folder = export(run_folder, formats.get(kind), tmp_path / kind, digits_folder, "mit")
    store = store_of(Layout(digits_folder, dtype="float32"), str(folder))
    student = package.load(run_folder, "cpu")
    images = list(digits.images("test"))
    embeddings = open_artifact(store.folder, "embeddings", store.identity)
    np.testing.assert_allclose(Vectors(embeddings, "test")[:], student.embed(images), atol=1e-5)
    head = open_artifact(store.head()[0], "head", store.head()[1])
    scores = torch.from_numpy(TeacherStore(embeddings, head, None).scores()).softmax(dim=1).numpy()
    np.testing.assert_allclose(scores, student.probabilities(images), atol=1e-5)
    assert head.facts["head"] == "checkpoint"


@pytest.mark.parametrize("kind", ["run", "safetensors"])
def test_a_student_that_saw_the_dataset_as_it_was_before_is_noted(
    kind: str, run_folder: Path, digits_folder: Path, digits: Dataset, tmp_path: Path
) -> None:
    folder = run_folder
    if kind != "run":
        folder = export(run_folder, formats.get(kind), tmp_path / kind, digits_folder, "mit")
    cell, layout = replace(CELL, teacher=str(folder), train_type="vanilla"), Layout(tmp_path)
    packed = Path(shutil.copytree(digits.artifact.path, layout.dataset(digits.spec)))
    assert trained_before(cell, layout) == ""
    manifest = read_manifest(packed)
    facts = manifest["facts"] | {"content": "0" * 64}
    write_manifest(packed, manifest["kind"], manifest["identity"], facts, manifest["files"])
    assert trained_before(cell, layout) == "was trained on digits as it was before, perhaps on what are test images now"


def test_a_student_of_few_labels_tells_none_to_one_that_may_see_others(
    digits_folder: Path, digits: Dataset, tmp_path: Path
) -> None:
    """Wherever its run lies, and exported; such an export is measured by the labels of its run."""
    run = trained(replace(CELL, labels=100, epochs=1), digits_folder, tmp_path / "few")
    exported = export(run, formats.get("safetensors"), tmp_path / "exported", digits_folder, "mit")
    taught = replace(CELL, train_type="vanilla", labels=100)
    for folder in (run, exported):
        checked(replace(taught, teacher=str(folder), seed=0))
        with pytest.raises(InputError, match="with 100 labels of seed 0, and its student may see 100 of seed 1"):
            checked(replace(taught, teacher=str(folder), seed=1))
        spec = teachers.get(str(folder))
        assert not saw_all_labels(spec, "digits", {})
        subject = Subject(package.load(folder, "cpu"), digits, digits_folder)
        assert (len(subject.labelled.training), len(subject.labelled.validation)) == (80, 20)


def test_a_run_of_the_grid_teaches_when_it_is_done_and_stays_the_same(
    run_folder: Path, digits_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(student_teacher, "RUNS", tmp_path / "runs")
    layout, place = Layout(digits_folder), tmp_path / "runs" / CELL.folder
    numbers = Hyperparameters(epochs=CELL.epochs, learning_rate=2e-3)

    def named(learning_rate: float) -> str:
        given = numbers.model_copy(update={"learning_rate": learning_rate})
        return f"run:{CELL.folder}@{fingerprint(run_identity(CELL, given, layout, content=''))}"

    with pytest.raises(InputError, match="is not complete"):
        store_of(layout, named(2e-3))
    shutil.copytree(run_folder, place)
    with pytest.raises(InputError, match="trained with other settings"):
        store_of(layout, named(1e-3))
    spec = teachers.get(named(2e-3))
    prepare.teacher(spec, layout, CPU)
    prepare.teacher(spec, layout, CPU)  # it is there
    manifest = (place / "manifest.json").read_text()
    monkeypatch.setattr(student_teacher, "read_manifest", retrained(place))
    with pytest.raises(DataError, match="was trained again"):
        prepare.teacher(spec, layout, CPU)
    assert (place / "manifest.json").read_text() == manifest


def test_tables_refuse_students_of_an_earlier_training_of_the_run_that_taught_them(run_folder: Path) -> None:
    taught = replace(CELL, teacher=f"run:{CELL.folder}@{'1' * 16}", train_type="vanilla")
    now, teacher = sha256(run_folder / "student.safetensors"), fingerprint(teachers.get(taught.teacher).identity())

    def wrong(weights: str) -> list[DataError]:
        signal = SignalContent(kind="head", fingerprint="f", sha256="s", teacher=teacher, weights_sha256=weights)
        runs = {CELL: (run_folder, ()), taught: (Path("taught"), (signal,))}
        found = {cell: SimpleNamespace(path=path, signal=signals) for cell, (path, signals) in runs.items()}
        return list(other_weights(found, {cell: cell for cell in found}, dict.fromkeys(found, ())))

    assert wrong(now) == []
    (error,) = wrong("0" * 64)
    assert all(name in str(error) for name in (f"{run_folder}/manifest.json", "taught/manifest.json", now[:12]))


def retrained(run: Path):  # type: ignore[no-untyped-def]
    """Return a reader of manifests that sees another student in a run folder."""
    from clipkd.core.artifacts import read_manifest

    def read(folder: Path) -> dict:
        found = read_manifest(folder)
        if folder == run:
            found["files"]["student.safetensors"]["sha256"] = "0" * 64
        return found

    return read


def test_a_damaged_or_missing_student_is_no_teacher(run_folder: Path, digits_folder: Path, tmp_path: Path) -> None:
    damaged = shutil.copytree(run_folder, tmp_path / "damaged")
    content = bytearray((damaged / "student.safetensors").read_bytes())
    content[-5] ^= 1
    (damaged / "student.safetensors").write_bytes(content)
    with pytest.raises(DataError, match=r"student\.safetensors"):
        store_of(Layout(digits_folder), str(damaged))
    (damaged / "student.safetensors").unlink()
    with pytest.raises(InputError, match=r"holds no student\.safetensors"):
        teachers.get(str(damaged))
    (tmp_path / "begun/.resume").mkdir(parents=True)
    with pytest.raises(InputError, match="a run that is not complete"):
        teachers.get(str(tmp_path / "begun"))
    with pytest.raises(InputError, match="only what its classifier sees"):
        teachers.get(f"{run_folder}:cls")


@pytest.mark.parametrize("dataset_size", [None, 8, 24])
@pytest.mark.parametrize("shape", [(32, 32), (32, 20), (24, 24), (8, 8)])
def test_images_of_any_size_are_shown_as_the_student_saw_its_own(
    dataset_size: int | None, shape: tuple[int, int]
) -> None:
    steps = Preprocessing(None, dataset_size, 24, (0.4, 0.5, 0.6), (0.2, 0.3, 0.1))
    pixels = np.random.default_rng(0).integers(0, 256, (3, *shape, 3), dtype=np.uint8)
    expected = steps.inputs([steps.read(image) for image in pixels], CPU)
    found = StudentProcessor.of(steps).present(unit(planes(pixels)))
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    assert found.shape[-2:] == (24, 24)
    if dataset_size != 8 or shape == (8, 8):
        return
    whole = [replace(steps, dataset_size=None).read(image) for image in pixels]
    direct = normalised(unit(planes(np.stack(whole))), steps.mean, steps.std)
    assert not torch.equal(found, direct), "the side of the dataset's images counts"
