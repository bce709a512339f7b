"""Embeddings without a model: files of vectors, matched to images by name or row, and stored as they are."""

from __future__ import annotations

import dataclasses
import json
import shutil
import unicodedata
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow
import pytest
import torch
from pyarrow import parquet
from safetensors.numpy import save_file

from clipkd.cli.verbs.check import imported_lines
from clipkd.core.artifacts import open_artifact
from clipkd.core.errors import DataError, InputError
from clipkd.data.batches import Batch
from clipkd.data.dataset import open_dataset, prepare_dataset
from clipkd.embeddings import matching, prepare, vector_files
from clipkd.embeddings.imported import import_embeddings, open_source, order_warnings
from clipkd.embeddings.matching import Match
from clipkd.embeddings.stored import StoredEmbeddings
from clipkd.embeddings.vector_files import VectorFile
from clipkd.embeddings.vectors import Vectors
from clipkd.export.embeddings import export_embeddings
from clipkd.plugins import datasets, teachers
from clipkd.runs.job import open_job, open_teacher_targets
from clipkd.spec.cells import Cell
from clipkd.spec.identities import run_identity
from clipkd.spec.layout import Layout
from clipkd.spec.refusals import checked
from clipkd.spec.settings import Hyperparameters
from clipkd.spec.views import Sample
from clipkd.tables.accuracy import table as accuracy_table
from clipkd.tables.results import Results
from tests.photos import save_photos
from tests.synthetic import demo, write_study
from tests.warm import clipkd

CPU = torch.device("cpu")
WIDTH, TRAIN, TEST = 3, 40, 12


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A packed folder of 40 training and 12 test images of two classes, and its data folder."""
    root = tmp_path_factory.mktemp("photos")
    source = save_photos(root / "images", TRAIN, TEST)
    spec = datasets.get("photos", str(source))
    return prepare_dataset(spec, Layout(root / "data").dataset(spec), str(source)), root / "data", str(source)


@pytest.fixture
def names(photos):
    """What the training images are called, in the order of their rows."""
    return sorted(f"train/{path.parent.name}/{path.name}" for path in Path(photos[2]).glob("train/*/*.png"))


@pytest.fixture
def layout(photos, tmp_path):
    """A data folder of the test's own, with the packed photographs in it."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data/datasets").symlink_to(photos[1] / "datasets")
    return Layout(tmp_path / "data", dtype="float32", sample=Sample(5, 0))


def numbers(count, seed=0):
    return np.random.default_rng(seed).normal(size=(count, WIDTH)).astype(np.float32)


def cell_of(photos, path, train_type="teacher-KD", **changes):
    cell = Cell("corrected", "photos", "tiny-32", f"gpt=embeddings:{path}", train_type, 0, source=photos[2])
    return checked(dataclasses.replace(cell, **changes))


def stored(photos, layout, path, name="train"):
    """Import a file or folder as the store of every image, and return one of its arrays."""
    store = layout.full_embeddings(cell_of(photos, path))
    return Vectors(import_embeddings(store, photos[0]), name)[:]


def as_npy(path, vectors, names):
    np.save(path / "gpt.npy", vectors)
    return path / "gpt.npy"


def as_npz(path, vectors):
    with (path / "gpt.npy").open("wb") as stream:
        np.savez(stream, vectors)
    return path / "gpt.npy"


def as_npy_with_names(path, vectors, names):
    np.save(path / "gpt.npy", vectors.astype(np.float64))
    (path / "gpt.txt").write_text("\n".join(names) + "\n")
    return path / "gpt.npy"


def as_tensor(path, vectors, names):
    save_file({"anything": vectors}, path / "gpt.safetensors")
    return path / "gpt.safetensors"


def as_tensors(path, vectors, names):
    save_file(
        {name.removeprefix("train/"): one for name, one in zip(names, vectors, strict=True)}, path / "a.safetensors"
    )
    return path / "a.safetensors"


def as_table(path, vectors, names):
    columns = {"file_name": [f"/data/photos/{name}" for name in names], "embedding": list(vectors)}
    parquet.write_table(pyarrow.table(columns), path / "gpt.parquet")
    return path / "gpt.parquet"


def as_rows(path, vectors, names):
    rows = [int(name[-8:-4]) // 2 + (TRAIN // 2 if "class-1" in name else 0) for name in names]
    parquet.write_table(pyarrow.table({"row": rows, "vector": list(vectors)}), path / "gpt.parquet")
    return path / "gpt.parquet"


@pytest.mark.parametrize(
    ("write", "by_name"),
    [
        (as_npy, False),
        (as_tensor, False),
        (as_npy_with_names, True),
        (as_tensors, True),
        (as_table, True),
        (as_rows, True),
    ],
)
def test_each_format_gives_each_image_its_own_vector(write, by_name, photos, names, layout, tmp_path):
    """With names the file is in another order; the store is in the order of the images, to the last bit."""
    vectors = numbers(TRAIN)
    order = np.random.default_rng(1).permutation(TRAIN) if by_name else np.arange(TRAIN)
    path = write(tmp_path, vectors[order], [names[row] for row in order])
    np.testing.assert_array_equal(stored(photos, layout, path), vectors[:, None])


def table(folder, **columns):
    parquet.write_table(pyarrow.table(columns), folder / "gpt.parquet")
    return folder / "gpt.parquet"


def test_one_table_may_hold_both_splits_and_more(photos, names, layout, tmp_path, capsys):
    test = [f"val/class-{number % 2}/{number:04d}.png" for number in range(TEST)]
    every = [*names, *test, "train/class-0/other.png", names[0]]
    vectors = numbers(len(every))
    vectors[-1] = vectors[0]
    path = table(tmp_path, path=every, vector=list(vectors))
    rows = [TRAIN + number for number in (*range(0, TEST, 2), *range(1, TEST, 2))]
    np.testing.assert_array_equal(stored(photos, layout, path, "test"), vectors[rows])
    said = capsys.readouterr().err
    assert "40 of 40 training images of photos have a vector (by file name)" in said
    assert "12 of 12 test images" in said
    assert "vectors of none of them: train/class-0/other.png; rows that repeat an earlier one: 1" in said


@pytest.mark.parametrize(
    ("test", "is_whole"),
    [(["val/cat/3.png"], True), (["val/cat/2.png"], False), (["val/4.png"], False)],
)
def test_short_names_are_of_both_splits_unless_one_could_mean_two_images(test, is_whole, tmp_path):
    """What is not taken for the test images is counted as of none."""
    train = ["train/cat/1.png", "train/cat/2.png"]
    path = table(tmp_path, path=["cat/1.png", "cat/2.png", "cat/3.png"], vector=list(numbers(3)))
    file = vector_files.read(path)
    assert matching.is_of_both(file, train, test) == is_whole
    assert list(matching.by_name(file, train, "training images", test if is_whole else ()).rows) == [0, 1]
    said = matching.by_name(file, train, "training images", test if is_whole else ()).report()
    assert ("vectors of none of them: cat/3.png" in said) != is_whole
    if is_whole:
        assert list(matching.by_name(file, test, "test images", train).rows) == [2]


def test_a_short_name_of_both_splits_is_refused_where_the_file_has_test_images(tmp_path):
    """`cat/1.png` may be the training image's vector or the test image's."""
    file = vector_files.read(table(tmp_path, path=["cat/1.png", "cat/2.png", "cat/3.png"], vector=list(numbers(3))))
    with pytest.raises(DataError, match=r"could mean a training or a test image: cat/1\.png; write the path"):
        matching.is_of_both(file, ["train/cat/1.png", "train/cat/2.png"], ["val/cat/1.png", "val/cat/3.png"])


def test_beside_rows_a_column_of_classes_says_what_images_show(photos, layout, tmp_path):
    """As in the tables that `clipkd export-embeddings` writes; of vectors of classes it says what they are of."""
    vectors = numbers(TRAIN)
    columns = {"row": range(TRAIN)[::-1], "class": ["class-0"] * TRAIN, "embedding": list(vectors[::-1])}
    np.testing.assert_array_equal(stored(photos, layout, table(tmp_path, **columns)), vectors[:, None])
    of_classes = table(tmp_path, index=[0, 1], **{"class": ["class-1", "class-0"]}, vector=list(vectors[:2]))
    assert vector_files.read(of_classes, is_of_classes=True).names == ["class-1", "class-0"]


def test_a_mark_of_the_bytes_order_is_no_part_of_a_name(tmp_path):
    np.save(tmp_path / "train.npy", numbers(2))
    (tmp_path / "train.txt").write_text("train/a/1.png\ntrain/a/2.png\n", encoding="utf-8-sig")
    assert vector_files.read(tmp_path / "train.npy").names == ["train/a/1.png", "train/a/2.png"]


def with_value(value, row=7):
    vectors = numbers(TRAIN)
    vectors[row] = value
    return vectors


WRONG = {
    "nan": (lambda to, names: as_npy(to, with_value(np.nan), names), "vectors that are not finite: row 7"),
    "zero": (
        lambda to, names: as_table(to, with_value(0), names),
        "vectors that are zero in every dimension: row 7 .'/data",
    ),
    "too-few-rows": (lambda to, names: as_npy(to, numbers(39), names), "has 39 vectors, there are 40 training images"),
    "too-many-rows": (lambda to, names: as_npy(to, numbers(41), names), "has 41 vectors, there are 40 training images"),
    "missing": (
        lambda to, names: as_table(to, numbers(38), names[:-2]),
        "38 of 40 .* 2 have none: train/class-1/0037.png, train/class-1/0039.png",
    ),
    "unknown": (
        lambda to, names: as_table(to, numbers(1), ["test/a.png"]),
        "no name is one of the training images of photos: .* expected are names like train/class-0/0000.png",
    ),
    "differing": (
        lambda to, names: as_table(to, numbers(41), [*names, names[3]]),
        "vectors of an image that has another one already: row 40",
    ),
    "names-of-other-rows": (
        lambda to, names: as_npy_with_names(to, numbers(TRAIN), names[:-1]),
        "40 vectors, but there are 39 names",
    ),
    "no-vectors": (lambda to, names: table(to, path=names), "no column 'vector' or .*; it has 'path'"),
    "uneven": (
        lambda to, names: table(to, path=names, vector=[[1.0] * (2 + (row == 9)) for row in range(TRAIN)]),
        "row 9 has 3 dimensions, row 0 has 2",
    ),
    "no-rows": (
        lambda to, names: table(
            to, path=pyarrow.array([], "string"), vector=pyarrow.array([], pyarrow.list_(pyarrow.float32()))
        ),
        "expected are vectors, numbers .N, D.",
    ),
    "words": (lambda to, names: table(to, path=names, vector=names), "holds string, not lists of numbers"),
    "three-axes": (lambda to, names: as_npy(to, np.ones((TRAIN, 2, 2)), names), "expected are vectors, numbers .N, D."),
    "npz": (lambda to, names: as_npz(to, numbers(TRAIN)), "is an archive of arrays"),
    "objects": (lambda to, names: as_npy(to, np.array([{}] * 3), names), "damaged, or no array of numbers"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_imported_is_named_and_leaves_nothing(case, photos, names, layout, tmp_path):
    write, said = WRONG[case]
    path = write(tmp_path, names)
    with pytest.raises((DataError, InputError), match=said):
        stored(photos, layout, path)
    assert not list((layout.data / "embeddings").rglob("*.npy"))


def test_a_file_name_that_two_images_have_is_not_guessed(photos, layout, tmp_path):
    """The control: with its folder each is one image."""
    images = tmp_path / "images"
    for split in ("train", "val"):
        for number in (0, 1):
            (images / split / f"c{number}").mkdir(parents=True)
            for name in ("1.png", "2.png"):
                source = Path(photos[2], split, f"class-{number}", f"000{number}.png")
                (images / split / f"c{number}" / name).write_bytes(source.read_bytes())
    spec = datasets.get("twins", str(images))
    dataset = prepare_dataset(spec, layout.data / "twins", str(images))
    for is_clear in (False, True):
        names = [f"c{row // 2}/{row % 2 + 1}.png" if is_clear else f"{row % 2 + 1}.png" for row in range(4)]
        file = table(tmp_path, name=names, vector=list(numbers(4)))
        cell = Cell("corrected", "twins", "tiny-32", f"embeddings:{file}", "teacher-KD", 0, source=str(images))
        store = layout.full_embeddings(cell)
        if is_clear:
            assert Vectors(import_embeddings(store, dataset), "train").shape == (4, 1, WIDTH)
        else:
            with pytest.raises(DataError, match="4 names could mean two images"):
                import_embeddings(store, dataset)


def test_names_match_however_they_are_spelled(tmp_path):
    """Windows' separators, and accents that macOS decomposes."""
    folder = "caf\N{LATIN SMALL LETTER E WITH ACUTE}"
    names = [f"train\\{unicodedata.normalize('NFD', folder)}\\1.png", f"./train/{folder}/2.png"]
    file = vector_files.read(table(tmp_path, name=names, vector=list(numbers(2))))
    assert matching.by_name(file, [f"train/{folder}/2.png", f"train/{folder}/1.png"], "images").rows.tolist() == [1, 0]


def test_another_content_is_another_store_and_another_file_name_is_not(tmp_path):
    np.save(tmp_path / "one.npy", numbers(4))
    first = teachers.get(f"gpt=embeddings:{tmp_path / 'one.npy'}")
    (tmp_path / "one.npy").rename(tmp_path / "two.npy")
    assert teachers.get(f"gpt=embeddings:{tmp_path / 'two.npy'}").identity() == first.identity()
    np.save(tmp_path / "two.npy", numbers(4, seed=1))
    second = teachers.get(f"gpt=embeddings:{tmp_path / 'two.npy'}")
    assert second.identity() != first.identity()
    np.save(tmp_path / "two.npy", numbers(4, seed=2))
    with pytest.raises(DataError, match=r"two.npy has changed"):
        open_source(second)


def test_the_manifest_says_where_vectors_came_from(photos, layout, tmp_path):
    np.save(tmp_path / "gpt.npy", numbers(TRAIN))
    (tmp_path / "gpt.yaml").write_text("model: large-1\ndate: 2026-11-01\n")
    cell = cell_of(photos, tmp_path / "gpt.npy")
    store = layout.full_embeddings(cell)
    facts = import_embeddings(store, photos[0]).facts
    assert facts["imported"]["made"] == {"model": "large-1", "date": "2026-11-01"}
    assert facts["imported"]["files"] == cell.teacher_spec.digests
    assert (facts["hidden_size"], facts["forward_passes"]) == (WIDTH, 0)


def targets(cell, layout, rows, views):
    prepare.for_training(cell, layout, CPU)
    source = open_teacher_targets(open_job(cell, Hyperparameters(epochs=1), layout, CPU))
    rows = torch.tensor(rows)
    return source(Batch(rows, torch.tensor(views), rows, rows))


def test_one_vector_for_every_crop_is_named(photos, layout, tmp_path):
    vectors = numbers(TRAIN)
    cell = cell_of(photos, as_npy(tmp_path, vectors, None))
    assert cell.folder.endswith("/gpt/teacher-KD-one-view/seed0")
    identity = run_identity(cell, Hyperparameters(epochs=1), layout, "content")
    assert identity["views"] == {"one_vector_for_every_view": True}
    assert cell_of(photos, tmp_path / "gpt.npy", "embed-KD").folder.endswith("/embed-KD/seed0")
    # So is one for every view that a recipe draws, also where the dataset has one; a mixture of two images has none.
    drawn = Cell("modern-randaugment", "digits", "tiny-32", f"embeddings:{tmp_path}/gpt.npy", "teacher-KD", 0)
    assert checked(drawn).folder.endswith("/teacher-KD-one-view/seed0")
    with pytest.raises(InputError, match="recipe 'modern-full' mixes images, and imported embeddings are of one each"):
        checked(dataclasses.replace(drawn, recipe="modern-full"))


def test_mirrored_views_have_vectors_of_their_own_where_there_are_any(mirrored_digits, digits_folder, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data/datasets").symlink_to(digits_folder / "datasets")
    layout = Layout(tmp_path / "data", dtype="float32")
    count = len(open_dataset(datasets.get("digits"), layout.dataset(datasets.get("digits"))).train_labels)
    plain, mirrored = numbers(count), numbers(count, seed=1)
    (tmp_path / "gpt").mkdir()
    np.save(tmp_path / "gpt/train.npy", plain)
    for train_type, expected, has_mirrored in (
        ("teacher-KD", plain[[5, 9]], False),
        ("teacher-KD", np.stack([mirrored[5], plain[9]]), True),
    ):
        if has_mirrored:
            np.save(tmp_path / "gpt/train-mirrored.npy", mirrored)
        cell = checked(Cell("corrected", "digits", "tiny-32", f"gpt=embeddings:{tmp_path}/gpt", train_type, 0))
        assert ("one-view" in cell.folder) != has_mirrored
        np.testing.assert_array_equal(targets(cell, layout, [5, 9], [1, 0]).numpy(), expected)
    assert (
        "vanilla-one-view"
        in dataclasses.replace(cell, train_type="vanilla", teacher=f"embeddings:{plain_of(tmp_path)}").folder
    )


def plain_of(folder):
    """Return a file of the unmirrored vectors alone."""
    (folder / "gpt.npy").write_bytes((folder / "gpt/train.npy").read_bytes())
    return folder / "gpt.npy"


def test_prototypes_are_means_of_the_images_that_have_a_vector(photos, names, layout, tmp_path, capsys):
    """Seven of a class's twenty have one, held-out images not counted; a class without any is an error."""
    dataset = photos[0]
    some = [row for label in (0, 1) for row in dataset.training[dataset.train_labels[dataset.training] == label][:3]]
    vectors = numbers(len(some))
    path = as_table(tmp_path, vectors, [names[row] for row in some])
    cell = cell_of(photos, path, "embed-KD", recipe="reference")
    prepare.for_training(cell, layout, CPU)
    found = open_artifact(layout.prototypes(cell)[0], "prototypes").array("prototypes")
    np.testing.assert_allclose(found, [vectors[:3].mean(axis=0), vectors[3:].mean(axis=0)], atol=1e-6)
    said = capsys.readouterr().err
    assert "6 of 40 training images" in said
    assert "2 of 2 classes have fewer than 5 training images" in said
    path = as_table(tmp_path, vectors[:3], [names[row] for row in some[:3]])
    with pytest.raises(DataError, match="no image of class class-1 has one"):
        prepare.for_training(cell_of(photos, path, "embed-KD"), layout, CPU)


@pytest.mark.parametrize("has_names", [True, False])
def test_one_vector_a_class_is_its_prototype(has_names, photos, layout, tmp_path):
    vectors = numbers(2)
    if has_names:
        path = tmp_path / "classes.parquet"
        parquet.write_table(pyarrow.table({"class": ["class-1", "class-0"], "vector": list(vectors[::-1])}), path)
    else:
        path = tmp_path / "classes.npy"
        np.save(path, vectors)
    cell = cell_of(photos, path, "embed-KD", recipe="reference")
    prepare.for_training(cell, layout, CPU)
    found = open_artifact(layout.prototypes(cell)[0], "prototypes").array("prototypes")
    np.testing.assert_array_equal(found, vectors)
    with pytest.raises(InputError, match="has one vector for each class: it gives prototypes"):
        cell_of(photos, path, "vanilla")


def test_a_probe_without_test_vectors_has_no_test_accuracy(photos, layout, tmp_path):
    cell = cell_of(photos, as_npy(tmp_path, numbers(TRAIN), None), "vanilla")
    prepare.signal_of(cell, layout, CPU, 64)
    facts = open_artifact(layout.full_embeddings(cell).head()[0], "head").facts
    assert set(facts["accuracy"]) == {"train", "validation"}
    assert facts["top5"] == {}


def test_tables_say_where_one_vector_was_taught_for_all_views(mirrored_digits, tmp_path):
    """The control: with vectors of the mirrored images they say nothing of it."""
    for part in ("one/train", "two/train", "two/train-mirrored"):
        (tmp_path / part).parent.mkdir(exist_ok=True)
        np.save(tmp_path / f"{part}.npy", numbers(4))
    config = demo()
    config["grid"] = [config["grid"][0] | {"teachers": ["one", "two"], "train_types": ["embed-KD", "teacher-KD"]}]
    config["teachers"] = {name: f"embeddings:{tmp_path / name}" for name in ("one", "two")}
    study = write_study(config, tmp_path)
    results = Results.collect(study.config, study.results / "runs", study.data)
    said = [line for line in accuracy_table(results, "corrected", "last", "top1").notes if "one view" in line]
    assert len(said) == 1
    assert said[0].startswith("digits: one view; students of teacher-KD with one were taught the one vector")


@pytest.mark.parametrize("source", ["live", "lazy", "replayed"])
def test_there_is_no_model_to_run(source, photos, tmp_path):
    with pytest.raises(InputError, match=f"embeddings without a model: it can't be run for teacher_source '{source}'"):
        cell_of(photos, as_npy(tmp_path, numbers(TRAIN), None), teacher_source=source)


def test_verbs_say_what_can_and_cannot_be_done(tmp_path):
    """check looks at every number before anything else is made; audit and fetch say that there is no model."""
    (tmp_path / "gpt").mkdir()
    np.save(tmp_path / "gpt/train.npy", numbers(1442))
    (tmp_path / "base.yaml").write_text((Path(__file__).parents[2] / "config/config.yaml").read_text())
    block = {"name": "b", "datasets": ["digits"], "teachers": ["gpt"], "students": ["tiny-32"], "seeds": [0]}
    grid = [block | {"train_types": ["embed-KD"], "recipes": ["corrected"]}]
    (tmp_path / "own.json").write_text(json.dumps({"teachers": {"gpt": "embeddings:gpt"}, "grid": grid}))
    command = ("check", "own.json", "--base", "base.yaml")
    found = clipkd(*command, cwd=tmp_path)
    assert (found.returncode, "gpt: 1,442 vectors, 3 dimensions" in found.stdout) == (0, True), found.stderr
    np.save(tmp_path / "gpt/train.npy", np.full((1442, 3), np.inf))
    found = clipkd(*command, cwd=tmp_path, check=False)
    assert (found.returncode, "vectors that are not finite: row 0, row 1" in found.stderr) == (3, True), found.stderr
    for words in (("audit", "digits"), ("fetch",)):
        found = clipkd(*words, "gpt=embeddings:gpt", cwd=tmp_path, check=False)
        assert (found.returncode, "model" in found.stderr) == (2, True), found.stderr


@pytest.mark.parametrize(
    "name", ["val.npy", "train_mirrored.npy", "test2.safetensors", "Test.NPY", "test.pt", "train.csv"]
)
def test_a_file_of_vectors_that_would_not_be_used_is_refused(name, tmp_path):
    for known in ("train.npy", "test.npy"):
        np.save(tmp_path / known, numbers(4))
    (tmp_path / "notes.md").write_text("of a model\n")
    assert teachers.get(f"embeddings:{tmp_path}").is_imported  # the control
    (tmp_path / name).write_bytes(b"vectors")
    with pytest.raises(
        InputError, match=f"has {name}, which would not be used: .* train, train-mirrored, test, classes"
    ):
        teachers.get(f"embeddings:{tmp_path}")


@pytest.mark.parametrize(
    ("names", "called", "pair"),
    [
        (["train/a/1.png", "train/a/10.png", "train/a/2.png"], False, "'train/a/10.png' before 'train/a/2.png'"),
        (["train/10/b.png", "train/9/a.png", "val/1/a.png"], False, "'train/10/b.png' before 'train/9/a.png'"),
        (["train/a/01.png", "train/a/02.png", "train/a/10.png"], False, None),
        (["train/b/3.png", "val/a/1.png", "val/a/2.png"], False, None),
        (["train/a/1.png", "train/a/10.png", "train/a/2.png"], True, None),
    ],
)
def test_rows_of_images_that_are_not_in_the_order_of_numbers_are_warned_about(names, called, pair):
    file = VectorFile(Path("train.npy"), numbers(3), names if called else None)
    dataset = SimpleNamespace(names=lambda split: names)
    said = order_warnings({"train": Match(file, "images", np.arange(3), names)}, dataset)
    assert [pair in line for line in said] == [True] * (pair is not None)


def test_numbers_beyond_float32_are_said_to_be_too_large(tmp_path):
    vectors = numbers(4).astype(np.float64)
    vectors[1, 2], vectors[3, 0] = 1e40, np.nan
    np.save(tmp_path / "train.npy", vectors)
    with pytest.raises(
        DataError, match="vectors that are not finite: row 3; vectors that are too large for float32: row 1"
    ):
        vector_files.read(tmp_path / "train.npy").check()


def test_check_refuses_vectors_that_a_train_type_needs_and_are_not_there(photos, names, layout, tmp_path):
    """Prototypes are made of the images that have a vector; class scores need one of every image."""
    source = as_npy_with_names(tmp_path, numbers(len(names) - 1), names[1:])
    cells = [cell_of(photos, source, train_type) for train_type in ("embed-KD", "vanilla")]
    assert any("1 have none" in line for line in imported_lines(cells[:1], layout))
    with pytest.raises(DataError, match=r"1 have none: .* needs a vector here"):
        list(imported_lines(cells, layout))


def test_a_folder_of_vectors_named_as_a_checkpoint_is_told_its_name(tmp_path):
    np.save(tmp_path / "train.npy", numbers(3))
    with pytest.raises(InputError, match=f"embeddings alone are named embeddings:{tmp_path}"):
        teachers.get(str(tmp_path))


@pytest.mark.parametrize("path", [["val/class-1/0001.png", "val/class-0/0000.png"], None])
def test_stored_images_in_a_table_name_its_rows_by_their_path(path, tmp_path):
    """A table of the `datasets` library: a column of names without words is none."""
    images = [{"bytes": b"PNG", "path": path and path[row]} for row in range(2)]
    table = {"image": images, "name": ["first", "second"], "vector": list(numbers(2))}
    parquet.write_table(pyarrow.table(table), tmp_path / "gpt.parquet")
    assert vector_files.read(tmp_path / "gpt.parquet").names == (path or ["first", "second"])
    rows = {"image": [b"PNG"] * 2, "row": [1, 0], "vector": list(numbers(2))}
    parquet.write_table(pyarrow.table(rows), tmp_path / "gpt.parquet")
    found = vector_files.read(tmp_path / "gpt.parquet")
    assert (found.names, found.rows.tolist()) == (None, [1, 0])


def test_the_card_of_imported_vectors_claims_no_extraction(photos, names, layout, tmp_path):
    np.save(tmp_path / "gpt.npy", numbers(TRAIN + TEST))
    test = [f"val/class-{number % 2}/{number:04d}.png" for number in range(TEST)]
    (tmp_path / "gpt.txt").write_text("\n".join([*names, *test]))
    (tmp_path / "gpt.yaml").write_text("model: gpt-vision\nresolution: 512\n")
    store = layout.full_embeddings(cell_of(photos, tmp_path / "gpt.npy"))
    prepare.embeddings(store, layout, photos[2], CPU)
    artifact = open_artifact(store.folder, "embeddings", store.identity)
    export_embeddings(StoredEmbeddings(artifact, None, None), "npy", tmp_path / "out")
    card = (tmp_path / "out/README.md").read_text()
    assert "| How the vectors were made | model: gpt-vision; resolution: 512 |" in card
    for claim in ("extracted", "went through", "Precision of the teacher", "the teacher's own preprocessing"):
        assert claim not in card
    assert "\n\n|" not in card.partition("## Origin")[2].partition("Vectors are")[0].strip()


@pytest.mark.parametrize("train_type", ["teacher-KD", "embed-KD"])
def test_rows_that_are_of_other_images_since_they_were_imported_are_refused(train_type, tmp_path):
    """As many images as before: nothing else tells that all vectors are of the image beside theirs."""
    images, layout = save_photos(tmp_path / "images"), Layout(tmp_path / "data", sample=Sample(5, 0))
    source = as_npy(tmp_path, numbers(TRAIN), None)
    cell = cell_of((None, None, str(images)), source, train_type)
    store = next(iter(layout.stores(cell).values()))

    def imported():
        prepare.dataset(cell.dataset_spec, layout, cell.source, overwrite=True)
        list(imported_lines([cell], layout))
        prepare.embeddings(store, layout, cell.source, CPU)

    imported()
    last = images / "train/class-1/0039.png"
    last.rename(last.with_name("renamed.png"))  # the last one still
    imported()
    last.with_name("renamed.png").rename(images / "train/class-0/0000a.png")
    wanted = r"\d+ train rows are of other images now, from row 1 on\. Write the file again, with names"
    with pytest.raises(DataError, match=wanted):
        imported()
    with pytest.raises(DataError, match=wanted):  # the workflow imports without a look at all files before
        prepare.embeddings(store, layout, cell.source, CPU)
    shutil.rmtree(store.folder)
    imported()
    np.save(source, numbers(TRAIN, seed=1))  # written again: other vectors, another store
    again = cell_of((None, None, str(images)), source, train_type)
    list(imported_lines([again], layout))
