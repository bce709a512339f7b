"""CIFAR: small archives in the real binary format, over HTTP, as a file and in a folder; and damaged ones."""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from clipkd.core.errors import DataError, InputError, MachineError
from clipkd.data.dataset import Dataset, prepare_dataset
from clipkd.plugins import datasets
from tests.data.servers import Fault, Site, SmallCifar, small_cifar


@pytest.fixture(scope="module")
def cifar10() -> SmallCifar:
    return small_cifar(datasets.get("cifar10"), per_batch=40, test=30)


@pytest.fixture(scope="module")
def cifar100() -> SmallCifar:
    return small_cifar(datasets.get("cifar100"), per_batch=300, test=100)


def check(dataset: Dataset, made: SmallCifar) -> None:
    assert dataset.classes == made.names
    for split in ("train", "test"):
        np.testing.assert_array_equal(dataset.labels(split), made.labels[split])
        np.testing.assert_array_equal(dataset.images(split), made.images[split])
        np.testing.assert_array_equal(dataset.image(split, 7), made.images[split][7])


def test_over_http_then_from_the_disk(cifar10: SmallCifar, site: Site, tmp_path: Path) -> None:
    site.files["/mirror/cifar-10-binary.tar.gz"] = cifar10.archive
    folder = tmp_path / "datasets" / "cifar10"
    check(prepare_dataset(cifar10.spec, folder, f"{site.url}/mirror/"), cifar10)
    assert (tmp_path / "datasets/.downloads/cifar-10-binary.tar.gz").read_bytes() == cifar10.archive
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    check(prepare_dataset(cifar10.spec, folder, f"{site.url}/mirror"), cifar10)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    assert len(site.requests) == 1


def test_cut_download_is_resumed(
    cifar10: SmallCifar, site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clipkd.core.download.FIRST_WAIT", 0.01)
    site.files["/cifar-10-binary.tar.gz"] = cifar10.archive
    site.faults["/cifar-10-binary.tar.gz"] += [Fault(cut_after=200_000), Fault(status=503)]
    check(prepare_dataset(cifar10.spec, tmp_path / "cifar10", site.url), cifar10)
    assert [asked is None for _, asked in site.requests] == [True, False, False]


def test_out_of_reach_says_how_to_go_on(cifar10: SmallCifar, site: Site, tmp_path: Path) -> None:
    with pytest.raises(MachineError, match=r"status 404.*clipkd download cifar10 --dataset-source FILE"):
        prepare_dataset(cifar10.spec, tmp_path / "cifar10", site.url)
    assert not (tmp_path / "cifar10").exists()


@pytest.mark.parametrize("as_folder", [False, True])
def test_cifar100_from_the_disk(cifar100: SmallCifar, tmp_path: Path, as_folder: bool) -> None:
    archive = tmp_path / "cifar-100-binary.tar.gz"
    archive.write_bytes(cifar100.archive)
    dataset = prepare_dataset(cifar100.spec, tmp_path / "packed", str(tmp_path if as_folder else archive))
    check(dataset, cifar100)
    assert len(dataset.validation) == 100  # one of three images a class, where a tenth would be none


def test_the_files_name_the_official_archives() -> None:
    # https://www.cs.toronto.edu/~kriz/cifar.html
    ten, hundred = datasets.get("cifar10"), datasets.get("cifar100")
    assert (ten.archive, ten.md5) == ("cifar-10-binary.tar.gz", "c32a1d4ab5d03f1284b67883e8d87530")
    assert (hundred.archive, hundred.md5) == ("cifar-100-binary.tar.gz", "03b5dce01913d631647c71ecec9e9cb8")
    assert (ten.train_records, ten.test_records) == (hundred.train_records, hundred.test_records) == (50_000, 10_000)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("absent", "neither a file nor a folder"),
        (".", "a folder without cifar-10-binary.tar.gz"),
        ("ftp://a/b", "neither"),
    ],
)
def test_useless_source(
    cifar10: SmallCifar, tmp_path: Path, source: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=f"'cifar10': {source} is {message}"):
        prepare_dataset(cifar10.spec, tmp_path / "packed", source)


def test_a_given_file_is_checked(cifar10: SmallCifar, tmp_path: Path) -> None:
    archive = tmp_path / "mine.tar.gz"
    archive.write_bytes(cifar10.archive[:-1])
    actual = hashlib.md5(cifar10.archive[:-1]).hexdigest()
    with pytest.raises(DataError, match=f"mine.tar.gz.*md5 expected {cifar10.spec.md5}, actual {actual}"):
        prepare_dataset(cifar10.spec, tmp_path / "packed", str(archive))


def read_archive(made: SmallCifar, archive: bytes, folder: Path) -> Dataset:
    """Pack an archive whose md5 is taken for right."""
    path = folder / "archive.tar.gz"
    path.write_bytes(archive)
    spec = replace(made.spec, md5=hashlib.md5(archive).hexdigest())
    try:
        return prepare_dataset(spec, folder / "packed", str(path))
    finally:
        assert sorted(p.name for p in folder.iterdir()) in (["archive.tar.gz"], ["archive.tar.gz", "packed"])


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda a: a[: len(a) // 2], id="truncated"),
        pytest.param(lambda a: b"", id="empty"),
        pytest.param(lambda a: b"<html>please log in</html>" * 100, id="a web page"),
        pytest.param(lambda a: gzip.compress(b"no tar" * 1000), id="no tar"),
    ],
)
def test_damaged_archive(cifar10: SmallCifar, tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    with pytest.raises(DataError, match=r"archive\.tar\.gz"):
        read_archive(cifar10, damage(cifar10.archive), tmp_path)
