"""Figures of the results: their names, titles and captions. No torch and no matplotlib here; `write` draws them."""

from __future__ import annotations

import itertools
from collections.abc import Container, Iterable
from typing import Any, NamedTuple

from clipkd.plugins import students
from clipkd.spec.cells import Cell
from clipkd.spec.chains import expand
from clipkd.spec.settings import Config
from clipkd.tables.published import repeats_paper
from clipkd.tables.results import accuracy_cells, teacher_names, values, where
from clipkd.tables.settings import labels

FORMATS = ("png", "svg")


class Kind(NamedTuple):
    """A kind of figure, as the workflow's report lists it and the page explains it."""

    category: str
    title: str
    caption: str


KINDS = {
    "accuracy": Kind(
        "Accuracy",
        "Test accuracy by train type",
        "Test accuracy by train type: bars are means, dots are seeds, the dotted line is chance.",
    ),
    "labels": Kind(
        "Accuracy",
        "Test accuracy by number of labels",
        "Test accuracy against the number of labels: points are means over seeds, bars their 95 % confidence "
        "intervals; dotted: the teacher's own classifier, or one fitted to its embeddings and the same labels.",
    ),
    "learning-curves": Kind(
        "Accuracy",
        "Learning curves",
        "Accuracy on the split that is watched in training, and training loss, by epoch: lines are means over seeds, "
        "bands span the lowest and highest. Losses of different train types have different terms.",
    ),
    "reliability": Kind(
        "Evaluation",
        "Reliability diagrams",
        "Accuracy against confidence, in 15 bins, all seeds together: on the dotted line students are as often right "
        "as they are sure, below it less often.",
    ),
    "confusion": Kind(
        "Evaluation",
        "Confusion of classes",
        "Of the test images of each class (row), the share that is classified as each class (column), all seeds "
        "together; the diagonal is the accuracy of the class.",
    ),
    "embeddings": Kind(
        "Embeddings",
        "t-SNE of embeddings and prototypes",
        "t-SNE of the teachers' stored embeddings of test images, and the class prototypes (stars). "
        "Distances between groups in such a picture mean little.",
    ),
    "cost": Kind(
        "Cost",
        "Time and teacher passes, live and cached teacher",
        "Seconds per epoch and images through the teacher, with the live teacher and with its stored signal.",
    ),
    "resources": Kind(
        "Cost",
        "The paper's resource figure, published and measured",
        "Memory of the weights, accuracy and time: read off the paper's figure, and measured here.",
    ),
}


def figures(config: Config, cells: Iterable[Cell] | None = None) -> dict[str, tuple[str, ...]]:
    """Return stem -> (kind, what it shows) of every figure of a config; reads no run.

    `cells`: those of the config, where they are known already.
    """
    every = list(expand(config)[0] if cells is None else cells)
    cells = accuracy_cells(every)
    named = labels(config, cells)
    found: dict[str, tuple[str, ...]] = {}
    for dataset in values(cells, "dataset"):
        found[f"accuracy-{dataset}"] = ("accuracy", dataset)
    for dataset in values(cells, "dataset"):
        if any(cell.few_labels for cell in where(cells, dataset=dataset)):
            found[f"labels-{dataset}"] = ("labels", dataset)
    for dataset in values(cells, "dataset"):
        here = where(cells, dataset=dataset)
        panels = dict.fromkeys((cell.student, named[cell.recipe], cell.labels) for cell in here)
        for student, recipe, seen in panels:
            few = "" if seen == "all" else f"-{seen}-labels"
            stem = f"learning-curves-{recipe}-{dataset}-{students.get(student).name}{few}"
            found[free(stem, found)] = ("learning-curves", recipe, dataset, student, str(seen))
    evaluated = {"calibration": "reliability", "classes": "confusion"}
    for kind in (evaluated[one] for one in config.evaluation if one in evaluated):
        grids = dict.fromkeys((named[cell.recipe], cell.dataset, cell.student, cell.labels) for cell in cells)
        for recipe, dataset, student, seen in grids:
            few = "" if seen == "all" else f"-{seen}-labels"
            stem = f"{kind}-{recipe}-{dataset}-{students.get(student).name}{few}"
            found[free(stem, found)] = (kind, recipe, dataset, student, str(seen))
    for dataset in values(cells, "dataset"):
        if teacher_names(where(cells, dataset=dataset)):
            found[f"embeddings-{dataset}"] = ("embeddings", dataset)
    found["cost"] = ("cost",)
    return found | ({"resources": ("resources",)} if repeats_paper(every) else {})


def free(stem: str, taken: Container[str]) -> str:
    """Return a file name that no other figure has: names may hold the `-` that joins them."""
    numbered = (f"{stem}-{number}" for number in itertools.count(2))
    return stem if stem not in taken else next(name for name in numbered if name not in taken)


def figure_stems(config: Config) -> list[str]:
    """Return the file names, without suffix, of the figures of a config."""
    return list(figures(config))


def report_entry(stem: str) -> dict[str, Any]:
    """Return caption, category and labels of a figure in the workflow's report."""
    name, kind = next((name, kind) for name, kind in KINDS.items() if f"{stem}-".startswith(f"{name}-"))
    what = stem.removeprefix(name).removeprefix("-")
    label = f"{kind.title}: {what}" if what else kind.title
    return {"caption": f"figures-{name}", "category": kind.category, "labels": {"figure": label}}
