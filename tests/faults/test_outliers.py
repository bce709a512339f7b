"""Row M05: a few vectors far from all others, which stretch the int16 grid of all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from clipkd.core.artifacts import building, open_artifact
from clipkd.embeddings import audit, prepare, teacher
from clipkd.embeddings.teacher import Teacher
from clipkd.embeddings.vectors import Statistics, Vectors, decoded, encoded, exceptions, grid_of, write_vectors
from clipkd.plugins import datasets, recipes, teachers
from clipkd.spec.layout import Layout
from clipkd.spec.views import Sample, prototype_views
from tests.faults.checks import fault, replaced

CPU = torch.device("cpu")
COUNT, WIDTH, FAR = 1560, 64, (7, 400, 1559)


def features(factor: float) -> np.ndarray:
    """Vectors [N, D] of unit deviation around a common mean, three of them `factor` times as far."""
    generator = np.random.default_rng(0)
    values = generator.normal(size=(COUNT, WIDTH))
    values[list(FAR)] *= factor
    return (values + generator.normal(size=WIDTH)).astype(np.float32)


def stored(values: np.ndarray, folder: Path) -> tuple[np.ndarray, dict[str, Any]]:
    """Return what a store of int16 gives back of vectors, written in pieces, and its facts."""
    with building(folder, "toy", {"factor": float(values.max())}) as draft:
        pieces = np.array_split(values, 7)
        facts = write_vectors(draft.path / "test.npy", values.shape, "int16", lambda: pieces, Statistics(pieces))
    return Vectors(open_artifact(folder, "toy"), "test")[:], facts


def gradient(vectors: np.ndarray, student: np.ndarray) -> np.ndarray:
    """Return the gradient of the mean of 1 - cosine to the student's outputs [N, D], by its formula in float64."""
    t = vectors.astype(np.float64) / np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    length = np.linalg.norm(student, axis=1, keepdims=True)
    s = student / length
    return -(t - (t * s).sum(axis=1, keepdims=True) * s) / length / len(vectors)


@fault("M05", **{"the-bound": replaced("clipkd.embeddings.vectors.HOLDS", 2.0)})
def test_outliers_do_not_coarsen_the_others(tmp_path: Path) -> None:
    """At 1000 times the usual distance a grid's step is 1000 times too wide; the gradient tells."""
    for factor, form in ((1.0, "int16"), (10.0, "int16"), (1000.0, "float32")):
        values = features(factor)
        found, facts = stored(values, tmp_path / str(factor))
        assert facts["format"] == form
        student = np.random.default_rng(1).normal(size=values.shape)
        exact = gradient(values, student)
        assert np.linalg.norm(gradient(found, student) - exact) < 3e-4 * np.linalg.norm(exact), factor
        usual = np.delete(values.astype(np.float64), FAR, axis=0)
        # A step's rounding error is even: its standard deviation is step / sqrt(12), in each dimension.
        step = (values.max(axis=0).astype(np.float64) - values.min(axis=0)) / 65534
        expected = np.sqrt((step**2).sum() / 12) / np.median(np.linalg.norm(usual - usual.mean(axis=0), axis=1))
        assert (expected > 1e-3) == (form == "float32")
        assert expected < facts["worst"] < 5 * expected
    assert (found == values).all()
    assert facts["coarse"] == COUNT - len(FAR)
    assert facts["far_rows"] == list(FAR)
    said = exceptions(facts, "Flowers test", COUNT)
    assert "Flowers test: int16 would change 1,557 of 1,560 vectors by more than 1/4096" in said
    assert "3 rows (7, 400, 1559) are far from all others" in said
    assert exceptions({"format": "int16", "worst": 1e-5}, "x", 1) == ""


NO_BOUND = dict.fromkeys(audit.MOST_RELATIVE, np.inf)


@fault("M05", **{"each-images-own-length": replaced("clipkd.embeddings.audit.MOST_RELATIVE", NO_BOUND)})
def test_an_audit_finds_a_stretched_grid() -> None:
    """Deviations are as large as outliers make them: of those, the errors are small."""
    values = features(1000.0)
    grid = grid_of(values.min(axis=0), values.max(axis=0))
    coarse = decoded(encoded(values, grid), grid)
    cosine, error, relative, wrong = audit.compared(coarse, values, values.std(axis=0), "float32")
    assert cosine.min() > audit.LEAST_COSINE["float32"]
    assert error.max() < audit.MOST_ERROR["float32"]
    lengths = np.linalg.norm(values, axis=1)
    np.testing.assert_allclose(relative, np.linalg.norm(coarse - values, axis=1) / lengths, rtol=1e-4)
    assert wrong.mean() > 0.5
    assert not audit.compared(values, values, values.std(axis=0), "float32")[3].any()


def test_an_extraction_says_it_and_its_audit_is_right(
    digits_folder: Path, vit_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """A teacher that gives the brightest images vectors of 1000 times the length."""
    (tmp_path / "datasets").symlink_to(digits_folder / "datasets")
    layout, digits, spec = Layout(tmp_path, sample=Sample(20)), datasets.get("digits"), teachers.get(str(vit_folder))
    store = layout.embeddings(digits, spec, prototype_views(recipes.get("corrected"), digits, spec, layout.sample))
    real, bright = Teacher.embed, 0.0

    def embed(self: Teacher, inputs: torch.Tensor) -> torch.Tensor:
        factor = torch.where(inputs.mean(dim=(1, 2, 3)) > bright, 1000.0, 1.0)
        return real(self, inputs) * factor[:, None]

    dataset = prepare.dataset(digits, layout, None)
    means = np.sort([dataset.image("train", row).mean() / 127.5 - 1 for row in range(len(dataset.train_labels))])
    bright = float(means[-40])
    monkeypatch.setattr(Teacher, "embed", embed)
    prepare.embeddings(store, layout, None, CPU)
    artifact = open_artifact(store.folder, "embeddings", store.identity)
    facts = artifact.facts["formats"]["sample"]
    assert 0 < facts["far"] < 40
    assert f"{facts['far']} rows (" in capsys.readouterr().err
    assert artifact.array("sample").dtype == np.float32
    loaded = teacher.load(spec, layout.teacher(spec), CPU)
    (found,) = audit.stores(store.folder.parent, dataset, loaded)
    verdict = audit.audit(*found, dataset, loaded, images=200, seed=0)
    assert verdict.is_right
    assert verdict.relative < 1e-4
