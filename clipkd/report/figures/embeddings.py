"""Teacher embeddings and class prototypes in the plane, by t-SNE."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from clipkd.core.artifacts import MANIFEST, Artifact, open_artifact
from clipkd.core.errors import DataError
from clipkd.embeddings.vectors import Vectors
from clipkd.report.figures.style import legend, new_figure
from clipkd.spec.cells import Cell
from clipkd.tables.results import (
    Results,
    accuracy_cells,
    dataset_title,
    teacher_names,
    teacher_titles,
    values,
    where,
)
from clipkd.tables.teacher_stats import needs_full, needs_sample

POINTS = 2000
"""Most images that a panel shows."""
CLASSES = 10
"""Most classes that a panel shows: more colours can't be told apart."""
SEED = 0
# P. Tol, "Colour Schemes", the muted scheme, https://sronpersonalpages.nl/~pault/; the last is its grey, darkened.
COLOURS = (
    "#332288", "#CC6677", "#117733", "#DDCC77", "#88CCEE", "#882255", "#44AA99", "#999933", "#AA4499", "#888888",
)  # fmt: skip


@dataclass(frozen=True)
class Cloud:
    """What a panel shows: vectors [N, D] with class numbers [N], and prototypes [C, D], [C, P, D] or None."""

    vectors: Vectors
    labels: np.ndarray
    prototypes: np.ndarray | None
    what: str


def draw(results: Results, dataset: str) -> Figure:
    """Return the figure of one dataset: a panel for each teacher.

    Raises:
        DataError: an array is missing or damaged.
    """
    cells = [one for cell in where(accuracy_cells(results.cells), dataset=dataset) for one in cell.by_teacher]
    titles = teacher_titles(teacher_names(cells))
    columns = min(2, len(titles))
    lines = math.ceil(len(titles) / columns)
    title = f"{dataset_title(dataset, results.config)}: teacher embeddings and class prototypes (t-SNE)"
    figure = new_figure(max(5.2 * columns, 6.5), 4.7 * lines + 0.9, title)
    grid = figure.subplots(lines, columns, squeeze=False).ravel()
    names, count = class_names(results, cells[0])
    for axes, teacher in zip(grid, titles, strict=False):
        cloud = cloud_of(results, where(cells, teacher=teacher)) if names else None
        if cloud is None:
            axes.set_title(f"{titles[teacher]}: no stored {'embeddings' if names else 'dataset'} †")
        else:
            axes.set_title(f"{titles[teacher]}: {cloud.what}")
            panel(axes, cloud, names)
    for axes in grid:
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set(visible=True, color="#cccccc")
    for axes in grid[len(titles) :]:
        axes.set_axis_off()
    some = f"{len(names)} of {count} classes shown; " if len(names) < count else ""
    note = "embeddings at unit length; dots: images, coloured by class; stars: class prototypes; "
    legend(figure, [], f"{note}{some}axes have no unit")
    return figure


def class_names(results: Results, cell: Cell) -> tuple[dict[int, str], int]:
    """Return number -> name of the classes to show, evenly spread over all, and how many there are.

    Empty where the dataset is missing and may be.
    """
    layout, spec = results.teachers.layout, cell.dataset_spec
    dataset = opened(layout.dataset(spec), "dataset", [], results.partial)
    if dataset is None:
        return {}, 0
    names = layout.prompts(spec).of(dataset.facts["classes"])
    chosen = sorted({round(number) for number in np.linspace(0, len(names) - 1, min(CLASSES, len(names)))})
    return {number: str(names[number]) for number in chosen}, len(names)


def cloud_of(results: Results, cells: list[Cell]) -> Cloud | None:
    """Return the stored vectors of one teacher: of the corrected recipe where there are any, else of the first one."""
    ordered = sorted(cells, key=lambda cell: cell.recipe != "corrected")
    clouds = (recipe_cloud(results, where(ordered, recipe=recipe)) for recipe in values(ordered, "recipe"))
    return next((cloud for cloud in clouds if cloud is not None), None)


def recipe_cloud(results: Results, cells: list[Cell]) -> Cloud | None:
    """Return a teacher's stored vectors of one recipe: those of the test images, else those its prototypes are of."""
    layout, partial, recipe = results.teachers.layout, results.partial, cells[0].recipe_spec.name
    sampled = next((cell for cell in cells if needs_sample(cell)), None)
    full = next((cell for cell in cells if needs_full(cell) or layout.labelled_sample(cell)), None)
    prototypes = None
    if sampled is not None:
        made = opened(layout.prototypes(sampled)[0], "prototypes", ["prototypes"], partial)
        prototypes = made.array("prototypes") if made else None
    if full is not None:
        test = opened(layout.full_embeddings(full).folder, "embeddings", ["test", "test-grid"], partial)
        dataset = opened(layout.dataset(full.dataset_spec), "dataset", ["test-labels"], partial)
        if (
            test and dataset and "test.npy" in test.manifest["files"]
        ):  # of imported vectors there may be none of test images
            title = f"test images, recipe {recipe}"
            return Cloud(Vectors(test, "test"), dataset.array("test-labels"), prototypes, title)
    if sampled is not None:
        folder, names = layout.sample_embeddings(sampled).folder, ["sample", "sample-grid", "sample-labels"]
        if sample := opened(folder, "embeddings", names, partial):
            kind = "prompts" if "templates" in sample.facts else "training images"
            title = f"{kind} of the prototypes, recipe {recipe}"
            return Cloud(Vectors(sample, "sample"), sample.array("sample-labels"), prototypes, title)
    return None


def opened(folder: Path, kind: str, names: list[str], may_be_missing: bool) -> Artifact | None:
    """Return an artefact, the named arrays verified; None where it is missing and may be."""
    if not (folder / MANIFEST).exists():
        if may_be_missing:
            return None
        raise DataError(f"no {kind} at {folder}: {MANIFEST} is missing; run `dvc pull`, or add `--partial`")
    return open_artifact(folder, kind, only=[f"{name}.npy" for name in names])


def panel(axes: Axes, cloud: Cloud, names: dict[int, str]) -> None:
    """Draw the images as dots and the prototypes as stars with the class's name."""
    rows = np.flatnonzero(np.isin(cloud.labels, list(names)))
    if len(rows) > POINTS:
        rows = np.sort(np.random.default_rng(SEED).choice(rows, POINTS, replace=False))
    labels = np.asarray(cloud.labels[rows])
    vectors = cloud.vectors[rows]
    stars = np.zeros((0, vectors.shape[1]), np.float32)
    if cloud.prototypes is not None:
        stars = np.asarray(cloud.prototypes[list(names)], dtype=np.float32).reshape(-1, vectors.shape[1])
    plane = project(np.concatenate([vectors, stars]))
    dots, stars = plane[: len(vectors)], plane[len(vectors) :]
    outline: list[patheffects.AbstractPathEffect] = [patheffects.withStroke(linewidth=2.5, foreground="white")]
    for position, (number, name) in enumerate(names.items()):
        members = dots[labels == number]
        axes.scatter(members[:, 0], members[:, 1], s=9, color=COLOURS[position], alpha=0.7, linewidths=0)
        if len(stars):
            mine = stars.reshape(len(names), -1, 2)[position]  # a class may have several prototypes
            style: dict[str, Any] = {"marker": "*", "color": COLOURS[position], "edgecolor": "black", "zorder": 3}
            axes.scatter(mine[:, 0], mine[:, 1], s=210, **style)
            place = mine[0]
        elif len(members):
            place = np.median(members, axis=0)
        else:
            continue
        label = axes.annotate(name, place, (7, 5), textcoords="offset points", fontsize=9, weight="bold", zorder=4)
        label.set_parse_math(False)  # a class name may hold dollar signs
        label.set_path_effects(outline)
    axes.margins(x=0.12, y=0.08)  # room for the labels


def project(vectors: np.ndarray) -> np.ndarray:
    """Return t-SNE's positions [N, 2] of vectors [N, D], scaled to unit length; equal on every run.

    One thread: the order of a parallel sum would change the last digits, and t-SNE magnifies them.
    """
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    with threadpool_limits(limits=1):
        perplexity = min(30.0, (len(unit) - 1) / 3)
        tsne = TSNE(perplexity=perplexity, init="pca", max_iter=1000, random_state=SEED, n_jobs=1)
        plane: np.ndarray = tsne.fit_transform(unit)
    return plane
