"""Stored numbers: what a format loses, and statistics gathered in pieces, against numpy on the whole."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from clipkd.core.artifacts import building, open_artifact
from clipkd.embeddings.vectors import (
    HIGHEST,
    Statistics,
    Vectors,
    decoded,
    encoded,
    grid_of,
    write_vectors,
)


def stored(values: np.ndarray, dtype: str, folder) -> Vectors:
    with building(folder, "toy", {"dtype": dtype}) as draft:
        pieces = [values[start : start + 3] for start in range(0, len(values), 3)]
        facts = write_vectors(draft.path / "train.npy", values.shape, dtype, lambda: pieces, Statistics(pieces))
        assert facts["format"] == dtype
    return Vectors(open_artifact(folder, "toy"), "train")


@pytest.fixture
def values() -> np.ndarray:
    generator = np.random.default_rng(0)
    scale = 10.0 ** generator.uniform(-2, 1.5, 12)
    return (generator.normal(size=(10, 2, 12)) * scale + 3 * scale).astype(np.float32)


def test_float32_is_exact(values, tmp_path):
    assert (stored(values, "float32", tmp_path / "a")[:] == values).all()


@pytest.mark.parametrize("dtype", ["int16", "float16"])
def test_two_bytes_a_number(dtype, values, tmp_path):
    found = stored(values, dtype, tmp_path / "a")
    assert found.stored.itemsize == 2
    extent = values.max(axis=(0, 1)) - values.min(axis=(0, 1))
    # Half a step of the grid; half a unit in the last of float16's 11 bits.
    allowed = 0.51 * extent / (2 * HIGHEST) if dtype == "int16" else 2.0**-11 * np.abs(values).max(axis=(0, 1))
    error = np.abs(found[:].astype(np.float64) - values)
    assert (error.max(axis=(0, 1)) <= allowed + 1e-6 * np.abs(values).max(axis=(0, 1))).all()
    assert error.max() > 0


def test_any_index_gives_what_the_whole_holds(values, tmp_path):
    found = stored(values, "int16", tmp_path / "a")
    whole = found[:]
    rows, views = np.array([7, 0, 7]), np.array([1, 0, 0])
    assert (found[rows, views] == whole[rows, views]).all()
    assert (found[2:4] == whole[2:4]).all()
    assert found[:].dtype == np.float32
    assert (len(found), found.shape) == (10, (10, 2, 12))


def test_a_dimension_that_never_changes(tmp_path):
    values = np.full((4, 1, 2), 3.25, np.float32)
    values[:, 0, 1] = [0, 1, 2, 3]
    found = stored(values, "int16", tmp_path / "a")[:]
    assert (found[..., 0] == 3.25).all()
    np.testing.assert_allclose(found[..., 1], values[..., 1], atol=1e-4)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(arrays(np.float32, (5, 3), elements=st.floats(-1e6, 1e6, width=32)))
def test_encoding_what_was_decoded_changes_nothing(values):
    grid = grid_of(values.min(axis=0), values.max(axis=0))
    codes = encoded(values, grid)
    again = encoded(decoded(codes, grid), grid)
    # Where a dimension's extent is below float32's resolution of its values, codes can't be told apart.
    fine = grid[1] > 4e-7 * np.abs(values).max(axis=0)
    assert (np.abs(again.astype(int) - codes)[:, fine] <= 1).all()


def test_statistics_in_pieces_are_numpys_on_the_whole(values):
    # A large mean: the squares of the raw numbers would lose every digit.
    values = values.astype(np.float64) + 1e6
    found = Statistics([values[:3], values[3:4], values[4:]])
    flat = values.reshape(-1, 12)
    np.testing.assert_allclose(found.mean, flat.mean(axis=0), rtol=1e-14)
    np.testing.assert_allclose(found.deviation, flat.std(axis=0), rtol=1e-6)
    assert (found.low == flat.min(axis=0)).all()
    assert (found.high == flat.max(axis=0)).all()


def test_a_dimension_of_the_smallest_numbers_is_stored_as_its_middle():
    """Of an extent below 65,534 times float32's smallest number no step can be stored."""
    values = np.array([[0.0, 1.0], [1e-42, 3.0]], dtype=np.float32)
    grid = grid_of(values.min(axis=0), values.max(axis=0))
    with np.errstate(all="raise"):
        codes = encoded(values, grid)
    assert codes[:, 0].tolist() == [0, 0]
    assert np.abs(decoded(codes, grid) - values).max() < 1e-4
