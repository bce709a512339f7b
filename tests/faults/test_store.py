"""Rows M01 to M04, V01 and parts of X03 and R02: what is stored, under every flip, cut, kill, race and full disk."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from clipkd.core import artifacts, files, verified
from clipkd.core.artifacts import MANIFEST, building, open_artifact, read_manifest, write_manifest
from clipkd.core.errors import DataError
from clipkd.core.files import write_json
from clipkd.core.fingerprint import fingerprint
from clipkd.data.dataset import open_dataset
from clipkd.embeddings import parts, prepare
from clipkd.embeddings.extract import extract
from clipkd.embeddings.prototypes import write_prototypes
from clipkd.embeddings.teacher import Teacher, load
from clipkd.embeddings.vectors import Vectors
from clipkd.plugins import datasets, recipes, students, teachers
from clipkd.runs import verification
from clipkd.runs.folder import RunFolder, environment
from clipkd.runs.job import open_job, open_teacher_targets
from clipkd.runs.record import METRICS, RunRecord
from clipkd.runs.unfinished import Checkpoints
from clipkd.runs.verification import verify
from clipkd.spec import cells, refusals
from clipkd.spec.identities import keys
from clipkd.spec.layout import Layout
from clipkd.spec.settings import Hyperparameters
from clipkd.spec.views import Sample, embeddings_identity, full_views, prototypes_identity
from tests.faults.checks import amount, fault, nothing, replaced
from tests.faults.processes import (
    FAULTS,
    REFUSED,
    Disk,
    count_calls,
    forked,
    no_file_beyond,
    outcome,
    striking,
    waited,
)
from tests.faults.test_image_folders import folder_of_images
from tests.synthetic import cost_of, metrics_of

CPU = torch.device("cpu")
IDENTITY = {"made": "for a test", "numbers": [1, 2]}


@pytest.fixture(autouse=True)
def memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A memory of this test's own, and one that need not wait for files to grow old."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(verified, "RACY_SECONDS", 0.0)
    monkeypatch.setattr(verified, "SMALL_BYTES", 0)


def state() -> dict[str, Any]:
    return {"w": torch.arange(2000.0), "step": 7}


def checkpoint(folder: Path) -> None:
    Checkpoints(folder, IDENTITY).save(7, state())


CELL = cells.Cell("corrected", "digits", "tiny-32", "none", "supervised", 0, epochs=1)


def run(folder: Path, cell: cells.Cell = CELL) -> None:
    """Write a complete run of little."""
    epoch = {"epoch": 1, "learning_rate": 1e-3, "train": {"loss": 0.5}, "split": "validation"}
    record = RunRecord.model_validate(
        {
            "metrics": metrics_of(cell, 0.8, identity := IDENTITY | {"cell": keys(cell)}),
            "cost": cost_of(cell),
            "history": [epoch | {"val": {"loss": 0.5, "top1": 0.8, "top5": 1.0}}],
        }
    )
    made = RunFolder(folder)
    made.start(identity)
    correct = dict.fromkeys(("last", "selected"), np.arange(200) % 5 > 0)
    made.finish({"w": torch.arange(500.0)}, record, {}, {"a": 1}, [environment(CPU)], correct)


@pytest.fixture(scope="module")
def made(vit_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One real artefact of every class."""
    data = tmp_path_factory.mktemp("store") / "data"
    root = folder_of_images(data.parent / "images", {"train": ["a", "b"], "val": ["a", "b"]})
    layout = Layout(data, sample=Sample(1))
    for train_type in ("vanilla", "embed-KD"):
        cell = cells.Cell("corrected", "mine", "tiny-32", str(vit_folder), train_type, 0, source=str(root))
        prepare.for_training(refusals.checked(cell), layout, CPU, 256)
    run(data / "run")
    checkpoint(data / "resume")
    return data


def kinds(data: Path) -> dict[str, Path]:
    """Return one artefact of each class."""
    return {read_manifest(path.parent)["kind"]: path.parent for path in sorted(data.rglob("manifest.json"))}


def opened(folder: Path, kind: str) -> dict[str, bytes]:
    """Open an artefact as whoever uses it does, and read all of it."""
    artifact = open_artifact(folder, kind)
    return {name: artifact.file(name).read_bytes() for name in artifact.manifest["files"]}


@fault(
    "M01",
    "T01",
    "R05",
    "S05",
    "V01",
    "G03",
    **{"the-hashes": replaced("clipkd.core.artifacts.check_files", lambda *_: {})},
)
def test_every_flip_and_truncation_is_found_before_use(made: Path, tmp_path: Path, record_property: Any) -> None:
    data = Path(shutil.copytree(made, tmp_path / "data"))
    draw, flips, cuts = random.Random(0), amount(20, 1000), amount(6, 200)
    found = kinds(data)
    assert set(found) >= {"dataset", "teacher", "embeddings", "prototypes", "head", "run", "checkpoint"}
    for kind, folder in found.items():
        opened(folder, kind)
        names = [*sorted(read_manifest(folder)["files"]), "manifest.json"]
        for number in range(flips + cuts):
            path = folder / names[number % len(names)]
            whole, before = path.read_bytes(), path.stat()
            damaged = bytearray(whole)
            if number < flips:
                damaged[draw.randrange(len(whole))] ^= 1 << draw.randrange(8)
            else:
                del damaged[draw.randrange(len(whole)) :]
            path.write_bytes(damaged)
            os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))  # the time tells nothing
            with pytest.raises(DataError, match=folder.name):
                opened(folder, kind)
            path.write_bytes(whole)
        opened(folder, kind)
        record_property(f"{kind}: flips, truncations", f"{flips}, {cuts}")


@fault("V01", "S08", **{"the-hashes": replaced("clipkd.runs.verification.check_file", nothing)})
def test_verify_names_what_was_edited_with_its_time_kept(made: Path, tmp_path: Path) -> None:
    data = Path(shutil.copytree(made, tmp_path / "data"))
    assert verify([data]).damaged == []
    path = data / "run" / "metrics.json"
    before = path.stat()
    path.write_text(path.read_text().replace("1", "2"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert [str(path) in problem for problem in verify([data]).damaged] == [True]


def linked(data: Path, aside: Path) -> str:
    """The folder lies elsewhere, as on clusters, and is damaged there; a link leads back."""
    (data / "embeddings").rename(aside)
    (data / "embeddings").symlink_to(aside)
    (aside / "back").symlink_to(aside)
    path = next(aside.rglob("*.npy"))
    path.write_bytes(path.read_bytes()[:-1])
    return path.name


def without_manifest(data: Path, aside: Path) -> str:
    (store(data) / MANIFEST).unlink()
    return f"no {MANIFEST}"


def under_another_name(data: Path, aside: Path) -> str:
    store(data).rename(store(data).with_name("0123456789abcdef"))
    return "moved or renamed"


def store(data: Path) -> Path:
    return next(path.parent for path in (data / "embeddings").rglob(MANIFEST) if len(path.parent.name) == 16)


def links_are_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    def walk(folder: Path, findings: verification.Findings, seen: set, *, is_artefact: bool = False) -> Iterator[Path]:
        for name, _, inside in os.walk(folder):
            if MANIFEST in inside:
                yield Path(name)

    monkeypatch.setattr(verification, "walk", walk)


@pytest.mark.parametrize("damage", [linked, without_manifest, under_another_name])
def test_verify_sees(damage: Callable[[Path, Path], str], made: Path, tmp_path: Path) -> None:
    data = Path(shutil.copytree(made, tmp_path / "data"))
    assert verify([data]).damaged == []
    said = damage(data, tmp_path / "aside")
    assert [said in problem for problem in verify([data]).damaged] == [True]


@fault("V03", **{"links passed over": links_are_passed_over})
def test_verify_looks_behind_links(made: Path, tmp_path: Path) -> None:
    test_verify_sees(linked, made, tmp_path)


@fault("V03", **{"names ignored": replaced("clipkd.runs.verification.misplaced", nothing)})
def test_verify_compares_names(made: Path, tmp_path: Path) -> None:
    test_verify_sees(under_another_name, made, tmp_path)


@pytest.mark.parametrize("cell", [CELL, replace(CELL, student="timm:resnet18", labels=40)])
@pytest.mark.parametrize("axis", range(6))
def test_verify_names_a_run_that_lies_in_the_place_of_another(axis: int, cell: cells.Cell, tmp_path: Path) -> None:
    runs = tmp_path / "results" / "runs"
    run(runs / cell.folder, cell)
    assert verify([tmp_path]).damaged == []
    other = ["corrected-4", "cifar10", "base-32", "laion", "supervised-x", "seed1"]
    named = cell.folder.split("/")
    named[axis] = other[axis]
    elsewhere = runs.joinpath(*named)
    elsewhere.parent.mkdir(parents=True, exist_ok=True)
    (runs / cell.folder).rename(elsewhere)
    # Where a teacher lies says nothing about which it is: that place is not compared.
    assert [f"holds the run {cell.recipe}/" in one for one in verify([tmp_path]).damaged] == [True] * (axis != 3)


@fault("M08", **{"no lock": replaced("clipkd.embeddings.parts.acquire", lambda folder: contextlib.nullcontext())})
def test_no_part_is_made_by_two_extractions_at_once(vit_folder: Path, tmp_path: Path) -> None:
    """The other process makes all other parts, waits for the first, and does not make that one when it is there."""
    cell = cells.Cell("corrected", "digits", "tiny-32", str(vit_folder), "vanilla", 0)
    store = Layout(tmp_path / "data").full_embeddings(cell)
    planned = [parts.Part("train", start, start + 2) for start in (0, 2, 4)]

    def make(mine: Iterable[parts.Part]) -> None:
        for part in mine:
            (tmp_path / f"{os.getpid()}-{part.start}").touch()
            vectors, keys = np.zeros((2, 1, 4), dtype=np.float32), np.zeros((2, 16), dtype=np.uint8)
            parts.save(store, part, "content", vectors, keys, {})

    def after_the_first() -> None:
        while not (tmp_path / "begun").exists():
            time.sleep(0.02)
        make(parts.taken(store, planned, "content"))

    child = forked(after_the_first)  # before the lock is taken: a child would inherit it
    mine = parts.taken(store, planned[:1], "content")
    first = next(mine)
    (tmp_path / "begun").touch()
    end = time.monotonic() + 60
    while len(list(tmp_path.glob(f"{child}-*"))) < 2 and time.monotonic() < end:
        time.sleep(0.02)
    make([first])
    assert list(mine) == []
    assert waited(child) == 0
    assert {path.name for path in tmp_path.glob("*-*")} == {f"{os.getpid()}-0", f"{child}-2", f"{child}-4"}


def vanilla(vit_folder: Path, made: Path) -> cells.Cell:
    """The cell whose store and head `made` has."""
    return refusals.checked(
        cells.Cell("corrected", "mine", "tiny-32", str(vit_folder), "vanilla", 0, source=str(made.parent / "images"))
    )


def trained_again(folder: Path) -> None:
    """Give a teacher other weights under the same identity, as another training of it does."""
    manifest, path = read_manifest(folder), folder / "model.safetensors"
    weights = load_file(path)
    name = next(iter(weights))
    save_file({**weights, name: weights[name] + 0.5}, path)
    files = manifest["files"] | {path.name: artifacts.entry_of(path)}
    write_manifest(folder, "teacher", manifest["identity"], manifest["facts"], files)


@fault("M09", **{"weights in parts": replaced("clipkd.embeddings.parts.refuse_other_weights", nothing)})
def test_parts_of_other_weights_are_not_joined(made: Path, vit_folder: Path, tmp_path: Path) -> None:
    data = Path(shutil.copytree(made, tmp_path / "data"))
    layout, cell = Layout(data, sample=Sample(1)), vanilla(vit_folder, made)
    spec, store = teachers.get(str(vit_folder)), layout.full_embeddings(cell)
    shutil.rmtree(store.folder)
    dataset = open_dataset(cell.dataset_spec, layout.dataset(cell.dataset_spec))
    assert extract(store, dataset, load(spec, layout.teacher(spec), CPU), 64, (1, 2)) is None
    trained_again(layout.teacher(spec))
    other = load(spec, layout.teacher(spec), CPU)
    for shard in ((2, 2), (1, 1)):
        with pytest.raises(DataError, match=r"1 of 2 parts were made with other weights"):
            extract(store, dataset, other, 64, shard)
    shutil.rmtree(parts.folder_of(store))
    joined = extract(store, dataset, other, 64)
    assert joined is not None
    assert joined.facts["weights_sha256"] == read_manifest(layout.teacher(spec))["files"]["model.safetensors"]["sha256"]


@fault("M09", **{"weights in stores": replaced("clipkd.embeddings.prepare.refuse_other_weights", nothing)})
def test_a_store_of_a_teacher_that_was_trained_again_teaches_nobody(
    made: Path, vit_folder: Path, tmp_path: Path
) -> None:
    data = Path(shutil.copytree(made, tmp_path / "data"))
    layout, cell = Layout(data, sample=Sample(1)), vanilla(vit_folder, made)
    prepare.for_training(cell, layout, CPU, 256)
    trained_again(layout.teacher(teachers.get(str(vit_folder))))
    store = layout.full_embeddings(cell)
    for stale, source in ((store.folder, layout.teacher(store.teacher)), (store.head()[0], store.folder)):
        with pytest.raises(DataError, match=f"{stale.name}/.*other weights.*{source.name}/"):
            prepare.for_training(cell, layout, CPU, 256)
        shutil.rmtree(stale)
    prepare.for_training(cell, layout, CPU, 256)


@fault(
    "M10",
    **{
        "the lengths, when made": replaced("clipkd.embeddings.prototypes.without_direction", nothing),
        "the lengths, when read": replaced("clipkd.runs.job.without_direction", nothing),
    },
)
def test_prototypes_without_a_direction_are_refused(made: Path, vit_folder: Path, tmp_path: Path) -> None:
    """Of class 1 alone, so that a look at the first one would not do."""
    data = Path(shutil.copytree(made, tmp_path / "data"))
    cell = replace(vanilla(vit_folder, made), train_type="embed-KD")
    sample = Layout(data, sample=Sample(1)).sample_embeddings(cell)
    artifact = open_artifact(sample.folder, "embeddings", sample.identity)
    labels, vectors = artifact.array("sample-labels"), Vectors(artifact, "sample")[:].copy()
    vectors[labels == 1] = 0
    folder = sample.folder
    (folder / "sample-grid.npy").unlink()
    np.save(folder / "sample.npy", vectors)
    files = {path.name: artifacts.entry_of(path) for path in folder.glob("*.npy")}
    write_manifest(folder, "embeddings", artifact.identity, artifact.facts, files)
    for form in ("mean", "unit-mean"):
        with np.errstate(invalid="ignore"), pytest.raises(DataError, match=r"class 1 .*zero or not finite"):
            write_prototypes(sample, form)
    layout = Layout(data, sample=Sample(1))
    place, identity = layout.prototypes(cell)
    stored = open_artifact(place, "prototypes", identity)
    zero = stored.array("prototypes").copy()
    zero[1] = 0
    np.save(place / "prototypes.npy", zero)
    files = {"prototypes.npy": artifacts.entry_of(place / "prototypes.npy")}
    write_manifest(place, "prototypes", identity, stored.facts, files)
    job = open_job(cell, Hyperparameters(batch_size=2), layout, CPU)
    with pytest.raises(DataError, match=r"class 1 .*zero or not finite"):
        open_teacher_targets(job)


@fault("M10", **{"the manifest": lambda monkeypatch: monkeypatch.setattr(artifacts.Artifact, "array", numbers_alone)})
@pytest.mark.parametrize("wrong", [{"dtype": "float64"}, {"shape": [2000]}])
def test_an_array_is_what_its_manifest_describes(wrong: dict[str, Any], tmp_path: Path) -> None:
    with building(tmp_path / "a", "embeddings", IDENTITY) as draft:
        np.save(draft.path / "train.npy", np.zeros((20, 100), dtype=np.float32))
    assert open_artifact(tmp_path / "a", "embeddings").array("train").shape == (20, 100)
    manifest = read_manifest(tmp_path / "a")
    manifest["files"]["train.npy"] |= wrong
    write_manifest(tmp_path / "a", "embeddings", IDENTITY, {}, manifest["files"])
    with pytest.raises(DataError, match=f"train.npy is not what manifest.json describes .{next(iter(wrong))} "):
        open_artifact(tmp_path / "a", "embeddings").array("train")


def numbers_alone(self: artifacts.Artifact, name: str) -> np.ndarray:
    return np.load(self.file(f"{name}.npy"), mmap_mode="r")


@fault(
    "M11",
    **{
        "the expiry": replaced("clipkd.core.verified.MAX_AGE_DAYS", 10**6),
        "small files hashed": replaced("clipkd.core.verified.Memory.holds", lambda self, path, sha256: True),
    },
)
def test_bytes_that_change_without_a_trace_are_found(tmp_path: Path) -> None:
    """As a failing disk changes them: size, times and inode stay. Small files at once, large ones when it is time."""
    with building(tmp_path / "a", "part", IDENTITY) as draft:
        np.save(draft.path / "small.npy", np.zeros(10))
        np.save(draft.path / "large.npy", np.zeros(10_000))
    patch = pytest.MonkeyPatch()
    patch.setattr(verified, "SMALL_BYTES", 1000)
    for module in (artifacts, verified):
        patch.setattr(module, "stamp", lambda path: [path.stat().st_size, 0, 0, 0, 0])
    try:
        for name, days in (("large", 31), ("small", 0)):
            path = tmp_path / "a" / f"{name}.npy"
            open_artifact(tmp_path / "a", "part")
            content = path.read_bytes()
            path.write_bytes(content[:-1] + b"\1")
            if days:
                open_artifact(tmp_path / "a", "part")  # remembered
                later = time.time() + days * 86400
                patch.setattr(verified.time, "time", lambda later=later: later)
            with pytest.raises(DataError, match=f"{name}.npy is damaged"):
                open_artifact(tmp_path / "a", "part")
            path.write_bytes(content)
    finally:
        patch.undo()


def variants() -> dict[str, str]:
    """Return the fingerprint of embeddings for a change of one input each."""
    dataset, teacher = datasets.get("cifar10"), teachers.get("vit-b16-in21k")
    recipe, student = recipes.get("corrected"), students.get("base-32")

    def of(dataset: Any = dataset, teacher: Any = teacher, recipe: Any = recipe, dtype: str = "int16") -> str:
        views = full_views(recipe, dataset, student, teacher)
        return fingerprint(embeddings_identity(dataset, teacher, views, dtype))

    views = full_views(recipe, dataset, student, teacher)
    changes = {"resize": "image", "source_size": 48, "image_size": 384, "mean": (0, 0, 0), "std": (1, 1, 1)}
    changes |= {"flips": not views.flips, "sample": Sample(7), "crop": True, "replays": 3, "augment": "full"}
    found = {
        "as it is": of(),
        "revision": of(teacher=replace(teacher, revision="f" * 40)),
        "model": of(teacher=replace(teacher, hub_id="other/model")),
        "dataset": of(dataset=datasets.get("cifar100")),
        "archive": of(dataset=replace(dataset, md5="0" * 32)),
        "share held out": of(dataset=replace(dataset, validation_fraction=0.2)),
        "recipe": of(recipe=recipes.get("reference")),
        "float16": of(dtype="float16"),
        "float32": of(dtype="float32"),
    }
    for name, value in changes.items():
        changed = embeddings_identity(dataset, teacher, replace(views, **{name: value}), "int16")
        found[f"views: {name}"] = fingerprint(changed)
    for per_class, seed in ((50, 0), (100, 1)):
        changed = embeddings_identity(dataset, teacher, replace(views, sample=Sample(per_class, seed)), "int16")
        found[f"sample {per_class}, {seed}"] = fingerprint(changed)
        found[f"form of sample {per_class}, {seed}"] = fingerprint(prototypes_identity(changed, "unit-mean"))
    return found


@fault(
    "M02",
    **{
        "the-whole-identity": lambda monkeypatch: monkeypatch.setattr(
            "clipkd.spec.views.ViewSet.identity", lambda self: {"resize": self.resize}
        )
    },
)
def test_another_input_is_another_entry(record_property: Any) -> None:
    found = variants()
    assert len(set(found.values())) == len(found), found
    record_property("inputs changed", len(found) - 1)


@fault(
    "M02",
    **{"the-fingerprint": lambda monkeypatch: monkeypatch.setattr(artifacts, "fingerprint", lambda identity: "0")},
)
def test_another_origin_is_named_field_by_field(tmp_path: Path) -> None:
    artefact(tmp_path / "x")
    with pytest.raises(DataError, match=r"numbers: found \[1, 2\], wanted \[1, 3\]"):
        open_artifact(tmp_path / "x", "toy", IDENTITY | {"numbers": [1, 3]})


def artefact(folder: Path) -> None:
    """Build an artefact of two arrays."""
    with building(folder, "toy", IDENTITY) as draft:
        np.save(draft.path / "first.npy", np.arange(20_000))
        np.save(draft.path / "second.npy", np.arange(7.0))
        draft.facts["rows"] = 7


def whole_or_absent(folder: Path) -> bool:
    """Return whether the artefact is there; fail where it is there and not whole."""
    if not (folder / "manifest.json").exists():
        assert not folder.exists() or list(folder.iterdir()) == []
        return False
    try:
        found = open_artifact(folder, "toy", IDENTITY)
    except DataError as error:
        pytest.fail(f"half an artefact is there: {error}")
    assert np.array_equal(found.array("first"), np.arange(20_000))
    return True


def renamed(aside: Path, folder: Path, *_: Any) -> None:
    """The mutant: whoever comes second fails."""
    os.rename(aside, folder)


@pytest.mark.slow
@fault(
    "M03",
    **{"taking-turns": replaced("clipkd.core.artifacts.put_in_place", renamed)},
)
def test_eight_writers_of_one_store(tmp_path: Path, record_property: Any) -> None:
    """Where nothing is yet, and, every other time, over one that is damaged."""
    rounds = amount(4, 50)
    for number in range(rounds):
        folder = tmp_path / str(number)
        if number % 2:
            artefact(folder)
            (folder / "first.npy").write_bytes(b"damaged")
        children = [forked(lambda folder=folder: artefact(folder)) for _ in range(8)]  # type: ignore[misc]
        assert [waited(child) for child in children] == [0] * 8
        assert whole_or_absent(folder)
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "cache") == sorted(map(str, range(rounds)))
    record_property("races of 8 processes", rounds)


def in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mutant: write where the artefact is to lie."""

    @contextlib.contextmanager
    def building_in_place(folder: Path, kind: str, identity: Any) -> Any:
        folder.mkdir(parents=True, exist_ok=True)
        draft = artifacts.Draft(folder)
        yield draft
        artifacts.seal(draft, kind, identity)

    monkeypatch.setitem(globals(), "building", building_in_place)


def in_place_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mutant: write files where they lie, as most programs do."""
    import contextlib

    @contextlib.contextmanager
    def plainly(path: Path) -> Any:
        path.parent.mkdir(parents=True, exist_ok=True)
        open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), "w").close()
        yield path

    for module in ("clipkd.core.files", "clipkd.runs.folder"):
        monkeypatch.setattr(f"{module}.written_aside", plainly)
    in_place(monkeypatch)
    save = Checkpoints.save

    def over_the_old_one(self: Checkpoints, step: int, state: dict[str, Any]) -> None:
        self.clear()
        save(self, step, state)

    monkeypatch.setattr(Checkpoints, "save", over_the_old_one)
    empty = RunFolder.empty

    def but_for_the_student(self: RunFolder) -> None:
        """An earlier run's student has its name, and lies there already."""
        student = self.checkpoint.read_bytes() if self.checkpoint.exists() else None
        empty(self)
        if student is not None:
            self.checkpoint.write_bytes(student)

    monkeypatch.setattr(RunFolder, "empty", but_for_the_student)


def check_store(folder: Path) -> None:
    whole_or_absent(folder / "x")


def check_run(folder: Path) -> None:
    """A result is there only where all of it is."""
    if (folder / "x" / METRICS).exists():
        try:
            open_artifact(folder / "x", "run", IDENTITY | {"cell": keys(CELL)})
        except DataError as error:
            pytest.fail(f"half a result counts as one: {error}")


def check_checkpoint(folder: Path) -> None:
    """The checkpoint before is usable, or the new one is."""
    found = Checkpoints(folder / "x", IDENTITY).newest()
    assert found is not None
    assert found["step"] in {6, 7}


def check_json(folder: Path) -> None:
    assert files.read_json(folder / "x") in ({"old": 1}, {"new": list(range(300))})


def two_checkpoints(folder: Path) -> None:
    Checkpoints(folder / "x", IDENTITY).save(6, state() | {"step": 6})


WRITERS = {
    "store": (lambda folder: artefact(folder / "x"), nothing, check_store),
    "result": (lambda folder: run(folder / "x"), nothing, check_run),
    "checkpoint": (lambda folder: checkpoint(folder / "x"), two_checkpoints, check_checkpoint),
    "table or manifest": (
        lambda folder: write_json(folder / "x", {"new": list(range(300))}),
        lambda folder: write_json(folder / "x", {"old": 1}),
        check_json,
    ),
}
"""What is written -> how, what is there before, and what must hold after."""


@pytest.mark.slow
@pytest.mark.parametrize(
    "what",
    ["store", "table or manifest", *(pytest.param(one, marks=pytest.mark.long) for one in ("result", "checkpoint"))],
)
@fault("R02", "R06", "M03", **{"writing-aside": in_place_file})
def test_every_call_fails_once(what: str, tmp_path: Path, record_property: Any) -> None:
    """ENOSPC, EIO and SIGKILL at each call that changes the disk, and a disk that is full at byte k."""
    write, prepare, check = WRITERS[what]

    def fresh() -> Path:
        folder = tmp_path / "work"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        prepare(folder)
        return folder

    calls = count_calls(lambda: write(fresh()))
    assert calls >= 4
    # Where few are tried, they are drawn so that each control is hit: else it stays green, and fails.
    few = sorted(random.Random(21).sample(range(1, calls + 1), min(calls, 5)))
    steps = range(1, calls + 1) if amount(0, 1) else few
    struck = 0
    for at in steps:
        for found in FAULTS:
            folder = fresh()
            code = outcome(lambda folder=folder: write(folder), striking(at, found.strike))  # type: ignore[misc]
            assert code in {0, REFUSED, -signal.SIGKILL}, (at, found.name, code)
            check(folder)
            write(folder)
            check(folder)
            struck += 1
    for size in (0, 1, 100, *range(1000, 9000, amount(4000, 250))):
        folder = fresh()
        assert outcome(lambda folder=folder: write(folder), no_file_beyond(size)) in {0, REFUSED}, size  # type: ignore[misc]
        check(folder)
        write(folder)
        check(folder)
        struck += 1
    record_property(f"{what}: struck calls", struck)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


def flushed_only(is_meant: Callable[[Path], bool]) -> Callable[[pytest.MonkeyPatch], None]:
    """Return the mutant that flushes only some of what is written."""
    real = files.sync

    def mutate(monkeypatch: pytest.MonkeyPatch) -> None:
        for module in (files, artifacts):
            monkeypatch.setattr(module, "sync", lambda path: real(path) if is_meant(path) else None)

    return mutate


@pytest.mark.parametrize("what", list(WRITERS))
@fault("M03", **{"files-flushed": flushed_only(Path.is_dir), "folders-flushed": flushed_only(Path.is_file)})
def test_nothing_takes_its_place_before_it_is_on_the_disk(what: str, disk: Disk, tmp_path: Path) -> None:
    """A kill loses nothing of what was written; a power failure loses what was not flushed."""
    WRITERS[what][0](tmp_path)
    assert disk.renamed
    assert disk.too_early == []
    assert disk.open_folders == set()


def can_unshare() -> bool:
    return (
        shutil.which("unshare") is not None and not subprocess.run(["unshare", "-Urm", "true"], check=False).returncode
    )


@pytest.mark.skipif(not can_unshare(), reason="this kernel lets nobody unshare")
def test_m03_reading_needs_no_write(made: Path, tmp_path: Path) -> None:
    """Data and home are mounted read-only; every byte is read and checked. The control: writing fails there."""
    code = (
        "import sys; from pathlib import Path; from clipkd.core.artifacts import open_artifact, read_manifest\n"
        "for path in Path(sys.argv[1]).rglob('manifest.json'):\n"
        "    open_artifact(path.parent, read_manifest(path.parent)['kind'])\n"
        "try:\n    Path(sys.argv[1], 'x').write_text('x')\n"
        "except OSError as error:\n    print(error.errno)\n"
    )
    script = f'mount --bind {made} {made} && mount -o remount,ro,bind {made} && exec {sys.executable} -c "$0" {made}'
    answer = subprocess.run(
        ["unshare", "-Urm", "sh", "-c", script, code], capture_output=True, text=True, timeout=60, check=False,
        env=os.environ | {"XDG_CACHE_HOME": f"{made}/cache"},
    )  # fmt: skip
    assert answer.stdout.strip() == "30", answer.stderr  # EROFS


@fault("X03", **{"the-stamps": replaced("clipkd.core.artifacts.Artifact.still", nothing)})
def test_a_file_that_is_swapped_after_its_check_is_not_used(tmp_path: Path) -> None:
    artefact(tmp_path / "x")
    found = open_artifact(tmp_path / "x", "toy", IDENTITY)
    np.save(tmp_path / "other.npy", np.arange(20_000)[::-1])
    os.replace(tmp_path / "other.npy", tmp_path / "x" / "first.npy")
    with pytest.raises(DataError, match="changed or replaced after it was checked"):
        found.array("first")


@fault(
    "X03",
    **{
        "our-own-renaming": lambda monkeypatch: monkeypatch.setattr(
            "clipkd.core.artifacts.os.replace", lambda aside, path: Path(path).write_bytes(Path(aside).read_bytes())
        )
    },
)
def test_nothing_is_written_through_a_link(tmp_path: Path) -> None:
    """Output files and folders that are links lead nowhere: the link itself is replaced."""
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (tmp_path / "x.json").symlink_to(victim)
    write_json(tmp_path / "x.json", {"a": 1})
    assert victim.read_text() == "mine"
    outside = tmp_path / "outside"
    outside.mkdir()
    (tmp_path / "store").symlink_to(outside)
    artefact(tmp_path / "store")
    assert list(outside.iterdir()) == []
    assert whole_or_absent(tmp_path / "store")


@fault(
    "X03",
    "M01",
    **{"the-names": replaced("clipkd.core.artifacts.read_manifest", lambda folder: without_checks(folder))},
)
def test_a_manifest_lists_no_file_elsewhere(tmp_path: Path) -> None:
    """Also where whoever wrote it made its checksum fit."""
    secret = tmp_path / "secret"
    secret.write_text("secret")
    for name in ("../secret", str(secret), "a/../../secret"):
        folder = tmp_path / f"x{len(name)}"
        artefact(folder)
        (folder / "a").mkdir()
        artifacts.write_manifest(folder, "toy", IDENTITY, {}, {name: artifacts.entry_of(secret)})
        with pytest.raises(DataError, match="outside of its folder"):
            open_artifact(folder, "toy")


def without_checks(folder: Path) -> dict[str, Any]:
    import json

    return json.loads((folder / "manifest.json").read_text())


def all_finite(found: np.ndarray) -> np.ndarray:
    return np.ones(found.shape, bool)


@fault(
    "M04",
    **{"the-finite-check": replaced("clipkd.embeddings.extract.np.isfinite", all_finite)},
)
def test_an_embedding_that_is_not_finite_is_refused(vit_folder: Path, tmp_path: Path) -> None:
    """A stand-in for a teacher that overflows on one image: nothing is stored."""
    root = folder_of_images(tmp_path / "images", {"train": ["a", "b"], "val": ["a", "b"]})
    layout = Layout(tmp_path / "data", sample=Sample(1))
    cell = cells.Cell("corrected", "mine", "tiny-32", str(vit_folder), "embed-KD", 0, source=str(root))
    patch = pytest.MonkeyPatch()
    patch.setattr(Teacher, "embed", lambda self, inputs: torch.full((len(inputs), self.width), float("nan")))
    try:
        with pytest.raises(DataError, match="gave an embedding that is not finite"):
            prepare.for_training(cell, layout, CPU)
    finally:
        patch.undo()
    assert list((tmp_path / "data/embeddings").rglob("sample.npy")) == []
