"""Results: the runs that a config asks for, read, checked and put in the config's order. No torch here."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipkd.core.errors import MOST_NAMED, DataError, InputError
from clipkd.core.progress import say
from clipkd.core.words import counted, verb
from clipkd.plugins import datasets, teachers
from clipkd.runs.finished import FinishedRun, read_failure, read_run
from clipkd.runs.measured import Evaluation
from clipkd.runs.record import METRICS
from clipkd.spec.cells import NO_TEACHER, Cell
from clipkd.spec.chains import expand
from clipkd.spec.config import resolved
from clipkd.spec.layout import Layout
from clipkd.spec.settings import Config
from clipkd.tables.consistency import inconsistencies
from clipkd.tables.grouping import labels_of, place_of
from clipkd.tables.measured import numbers, read_all, refuse_missing
from clipkd.tables.mixtures import formats, mixtures
from clipkd.tables.settings import labels, shown, with_choices
from clipkd.tables.teacher_stats import TeacherStats
from clipkd.tables.terms import BASELINE, MARK

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Results:
    """The cells of a config, in its order, and the run of each."""

    config: Config
    cells: tuple[Cell, ...]
    left_out: tuple[str, ...]
    """What the config names but the grid can't have, and why."""
    runs: dict[Cell, FinishedRun]
    missing: tuple[Cell, ...]
    """Cells without a finished run."""
    failed: dict[Cell, str]
    """Those of them whose run stopped on a number that is not finite, and where."""
    teachers: TeacherStats
    absent: tuple[str, ...]
    """Manifests that finished runs were made from, and that are missing."""
    evaluations: dict[Cell, Evaluation]
    """What was measured of each student, where the config asks for it."""
    unmeasured: tuple[str, ...]
    """Folders of finished runs whose students are still to be evaluated."""
    partial: bool
    """Whether to show what is there, with marks, instead of refusing what is missing."""

    @classmethod
    def collect(cls, config: Config, runs: Path, data: Path, partial: bool = False) -> Results:
        """Read the runs that a config asks for.

        Args:
            config: a resolved config.
            runs: the folder of all run folders (results/runs).
            data: the folder of datasets, teachers and embeddings.
            partial: take what is there, instead of refusing an incomplete grid.

        Raises:
            InputError: the folder above `runs` is not there.
            DataError: a run or a manifest is missing (unless `partial`), or damaged; the message names
                every missing run, or of every wrong one the file and its field, or both files that do
                not belong together.
        """
        found, left_out = expand(config)
        cells = tuple(found)
        if not runs.parent.is_dir():
            raise InputError(f"--results {runs.parent}: no such folder; it is the one that holds {runs.name}/")
        finished: dict[Cell, FinishedRun] = {}
        wrong: list[DataError] = []
        for cell in cells:
            folder = runs / cell.folder
            if (folder / METRICS).exists():
                try:
                    finished[cell] = read_run(cell, folder)
                except DataError as error:
                    wrong.append(error)
        layout = Layout.of(config, data)
        stats = TeacherStats(layout)
        wrong += inconsistencies(config, finished, layout, stats)
        if wrong:
            raise together(wrong, runs)
        missing = tuple(cell for cell in cells if cell not in finished)
        failed = {cell: why for cell in missing if (why := read_failure(runs / cell.folder))}
        if missing and not partial:
            listed = "\n  ".join(described(cell, failed.get(cell)) for cell in missing)
            raise DataError(
                f"{len(missing)} of {len(cells)} runs are missing below {runs}; "
                f"make them, or add `--partial` to show what is there:\n  {listed}"
            )
        if missing:
            have_failed = f", {len(failed)} of them because they failed" if failed else ""
            say(f"{len(missing)} of {len(cells)} runs are missing below {runs}{have_failed}")
        for cell in dict.fromkeys(cell.kind for cell in finished):
            stats.used(cell)
            stats.head(cell)
        if stats.absent and not partial:
            listed = "\n  ".join(stats.absent)
            raise DataError(
                f"manifests that the runs were made from are missing below {data}; `dvc pull` them, "
                f"or add `--partial` to show what is there:\n  {listed}"
            )
        asked = config.evaluation
        evaluations, unmeasured = read_all(asked, runs, finished)
        if not partial:
            refuse_missing(unmeasured, asked, runs)
        return cls(
            config, cells, tuple(left_out), finished, missing, failed, stats, tuple(stats.absent),
            evaluations, tuple(unmeasured), partial,
        )  # fmt: skip

    def gaps(self) -> list[str]:
        """Return the lines above every table of an incomplete or mixed grid; figures carry the first sentences."""
        lines = []
        if self.missing:
            listed = "; ".join(described(cell, self.failed.get(cell)) for cell in self.missing)
            lines.append(
                f"INCOMPLETE: {len(self.missing)} of {len(self.cells)} runs are missing; numbers marked {MARK} "
                f"are based on fewer runs than the config requests. Missing: {listed}."
            )
        if self.absent:
            listed = "; ".join(self.absent)
            lines.append(f"INCOMPLETE: manifests for numbers marked {MARK} are missing. Missing: {listed}.")
        if self.unmeasured:
            said = f"{counted(len(self.unmeasured), 'run')} {verb(len(self.unmeasured))}"
            lines.append(f"INCOMPLETE: {said} not evaluated. Missing: {'; '.join(self.unmeasured)}.")
        return lines + self.mixed

    @cached_property
    def mixed(self) -> list[str]:
        """The lines on runs that were made in different ways."""
        return mixtures(self.runs, self.teachers.stored)

    def remarks(self) -> list[str]:
        """Return the lines below every table: what a reader must know, and nothing is wrong with."""
        lines = []
        without = sum(not cell.has_labels for cell in self.cells)
        if without:
            lines.append(
                f"Runs trained without labels, which have no accuracy and are in the tables of costs only: {without}. "
                "`clipkd evaluate RUN --dataset NAME --measures knn,probe` judges their embeddings."
            )
        return [*lines, *formats(self.runs), *(f"Left out: {reason}." for reason in self.left_out)]

    @cached_property
    def frame(self) -> pd.DataFrame:
        """A row per run of the config, finished or not, and choice of its epoch."""
        from clipkd.tables.frame import frame

        measured = {cell: numbers(one, self.config.evaluation) for cell, one in self.evaluations.items()}
        found = frame(self.cells, self.runs, self.failed, self.teachers, measured)
        return with_choices(found, self.config, self.cells)

    @cached_property
    def shown(self) -> pd.DataFrame:
        """The rows that tables and figures show: of a sweep the chosen settings, under its name."""
        return shown(self.frame)

    @property
    def has_few_labels(self) -> bool:
        """Whether some runs see few labels: tables then have a column for their number."""
        return any(cell.labels != "all" for cell in self.cells)

    @property
    def every_run(self) -> pd.DataFrame:
        """The frame as runs.csv shows it."""
        return self.frame if self.has_few_labels else self.frame.drop(columns=["labels", "labelled_images"])

    @cached_property
    def comparable(self) -> pd.DataFrame:
        """The rows of accuracy tables: all but those of runs that only measure a teacher's cost or see no label."""
        return self.shown[~self.shown.is_cost_run & (self.shown.labels != "none")]

    @cached_property
    def labels(self) -> dict[str, str]:
        """Recipe, as cells hold it -> its name in tables."""
        return labels(self.config, self.cells)


def results(folder: str | Path = "results", data: str | Path | None = None) -> pd.DataFrame:
    """Return the results of a grid as one frame: a row per run of the config and choice of its epoch.

    Args:
        folder: the folder that holds config.json and runs/.
        data: the folder of datasets, teachers and embeddings; None: `data` beside `folder`.

    Returns:
        The content of results/tables/runs.csv. Runs without a result are there too: `state` is `finished`,
        `failed` or `missing`. Accuracies are shares of 1. `is_headline` marks the epoch that comparisons use.

    Raises:
        InputError: there is no resolved config in `folder`.
        DataError: a run is damaged, or does not match the config; the message names file and field.
    """
    folder = Path(folder)
    data = folder.parent / "data" if data is None else Path(data)
    return Results.collect(resolved(folder / "config.json"), folder / "runs", data, partial=True).every_run


def together(wrong: list[DataError], runs: Path) -> DataError:
    """Return one error that says all that is wrong, each once, so that it can be put right at once."""
    said = list(dict.fromkeys(map(str, wrong)))
    if len(said) == 1:
        return wrong[0]
    listed = [text.replace("\n", "\n  ") for text in said[:MOST_NAMED]]
    if len(said) > MOST_NAMED:
        listed.append(f"and {len(said) - MOST_NAMED} more")
    return DataError("\n  ".join([f"{len(said)} problems in {runs}:", *listed]))


def accuracy_cells(cells: Iterable[Cell]) -> list[Cell]:
    """Return the cells in accuracy tables: all but those that only measure a live teacher's cost or see no label."""
    return [cell for cell in cells if not cell.is_cost_run and cell.has_labels]


def values(cells: Iterable[Cell], axis: str) -> list[Any]:
    """Return the values on one axis, each once, in the config's order."""
    return list(dict.fromkeys(getattr(cell, axis) for cell in cells))


def where(cells: Iterable[Cell], **wanted: Any) -> list[Cell]:
    """Return the cells with the wanted values on the named axes."""
    return [cell for cell in cells if all(getattr(cell, axis) == value for axis, value in wanted.items())]


def train_types(cells: Iterable[Cell]) -> list[str]:
    """Return the train types: the baseline, the methods, then the controls; else in the config's order."""
    first: dict[str, Cell] = {}
    for cell in cells:
        first.setdefault(cell.train_type, cell)
    return sorted(first, key=lambda name: (name != BASELINE, first[name].method.control_of is not None))


def teacher_names(cells: Iterable[Cell]) -> list[str]:
    """Return the teachers, without the word that stands for none."""
    return [name for name in values(cells, "teacher") if name != NO_TEACHER]


def described(cell: Cell, failure: str | None = None) -> str:
    """Return a cell in words, and why it failed, where it did."""
    words = f"{place_of(cell)}, recipe {cell.recipe_spec.name}{labels_of(cell)}, seed {cell.seed}"
    return f"{words} (FAILED: {failure})" if failure else words


def dataset_title(name: str, config: Config) -> str:
    return datasets.get(name, config.source(name)).title


def teacher_titles(names: Iterable[str]) -> dict[str, str]:
    """Return the titles that people use, by key; two teachers of one title also show their keys."""
    titles = {name: teacher_title(name) for name in names}
    shared = [title for title in titles.values() if list(titles.values()).count(title) > 1]
    return {name: f"{title} ({name})" if title in shared else title for name, title in titles.items()}


def teacher_title(name: str) -> str:
    """Return a teacher's title; its key where nothing better is known."""
    if name == NO_TEACHER:
        return "no teacher"
    try:
        return teachers.get(name).title
    except InputError:
        return name
