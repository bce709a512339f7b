"""Datasets of torchvision by name and of the hub by id and commit: read from fixtures in their real layouts."""

from __future__ import annotations

import gzip
import inspect
import io
import json
import struct

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch
from PIL import Image

from clipkd.core.errors import DataError, InputError, MachineError
from clipkd.core.vision import torchvision
from clipkd.data.dataset import prepare_dataset
from clipkd.embeddings import prepare
from clipkd.plugins import datasets
from clipkd.plugins.datasets.torchvision_source import KNOWN
from clipkd.runs.folder import RunFolder
from clipkd.runs.job import open_job
from clipkd.runs.training import train
from clipkd.spec.cells import Cell
from clipkd.spec.layout import Layout
from clipkd.spec.settings import Hyperparameters
from tests.embeddings.hub_server import Hub, Repository

COMMIT = "c0ffee" + "0" * 34
NAMES = ["angular", "rust"]


def picture(number, side=20, form="PNG"):
    """An image file's bytes, and its pixels."""
    pixels = np.random.default_rng(number).integers(0, 256, (side + number % 3, side, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, form)
    return stream.getvalue(), pixels


def parquet(rows, names=NAMES, image="image", label="label", side=20, feature=None):
    """A parquet file as the `datasets` library writes it: bytes and path, features in the schema's metadata."""
    contents = [{"bytes": picture(number, side)[0], "path": f"{number}.png"} for number, _ in rows]
    kind = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    features = {image: {"_type": "Image"}, label: feature or {"names": names, "_type": "ClassLabel"}}
    table = pyarrow.table(
        {image: pyarrow.array(contents, kind), label: pyarrow.array([value for _, value in rows])}
    ).replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})} if names else {})
    stream = io.BytesIO()
    pyarrow.parquet.write_table(table, stream)
    return stream.getvalue()


def beans(**changes):
    """A repository with two training files and a test file, and other things that are never read."""
    files = {
        "README.md": b"# Beans",
        "beans.py": b"raise SystemExit('code of a repository was run')",
        "data/train-00000-of-00002.parquet": parquet([(number, number % 2) for number in range(12)]),
        "data/train-00001-of-00002.parquet": parquet([(number, number % 2) for number in range(12, 20)]),
        "data/test-00000-of-00001.parquet": parquet([(number, number % 2) for number in range(20, 26)]),
    }
    return Repository(COMMIT, files | changes)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub on this machine, and an empty cache of our own."""
    from huggingface_hub import constants

    server = Hub()
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.url + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    server.repositories["datasets/farm/beans"] = beans()
    yield server
    server.close()


def read(source, tmp_path, name="beans"):
    return prepare_dataset(datasets.get(name, source), tmp_path / "data/datasets" / name, source)


def test_a_dataset_of_the_hub_holds_what_its_files_hold(hub, tmp_path):
    dataset = read(f"hub:farm/beans@{COMMIT}", tmp_path)
    assert dataset.classes == NAMES
    assert dataset.train_labels.tolist() == [number % 2 for number in range(20)]
    assert dataset.test_labels.tolist() == [0, 1, 0, 1, 0, 1]
    for row in (0, 11, 12, 19):
        np.testing.assert_array_equal(dataset.image("train", row), picture(row)[1])
    np.testing.assert_array_equal(dataset.image("test", 5), picture(25)[1])
    assert dataset.artifact.facts["revision"] == COMMIT
    assert hub.asked_for("datasets/farm/beans") == {
        name for name in hub.repositories["datasets/farm/beans"].files if name.endswith(".parquet")
    }


def test_files_that_were_downloaded_are_packed_without_the_hub(hub, tmp_path):
    """A login node downloads; a node without internet decodes."""
    spec, folder = datasets.get("beans", f"hub:farm/beans@{COMMIT}"), tmp_path / "data/datasets"
    spec.fetch(folder / ".downloads")
    assert [path.name for path in folder.iterdir()] == [".downloads"]
    asked = len(hub.requests)
    assert prepare_dataset(spec, folder / "beans").train_labels.tolist() == [0, 1] * 10
    assert len(hub.requests) == asked
    other = datasets.get("beans", f"hub:farm/beans@{'b' * 40}")  # the list is of another commit: the hub is asked
    with pytest.raises(InputError, match="no commit"):
        prepare_dataset(other, folder / "beans2")


def test_the_hubs_own_conversion_and_other_columns_are_read(hub, tmp_path):
    files = {
        f"full/{split}/0000.parquet": parquet(
            [(n, ["cat", "dog"][n % 2]) for n in rows], names=None, image="img", label="kind"
        )
        for split, rows in (("train", range(8)), ("validation", range(8, 12)))
    }
    hub.repositories["datasets/farm/pets"] = Repository(COMMIT, files | {"other/train/0000.parquet": b"x"})
    where = f"hub:farm/pets@{COMMIT}?config=full&image=img&label=kind&test=validation"
    dataset = read(where, tmp_path, "pets")
    assert dataset.classes == ["cat", "dog"]
    assert dataset.test_labels.tolist() == [0, 1, 0, 1]
    with pytest.raises(InputError, match=r"several parts: choose one with \?config= \('full', 'other'\)"):
        read(f"hub:farm/pets@{COMMIT}", tmp_path, "others")


HASHES = ("38cc4fa96c139e86", "aaaa4fa96c139e86", "bbbb4fa96c139e86")


def old(**changes):
    """A repository as `push_to_hub` wrote it in 2022 and 2023: a hash before the dot."""
    names = ("train-00000-of-00002", "train-00001-of-00002", "test-00000-of-00001")
    rows = (range(12), range(12, 20), range(20, 26))
    files = {
        f"data/{name}-{end}.parquet": parquet([(number, number % 2) for number in part])
        for name, end, part in zip(names, HASHES, rows, strict=True)
    }
    return Repository(COMMIT, files | changes)


def test_shards_with_a_hash_in_their_names_are_one_split(hub, tmp_path):
    hub.repositories["datasets/farm/beans"] = old()
    dataset = read(f"hub:farm/beans@{COMMIT}", tmp_path)
    assert dataset.train_labels.tolist() == [number % 2 for number in range(20)]
    np.testing.assert_array_equal(dataset.image("train", 19), picture(19)[1])


@pytest.mark.parametrize("name", ["train-00000-of-00002-0123456789abcdef", "train-00002-of-00003", "train"])
def test_shards_of_several_pushes_are_not_mixed(name, hub, tmp_path):
    """Otherwise images would be in training twice, or only in part."""
    hub.repositories["datasets/farm/beans"] = old(**{f"data/{name}.parquet": parquet([(30, 0), (31, 1)])})
    with pytest.raises(InputError, match="shards of a split that do not make a whole: data/train"):
        read(f"hub:farm/beans@{COMMIT}", tmp_path)


@pytest.mark.parametrize(
    ("labels", "words"), [([-1, -1], "no image"), ([0, -1, 1], "only 2 of 3 images"), ([0, None], "only 1 of 2 images")]
)
def test_a_split_without_labels_is_named_with_the_way_out(labels, words, hub, tmp_path):
    test = {"data/test-00000-of-00001.parquet": parquet(list(enumerate(labels)))}
    more = {"data/validation-00000-of-00001.parquet": parquet([(30, 0), (31, 1)])}
    hub.repositories["datasets/farm/beans"] = beans(**test, **more)
    with pytest.raises(InputError, match=rf"{words} of its split 'test' with a label .* \(\?test=validation\)"):
        read(f"hub:farm/beans@{COMMIT}", tmp_path)
    assert not any("train" in name for name in hub.asked_for("datasets/farm/beans"))  # known before the large files
    assert read(f"hub:farm/beans@{COMMIT}?test=validation", tmp_path, "other").test_labels.tolist() == [0, 1]


def test_images_of_one_size_are_trained_on_with_flips_only(hub, tmp_path):
    small = {
        f"data/{split}-00000-of-00001.parquet": parquet([(3 * n, n % 2) for n in rows], side=24)
        for split, rows in (("train", range(40)), ("test", range(40, 50)))
    }
    hub.repositories["datasets/farm/beans"] = Repository(COMMIT, small)
    source, layout = f"hub:farm/beans@{COMMIT}?size=24", Layout(tmp_path / "data")
    cell = Cell("corrected", "beans", "tiny-32", "none", "supervised", 0, epochs=1, source=source)
    assert cell.dataset_spec.augmentation == "flip"
    prepare.for_training(cell, layout, torch.device("cpu"))
    job = open_job(cell, Hyperparameters(epochs=1, batch_size=8), layout, torch.device("cpu"))
    assert train(job, RunFolder(tmp_path / "run")).classes == 2
    with pytest.raises(DataError, match="not"):
        read(f"hub:farm/beans@{COMMIT}?size=32", tmp_path, "wrong-size")


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("hub:farm/beans@main", "a branch can move"),
        ("hub:farm/beans", "a branch can move"),
        (f"hub:farm/beans@{COMMIT}?test=train", "'train' is both the training and the test split"),
        (f"hub:farm/beans@{COMMIT}?alpha=red", "alpha 'red' is not one of white, black, drop"),
        (f"hub:farm/beans@{COMMIT}?levels=70000", "levels '70000' is not one of auto, full"),
        (f"hub:../beans@{COMMIT}", "write hub:OWNER/NAME"),
        (f"hub:farm/beans@{COMMIT}?lable=x", "unknown option 'lable'; did you mean 'label'"),
        (f"hub:farm/beans@{COMMIT}?label=a&label=b", "needs one value"),
        (f"hub:farm/beans@{COMMIT}?size=big", "not a number of pixels"),
        (f"hub:farm/beans@{COMMIT}?label=kind", "has no column 'kind' \\(it has image, label\\): say \\?label="),
        (f"hub:farm/beans@{COMMIT}?test=dev", "no split 'dev' \\(it has 'test', 'train'\\)"),
        (f"hub:farm/nothing@{COMMIT}", "knows no dataset 'farm/nothing'"),
        (f"hub:farm/beans@{'1' * 40}", "has no commit"),
    ],
)
def test_what_is_wrong_with_a_source_is_said_in_words(source, words, hub, tmp_path):
    with pytest.raises(InputError, match=words):
        read(source, tmp_path)


def test_a_repository_of_scripts_is_refused_with_advice(hub, tmp_path):
    hub.repositories["datasets/farm/beans"] = Repository(COMMIT, {"beans.py": b"boom", "data.zip": b"PK"})
    with pytest.raises(InputError, match=r"no parquet files; .* refs/convert/parquet"):
        read(f"hub:farm/beans@{COMMIT}", tmp_path)


def test_damaged_files_and_images_are_found(hub, tmp_path):
    name = "data/test-00000-of-00001.parquet"
    hub.repositories["datasets/farm/beans"] = beans(**{name: b"PAR1 nothing PAR1"})
    with pytest.raises(DataError, match="not a parquet file"):
        read(f"hub:farm/beans@{COMMIT}", tmp_path)


def test_a_file_that_is_not_the_announced_one_is_refused(hub, tmp_path):
    hub.repositories["datasets/farm/beans"].damaged_sends = 100
    with pytest.raises(DataError, match="is not the expected file: sha256 expected"):
        read(f"hub:farm/beans@{COMMIT}", tmp_path)


def test_without_the_hub_the_error_says_what_to_run(hub, tmp_path):
    hub.close()
    with pytest.raises(MachineError, match="clipkd download beans"):
        read(f"hub:farm/beans@{COMMIT}", tmp_path)


@pytest.fixture
def fashion(tmp_path):
    """FashionMNIST as torchvision keeps it: four gzipped idx files, here with few images."""
    raw = tmp_path / "torchvision/FashionMNIST/raw"
    raw.mkdir(parents=True)
    for part, count in (("train", 40), ("t10k", 20)):
        pixels = np.random.default_rng(count).integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels = np.arange(count, dtype=np.uint8) % 10
        for kind, header, array in (
            ("images-idx3", struct.pack(">4i", 2051, count, 28, 28), pixels),
            ("labels-idx1", struct.pack(">2i", 2049, count), labels),
        ):
            (raw / f"{part}-{kind}-ubyte").write_bytes(header + array.tobytes())
            (raw / f"{part}-{kind}-ubyte.gz").write_bytes(gzip.compress(header + array.tobytes()))
    return tmp_path / "torchvision"


def test_a_dataset_of_torchvision_holds_what_its_files_hold(fashion, tmp_path):
    dataset = read(f"torchvision:FashionMNIST?root={fashion}", tmp_path, "fashion")
    assert dataset.spec.image_size == 28
    assert dataset.classes[0] == "T-shirt/top"
    assert dataset.train_labels.tolist() == [number % 10 for number in range(40)]
    raw = (fashion / "FashionMNIST/raw/t10k-images-idx3-ubyte").read_bytes()[16:]
    expected = np.frombuffer(raw, np.uint8).reshape(20, 28, 28)
    np.testing.assert_array_equal(dataset.image("test", 7), np.repeat(expected[7][:, :, None], 3, axis=2))


def test_what_torchvision_lacks_is_said_in_words(tmp_path):
    with pytest.raises(DataError, match="give the folder that holds its files"):
        read(f"torchvision:MNIST?root={tmp_path}", tmp_path, "mnist")
    for source, words in (
        ("torchvision:FashonMNIST", "did you mean 'FashionMNIST'"),
        ("torchvision:CIFAR10", "datasets of clipkd itself"),
        ("torchvision:MNIST?split=x", "unknown option 'split'"),
    ):
        with pytest.raises(InputError, match=words):
            datasets.get("mine", source)


def test_torchvision_without_a_network_is_no_fault_of_the_data(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", ["http://127.0.0.1:9/"])
    with pytest.raises(MachineError, match="is there a network"):
        read("torchvision:MNIST", tmp_path, "mnist")
    assert "torchvision's MNIST, split train" in capsys.readouterr().err


def test_every_known_name_is_one_of_torchvision():
    for known, (splits, _) in KNOWN.items():
        parameters = inspect.signature(getattr(torchvision.datasets, known).__init__).parameters
        assert all(key in parameters for split in splits for key in split), known


def test_classes_with_several_names_have_the_first(tmp_path):
    """torchvision calls each class of Imagenette by a tuple; the folders are WordNet's ids, in their order."""
    ids = "n01440764 n02102040 n02979186 n03000684 n03028079 n03394916 n03417042 n03425413 n03445777 n03888257"
    for split in ("train", "val"):
        for number, wnid in enumerate(ids.split()):
            folder = tmp_path / "imagenette2" / split / wnid
            folder.mkdir(parents=True)
            for name in "ab":
                (folder / f"{wnid}_{name}.JPEG").write_bytes(picture(number, form="JPEG")[0])
    dataset = read(f"torchvision:Imagenette?root={tmp_path}", tmp_path, "nette")
    assert dataset.classes[:3] == ["tench", "English springer", "cassette player"]
    assert dataset.classes[9] == "parachute"
    identities = [datasets.get("mine", f"torchvision:{name}").source_identity() for name in ("Imagenette", "MNIST")]
    assert ["names" in identity for identity in identities] == [True, False]  # packed again, and not


def test_damaged_files_of_torchvision_are_no_fault_of_the_network(fashion, tmp_path):
    labels = fashion / "FashionMNIST/raw/train-labels-idx1-ubyte"
    labels.write_bytes(labels.read_bytes()[:3])
    (tmp_path / "usps.bz2").write_bytes(b"not bzip2")
    for source in (f"FashionMNIST?root={fashion}", f"USPS?root={tmp_path}"):
        with pytest.raises(DataError, match="give the folder that holds its files") as refused:
            read(f"torchvision:{source}", tmp_path, "mine")
        assert "network" not in str(refused.value)


def test_a_column_of_lists_is_no_label(hub, tmp_path):
    """The `datasets` library describes it by a list."""
    rows, feature = [(number, [number % 2]) for number in range(6)], [{"names": NAMES, "_type": "ClassLabel"}]
    files = {f"data/{split}-00000-of-00001.parquet": parquet(rows, feature=feature) for split in ("train", "test")}
    hub.repositories["datasets/farm/beans"] = Repository(COMMIT, files)
    with pytest.raises(DataError, match=r"row 0 has the label \[0\], neither a whole number nor a word"):
        read(f"hub:farm/beans@{COMMIT}", tmp_path)
