"""Stored vectors from a device's memory: bit for bit those that the host reads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from clipkd.core.artifacts import building, open_artifact
from clipkd.embeddings.vectors import Statistics, Vectors, write_vectors
from clipkd.runs import vector_stores
from clipkd.runs.standardisation import Standardisation
from clipkd.runs.vector_stores import OnDevice, OnDisk, vector_store

CPU, META = torch.device("cpu"), torch.device("meta")
FORMATS = ("float32", "float16", "int16")


def stored(folder: Path, dtype: str = "int16", seed: int = 0) -> Vectors:
    generator = np.random.default_rng(seed)
    values = (generator.normal(size=(50, 3, 24)) * 10.0 ** generator.uniform(-2, 2, 24)).astype(np.float32)
    with building(folder, "toy", {"dtype": dtype, "seed": seed}) as draft:
        facts = write_vectors(draft.path / "train.npy", values.shape, dtype, lambda: [values], Statistics([values]))
        assert facts["format"] == dtype
    return Vectors(open_artifact(folder, "toy"), "train")


@pytest.mark.parametrize("dtype", FORMATS)
@pytest.mark.parametrize("is_standardised", [False, True])
def test_memory_and_disk_give_the_same_bits(dtype, is_standardised, tmp_path):
    vectors, rows, views = stored(tmp_path / dtype, dtype), np.array([7, 0, 49, 7]), np.array([2, 0, 1, 0])
    standardised = Standardisation.of_vectors(vectors[:].reshape(-1, 24)) if is_standardised else None
    stores = [one(vectors, CPU, standardised) for one in (OnDisk, OnDevice)]
    for asked in (views, 0, 1):
        found, other = (store(rows, asked) for store in stores)
        assert found.dtype == other.dtype == torch.float32
        assert torch.equal(found, other)
    assert torch.equal(stores[1](rows, 1), stores[1](rows, np.full(4, 1)))
    assert not torch.equal(stores[1](rows, 1), stores[1](rows, 2))
    assert {store.width for store in stores} == {24}


def test_a_gpu_holds_what_takes_little_of_its_memory_once_for_all_runs(tmp_path, monkeypatch):
    vectors, others = stored(tmp_path / "one"), stored(tmp_path / "other", seed=1)
    monkeypatch.setattr(vector_stores, "memory_for_vectors", lambda device: vectors.stored.nbytes)
    assert isinstance(vector_store(vectors, CPU), OnDisk)
    first = vector_store(vectors, META)
    monkeypatch.setattr(vector_stores, "memory_for_vectors", lambda device: vectors.stored.nbytes - 1)
    assert isinstance(vector_store(others, META), OnDisk)
    second = vector_store(Vectors(open_artifact(tmp_path / "one", "toy"), "train"), META)
    assert isinstance(first, OnDevice)
    assert isinstance(second, OnDevice)
    assert second.codes is first.codes
    del first, second
    assert isinstance(vector_store(vectors, META), OnDisk), "nobody holds it any more"


def test_a_small_part_of_a_gpu_is_for_vectors(monkeypatch):
    monkeypatch.setattr(vector_stores.residency, "free_memory", lambda device: 1000)
    assert vector_stores.memory_for_vectors(META) == 125
    monkeypatch.setenv(vector_stores.residency.FRACTION, "0")
    assert vector_stores.memory_for_vectors(META) == 0
