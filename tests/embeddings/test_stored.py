"""`clipkd.load_embeddings` and `clipkd export-embeddings`: what is stored, for anybody."""

from __future__ import annotations

import io
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import clipkd
from clipkd.cli import main
from clipkd.core.artifacts import building, open_artifact
from clipkd.core.errors import DataError, InputError
from clipkd.data.dataset import LABELS
from clipkd.embeddings import prepare
from clipkd.embeddings.stored import StoredEmbeddings
from clipkd.embeddings.teacher import load
from clipkd.embeddings.vectors import Vectors
from clipkd.export.embeddings import export_embeddings, write_table
from clipkd.plugins import datasets, recipes, students, teachers
from clipkd.runs.verification import verify
from clipkd.spec.layout import Layout
from clipkd.spec.views import Sample, full_views, prototype_views
from tests.use.upload_server import Upload

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def layout(digits_folder, vit_folder, tmp_path_factory) -> Layout:
    """The packed digits, with a teacher's embeddings of every image for both recipes, and of a sample."""
    root = tmp_path_factory.mktemp("stored") / "data"
    shutil.copytree(digits_folder / "datasets", root / "datasets")
    layout, dataset, teacher = Layout(root), datasets.get("digits"), teachers.get(str(vit_folder))
    for name in ("reference", "corrected"):
        views = full_views(recipes.get(name), dataset, students.get("tiny-32"), teacher)
        prepare.embeddings(layout.embeddings(dataset, teacher, views), layout, None, CPU, 256)
    sample = prototype_views(recipes.get("corrected"), dataset, teacher, Sample(5))
    prepare.embeddings(layout.embeddings(dataset, teacher, sample), layout, None, CPU, 256)
    return layout


def test_stored_vectors_are_the_teachers_of_these_images(layout, vit_folder):
    stored = clipkd.load_embeddings("Digits", str(vit_folder), recipe="corrected", data=layout.data)
    spec = teachers.get(str(vit_folder))
    teacher = load(spec, layout.teacher(spec), CPU, "float32")
    images = np.load(layout.data / "datasets/digits/test-images.npy")[:5]
    inputs = teacher.present(torch.from_numpy(images).permute(0, 3, 1, 2) / 255, None, None)
    np.testing.assert_allclose(stored.test[:5], teacher.embed(inputs).numpy(), atol=1e-3)
    assert (stored.train.shape, stored.train.dtype) == ((1442, 1, 16), np.float32)
    assert np.array_equal(stored.labels["test"], np.load(layout.data / "datasets/digits/test-labels.npy"))
    assert stored.classes == [str(number) for number in range(10)]


def test_several_stores_are_told_apart_by_the_recipe(layout, vit_folder):
    with pytest.raises(InputError, match=r"has several: .*views.*; name the recipe") as several:
        clipkd.load_embeddings("digits", str(vit_folder), data=layout.data)
    one, other = (
        clipkd.load_embeddings("digits", str(vit_folder), recipe, layout.data) for recipe in ("reference", "corrected")
    )
    assert not np.allclose(one.test, other.test)
    for stored in (one, other):
        name = stored.artifact.path.name
        assert name in str(several.value)
        named = clipkd.load_embeddings("digits", str(vit_folder), data=layout.data, store=name)
        assert np.array_equal(named.test, stored.test)
    with pytest.raises(InputError, match=f"has no store 0123 .*{one.artifact.path.name}"):
        clipkd.load_embeddings("digits", str(vit_folder), data=layout.data, store="0123")
    with pytest.raises(InputError, match="run `clipkd extract`"):
        clipkd.load_embeddings("cifar10", str(vit_folder), data=layout.data)
    mistyped = one.artifact.path.parent.name + "x"
    with pytest.raises(InputError, match=f"stored are those of .*did you mean '{mistyped[:-1]}'"):
        clipkd.load_embeddings("digits", mistyped, data=layout.data)


def test_a_recipe_is_no_advice_where_all_stores_are_of_one(layout, vit_folder, tmp_path):
    shutil.copytree(layout.data, tmp_path / "data", ignore=shutil.ignore_patterns("embeddings"))
    dataset, teacher = datasets.get("digits"), teachers.get(str(vit_folder))
    views = full_views(recipes.get("corrected"), dataset, students.get("tiny-32"), teacher)
    for dtype in ("float16", "float32"):
        other = Layout(tmp_path / "data", dtype)
        prepare.embeddings(other.embeddings(dataset, teacher, views), other, None, CPU, 256)
    for recipe in (None, "corrected"):
        with pytest.raises(InputError, match=r"has several: .*dtype: .*; name one of them \(store, --store\)$"):
            clipkd.load_embeddings("digits", str(vit_folder), recipe, tmp_path / "data")


def test_a_recipe_whose_embeddings_are_not_stored_is_not_another_ones(layout, vit_folder, tmp_path):
    shutil.copytree(layout.data, tmp_path / "data")
    other = clipkd.load_embeddings("digits", str(vit_folder), "reference", tmp_path / "data")
    shutil.rmtree(other.artifact.path)
    assert clipkd.load_embeddings("digits", str(vit_folder), "corrected", tmp_path / "data").train.size
    with pytest.raises(InputError, match="and none of those of recipe 'reference': run `clipkd extract`"):
        clipkd.load_embeddings("digits", str(vit_folder), "reference", tmp_path / "data")


def test_labels_are_those_of_the_images_or_none(layout, tmp_path):
    (folder,) = (layout.data / "embeddings/digits").iterdir()
    shutil.copytree(folder, tmp_path / "embeddings/digits" / folder.name)
    stored = clipkd.load_embeddings("digits", folder.name, "corrected", tmp_path)
    assert (stored.labels, stored.classes, len(stored.test)) == (None, None, 355)
    packed = datasets.get("digits")
    labels = np.load(layout.dataset(packed) / "test-labels.npy")
    with building(tmp_path / "datasets/digits", "dataset", packed.identity()) as draft:
        for name in LABELS:
            np.save(draft.path / name, labels)
        draft.facts |= {"content": "of other images", "classes": []}
    with pytest.raises(DataError, match="another content"):
        clipkd.load_embeddings("digits", folder.name, "corrected", tmp_path)


def exported(layout: Layout, vit_folder, out, form: str):
    words = ["export-embeddings", "digits", str(vit_folder), str(out), "--recipe", "corrected", "--format", form]
    assert main([*words, "--data", str(layout.data)]) == 0
    return out


def test_an_export_opens_in_pandas_and_duckdb(layout, vit_folder, tmp_path, monkeypatch):
    import duckdb

    stored = clipkd.load_embeddings("digits", str(vit_folder), "corrected", layout.data)
    monkeypatch.chdir(exported(layout, vit_folder, tmp_path / "out", "parquet"))
    table = pd.read_parquet("test.parquet")
    assert np.array_equal(np.stack(table.embedding), stored.test)
    assert table.embedding[0].dtype == np.float32
    assert table.row.tolist() == list(range(355))
    assert np.array_equal(table.label, stored.labels["test"])
    assert table["class"].tolist() == [stored.classes[label] for label in table.label]
    counts = duckdb.sql("SELECT split, view, count(*) FROM '*.parquet' GROUP BY ALL ORDER BY split").fetchall()
    assert counts == [("test", 0, 355), ("train", 0, 1442)]


def test_an_export_opens_in_faiss(layout, vit_folder, tmp_path, monkeypatch):
    """The card's own lines; the nearest vector of a training image is itself."""
    import faiss

    monkeypatch.chdir(exported(layout, vit_folder, tmp_path / "out", "npy"))
    space: dict = {}
    exec(re.search(r"```python\n(.*?)```", Path("README.md").read_text(), re.DOTALL)[1], space)
    assert isinstance(space["index"], faiss.IndexFlatL2)
    assert space["rows"].shape == (5, 10)
    distances, _ = space["index"].search(space["vectors"][:20], 1)
    assert distances.max() < 1e-3
    assert np.load("train-labels.npy").shape == (1442,)
    assert json.loads(Path("classes.json").read_text()) == [str(number) for number in range(10)]


def test_views_and_images_without_a_label_are_rows_of_their_own(tmp_path):
    views = np.arange(24, dtype=np.float32).reshape(3, 2, 4)
    with building(tmp_path / "e/flowers/net/f", "embeddings", {}) as draft:
        np.save(draft.path / "train.npy", views)
    labels, files = {"train": np.array([1, -1, 0])}, {"train": ["a/1.png", "unlabeled/2.png", "b/3.png"]}
    stored = StoredEmbeddings(open_artifact(tmp_path / "e/flowers/net/f", "embeddings"), labels, ["b", "a"], files)
    write_table(tmp_path / "out.parquet", "train", Vectors(stored.artifact, "train"), stored)
    table = pd.read_parquet(tmp_path / "out.parquet")
    assert list(zip(table.row, table["view"], strict=True)) == [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1)]
    assert np.array_equal(np.stack(table.embedding), views.reshape(6, 4))
    assert table["class"].isna().tolist() == [False, False, True, True, False, False]
    assert table.label.dropna().tolist() == [1, 1, 0, 0]
    assert table.file.tolist()[2:4] == ["unlabeled/2.png"] * 2


def test_an_export_is_pushed_as_a_dataset_with_its_card(layout, vit_folder, tmp_path, monkeypatch, capsys):
    from huggingface_hub import DatasetCard, constants
    from pyarrow import parquet

    hub = Upload("hf_vectors")
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HF_TOKEN", "hf_vectors")
    folder = exported(layout, vit_folder, tmp_path / "out", "hf")
    assert main(["push", str(folder), "me/vectors"]) == 0
    files = hub.repositories["me/vectors"]
    hub.close()
    assert hub.types["me/vectors"] == "dataset"
    assert set(files) == {"README.md", "manifest.json", "data/train.parquet", "data/test.parquet"}
    assert parquet.read_table(io.BytesIO(files["data/train.parquet"])).num_rows == 1442
    card = DatasetCard(files["README.md"].decode())
    assert [entry["split"] for entry in card.data.configs[0]["data_files"]] == ["train", "test"]
    assert "None was given at export" in card.text
    assert main(["push", str(exported(layout, vit_folder, tmp_path / "npy", "npy")), "me/vectors"]) == 2
    assert "not an export for the hub" in capsys.readouterr().err


def test_an_export_again_has_the_names_of_now(tmp_path):
    """The vectors are the same, and what the packed dataset calls its classes and files is not."""
    with building(tmp_path / "e/flowers/net/f", "embeddings", {}) as draft:
        np.save(draft.path / "train.npy", np.eye(2, dtype=np.float32))
        draft.facts["dataset_content"] = "0" * 64
    artifact, labels = open_artifact(tmp_path / "e/flowers/net/f", "embeddings"), {"train": np.array([0, 1])}
    for classes in (["a", "b"], ["aster", "bellis"]):
        files = {"train": [f"{name}/1.png" for name in classes]}
        out = export_embeddings(StoredEmbeddings(artifact, labels, classes, files), "npy", tmp_path / "out")
        assert json.loads((out / "classes.json").read_text()) == classes
        assert json.loads((out / "train-files.json").read_text()) == files["train"]
        assert verify([out]).damaged == []


def test_an_export_replaces_only_one_like_it(layout, vit_folder, tmp_path):
    out = exported(layout, vit_folder, tmp_path / "out", "npy")
    exported(layout, vit_folder, out, "npy")
    words = [
        "export-embeddings",
        "digits",
        str(vit_folder),
        str(out),
        "--recipe",
        "corrected",
        "--data",
        str(layout.data),
    ]
    assert main([*words, "--format", "parquet"]) == 2
    (out / "test-labels.npy").write_bytes(b"mine")
    assert main([*words, "--format", "npy"]) == 2
    assert (out / "test-labels.npy").read_bytes() == b"mine"
