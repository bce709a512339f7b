"""Synthetic run folders and manifests: numbers that can be worked out by hand, in the formats of the real ones."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from clipkd.core.artifacts import building, entry_of, write_manifest
from clipkd.core.files import write_json, write_text
from clipkd.core.fingerprint import fingerprint
from clipkd.spec.cells import Cell
from clipkd.spec.grid import expand
from clipkd.spec.identities import run_identity
from clipkd.spec.layout import Layout
from clipkd.spec.settings import Config

CLASSES = 10
DIMENSIONS = 16
TEST, SAMPLE = 200, 50
CONTENT = "c" * 64
"""What stands for the bytes of every synthetic dataset."""
VALIDATION: int | None = 200
"""Images that choose the epoch of recipe corrected."""
LEVELS = {
    "supervised": 0.80,
    "vanilla": 0.84,
    "teacher-KD": 0.78,
    "embed-KD": 0.82,
    "embed-KD-random": 0.81,
    "embed-KD-permuted": 0.82,
    "embed-KD-onehot": 0.79,
}
"""Last-epoch test top-1 of seed 0; later seeds are 0.01 higher each."""

DEMO: dict[str, Any] = {
    "grid": [
        {
            "name": "methods",
            "datasets": ["digits"],
            "teachers": ["digits-vit-s", "digits-vit-xs"],
            "students": ["tiny-32"],
            "train_types": ["supervised", "vanilla", "teacher-KD", "embed-KD"],
            "recipes": ["reference", "corrected"],
            "seeds": [0, 1],
        },
        {
            "name": "controls",
            "datasets": ["digits"],
            "teachers": ["digits-vit-s"],
            "students": ["tiny-32"],
            "train_types": ["embed-KD-random", "embed-KD-permuted", "embed-KD-onehot"],
            "recipes": ["reference", "corrected"],
            "seeds": [0, 1],
        },
        {
            "name": "live teacher cost",
            "datasets": ["digits"],
            "teachers": ["digits-vit-s"],
            "students": ["tiny-32"],
            "train_types": ["vanilla", "teacher-KD"],
            "recipes": ["reference"],
            "seeds": [0],
            "teacher_source": "live",
            "epochs": 3,
        },
    ],
    "training": {
        "epochs": 4,
        "batch_size": 64,
        "learning_rate": 1e-3,
        "weight_decay": 0.1,
        "precision": "fp32",
        "device": "cpu",
    },
    "embeddings": {"dtype": "float16", "shards": 1, "views": 4, "batch_size": 64},
    "prototypes": {"per_class": 5, "seed": 0},
    "sources": {},
}


def top1(cell: Cell) -> float:
    """Return the last epoch's test top-1 of a cell."""
    return LEVELS[cell.train_type] + 0.01 * cell.seed


@dataclass
class Study:
    """A results folder and a data folder, written for a config."""

    config: Config
    root: Path

    @property
    def results(self) -> Path:
        return self.root / "results"

    @property
    def data(self) -> Path:
        return self.root / "data"

    @property
    def cells(self) -> list[Cell]:
        return expand(self.config)[0]

    def folder(self, **axes: Any) -> Path:
        """Return the folder of the first cell with these values on its axes."""
        cell = next(c for c in self.cells if all(getattr(c, axis) == value for axis, value in axes.items()))
        return self.results / "runs" / cell.folder

    def change(self, folder: Path, name: str, key: str, value: Any) -> None:
        """Put `value` at a dotted key of one of a run's JSON files."""
        path = folder / name
        data = json.loads(path.read_text(encoding="utf-8"))
        *parents, last = key.split(".")
        place = data
        for parent in parents:
            place = place[parent]
        place[last] = value
        path.write_text(json.dumps(data), encoding="utf-8")
        seal(folder)


def seal(folder: Path) -> None:
    """Write a run's manifest for its files as they are now; what made it stands in its metrics."""
    identity = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))["identity"]
    files = {path.name: entry_of(path) for path in sorted(folder.iterdir()) if path.name != "manifest.json"}
    write_manifest(folder, "run", identity, {}, files)


def demo() -> dict[str, Any]:
    """Return a config in the shape of the demo's, to be changed freely."""
    return copy.deepcopy(DEMO)


def small() -> dict[str, Any]:
    """Return a config of eight runs: both recipes, one teacher, two seeds with and without it."""
    config = demo()
    config["grid"] = [config["grid"][0] | {"teachers": ["digits-vit-s"], "train_types": ["supervised", "vanilla"]}]
    return config


def write_study(config: dict[str, Any], root: Path, accuracy: Callable[[Cell], float] = top1) -> Study:
    """Write every run of a config, and the manifests that its tables and figures read."""
    study = Study(Config.model_validate(config), root)
    for cell in study.cells:
        write_run(cell, study, accuracy(cell))
    layout = Layout.of(study.config, study.data)
    for cell in study.cells:
        for one in cell.by_teacher:
            write_sources(one, layout)
    return study


def write_run(cell: Cell, study: Study, accuracy: float) -> None:
    """Write metrics.json, cost.json and history.csv; the selected epoch is the last but one, 0.005 better."""
    folder, layout = study.results / "runs" / cell.folder, Layout.of(study.config, study.data)
    identity = run_identity(cell, cell.hyperparameters(study.config), layout, CONTENT)
    write_json(folder / "metrics.json", metrics_of(cell, accuracy, identity))
    write_json(folder / "cost.json", cost_of(cell))
    lines = ["epoch,learning_rate,train_loss,train_classification,val_loss,val_top1,val_top5,split"]
    for epoch in range(1, cell.epochs + 1):
        rising = accuracy * (1 - 0.5**epoch)
        losses = f"{2 * 0.8**epoch + 0.02 * cell.seed},1.0,1.5"
        lines.append(f"{epoch},0.001,{losses},{rising},{max(rising, 0.9)},{cell.recipe_spec.selection}")
    write_text(folder / "history.csv", "\n".join(lines) + "\n")
    seal(folder)


def metrics_of(cell: Cell, accuracy: float, identity: dict[str, Any]) -> dict[str, Any]:
    """Return the content of a run's metrics.json."""
    best = {"top1": accuracy + 0.005, "top5": 0.99, "loss": 0.5}
    last = {"top1": accuracy, "top5": 0.98, "loss": 0.6}
    selection = cell.selection
    if selection == "none":
        best = last = None
    held_out = {"top1": 0.9, "top5": 1.0, "loss": 0.4} if selection == "validation" else None
    axes = ("recipe", "dataset", "student", "teacher", "train_type", "seed", "teacher_source")
    return {
        "format": 2,
        "fingerprint": fingerprint(identity),
        "identity": identity,
        "cell": {axis: getattr(cell, axis) for axis in axes} | {"teacher": cell.teacher_of_seed},
        "epochs": cell.epochs,
        "classes": cell.dataset_spec.classes or CLASSES,
        "train_images": 1000,
        "validation_images": held_out_of(cell),
        **({"labelled_images": cell.labels - held_out_of(cell)} if cell.few_labels else {}),
        "student_parameters": 250_000,
        "last": {"epoch": cell.epochs, "test": last, "validation": held_out},
        "selected": {"epoch": max(1, cell.epochs - 1), "by": selection, "test": best, "validation": held_out},
    }


def held_out_of(cell: Cell) -> int:
    """Return how many images of a cell's run are held out."""
    if cell.selection != "validation":
        return 0
    return cell.few_labels.count // 5 if cell.few_labels else VALIDATION


def cost_of(cell: Cell) -> dict[str, Any]:
    """Return the content of a run's cost.json."""
    live = cell.teacher_source == "live"
    seconds = (4.0 if live else 2.0) + 0.5 * cell.seed
    return {
        "device": {"kind": "cpu", "name": "Example CPU", "threads": 2},
        "seconds_per_epoch": [10 * seconds] + [seconds] * (cell.epochs - 1),
        "images_per_second": 1000 / seconds,
        "images_per_epoch": 1000,
        "teacher": {
            "source": "none" if cell.teacher == "none" else cell.teacher_source,
            "forward_passes": 1000 * cell.epochs if live else 0,
            "weights_bytes": 8_000_000 if live else 0,
        },
        "student_weights_bytes": 1_000_000,
        "weights_bytes": 9_000_000 if live else 1_000_000,
        "peak_memory_bytes": 500_000_000,
        "peak_memory_of": "process",
    }


def write_sources(cell: Cell, layout: Layout) -> None:
    """Write the dataset's labels, and the teacher's manifests: those that the cell's run would have read."""
    dataset, teacher, signal = cell.dataset_spec, cell.teacher_spec, cell.method.signal
    classes = dataset.classes or CLASSES
    test_labels, sample_labels = np.arange(TEST) % classes, np.repeat(np.arange(classes), max(1, SAMPLE // classes))
    if not layout.dataset(dataset).exists():
        with building(layout.dataset(dataset), "dataset", dataset.identity()) as draft:
            np.save(draft.path / "test-labels.npy", test_labels)
            train, held_out = dataset.counts or (10_000, 1_000)
            draft.facts |= {"classes": [f"class {number}" for number in range(classes)], "test": TEST}
            draft.facts |= {"content": CONTENT, "train": train, "validation": held_out}
    if teacher is None:
        return
    if not layout.teacher(teacher).exists():
        with building(layout.teacher(teacher), "teacher", teacher.identity()) as draft:
            draft.facts |= {"accuracy": {"validation": 0.97, "test": 0.96}, "parameters": 2_000_000, "seconds": 9.0}
    generator = np.random.default_rng(len(teacher.name))
    centres = 4 * generator.normal(size=(classes, DIMENSIONS))
    store = layout.sample_embeddings(cell) if signal == "prototypes" else layout.full_embeddings(cell)
    is_sample = signal == "prototypes" and not layout.labelled_sample(cell)
    name, labels = ("sample", sample_labels) if is_sample else ("test", test_labels)
    if not store.folder.exists():
        vectors = centres[labels] + generator.normal(size=(len(labels), DIMENSIONS))
        with building(store.folder, "embeddings", store.identity) as draft:
            np.save(draft.path / f"{name}.npy", vectors.astype(np.float16))
            if name == "sample":
                np.save(draft.path / "sample-labels.npy", labels)
            passes = 50 if name == "sample" else 2200
            draft.facts |= {"seconds": passes / 100, "forward_passes": passes, "device": "Example CPU"}
            draft.facts["dataset_content"] = CONTENT
    if signal == "prototypes":
        folder, identity = layout.prototypes(cell)
        if not folder.exists():
            with building(folder, "prototypes", identity) as draft:
                np.save(draft.path / "prototypes.npy", centres.astype(np.float32))
                draft.facts |= {"classes": classes, "per_class": 5, "dataset_content": CONTENT}
    folder, identity = store.head(cell.few_labels)
    if signal == "scores" and not folder.exists():
        with building(folder, "head", identity) as draft:
            kind = "checkpoint" if teacher.brings_head(dataset.name) else "linear probe"
            draft.facts |= {"head": kind, "accuracy": {"test": 0.95}, "top5": {"test": 0.995}}
            draft.facts["dataset_content"] = CONTENT
