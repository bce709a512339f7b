"""Tables of the results: accuracy, cost, resources, and whether the teacher matters. No torch here.

Each table is written as CSV (plain numbers, for programs), Markdown, LaTeX and HTML; runs.csv has every run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from clipkd.core.files import write_text
from clipkd.spec.cells import Cell
from clipkd.spec.chains import expand
from clipkd.spec.settings import Config
from clipkd.tables.by_recipe import has_several
from clipkd.tables.cleanup import remove_leftovers
from clipkd.tables.published import repeats_paper
from clipkd.tables.results import Results, accuracy_cells
from clipkd.tables.settings import labels, sweeps_of
from clipkd.tables.table import Table
from clipkd.tables.terms import EPOCHS, METRICS, choices

FORMATS = ("csv", "md", "tex", "html")
RUNS = "runs.csv"
"""The frame that all tables are made of: a row per run and choice of its epoch."""


class Kind(NamedTuple):
    """A table that is no accuracy table."""

    title: str
    module: str
    """The one in this package that makes it."""
    is_made: Callable[[Config, Sequence[Cell]], object] = lambda config, cells: True
    """Whether a config with these cells has it."""


KINDS = {
    "labels": Kind(
        "Test accuracy by number of labels",
        "by_labels",
        lambda config, cells: any(cell.few_labels is not None for cell in cells),
    ),
    "sweep": Kind(
        "Settings of sweeps, chosen by validation",
        "sweep",
        lambda config, cells: sweeps_of(config, accuracy_cells(cells)),
    ),
    "recipes": Kind(
        "Recipes side by side", "by_recipe", lambda config, cells: has_several(config, accuracy_cells(cells))
    ),
    "evaluation": Kind("Students beyond their accuracy", "evaluation", lambda config, cells: config.evaluation),
    "teacher-matters": Kind("Does the teacher matter?", "teacher_matters"),
    "prototypes": Kind(
        "The classifier beside the nearest prototype",
        "prototypes",
        lambda config, cells: any(cell.method.signal == "prototypes" for cell in cells),
    ),
    "cost": Kind("Cost of training and extraction", "cost"),
    "resources": Kind(
        "The paper's resource figure, published and measured", "resources", lambda config, cells: repeats_paper(cells)
    ),
    "teachers": Kind("Teachers and their embeddings", "teachers"),
}
"""By the file's name, in the order in which tables are listed."""


def table_stems(config: Config, cells: Sequence[Cell] | None = None) -> list[str]:
    """Return the file names, without suffix, of the tables that a config gives; cheap, reads no run.

    `cells`: those of the config, where they are known already.
    """
    cells = expand(config)[0] if cells is None else cells
    named = {label: recipe for recipe, label in labels(config, accuracy_cells(cells)).items()}
    accuracy = [
        f"accuracy-{label}-{epoch}-{metric}"
        for label, recipe in named.items()
        for epoch in choices(recipe)
        for metric in METRICS
    ]
    return [*accuracy, *(stem for stem, kind in KINDS.items() if kind.is_made(config, cells))]


def table_files(config: Config, cells: Sequence[Cell] | None = None) -> list[str]:
    """Return the names of the files that a config's tables are written to; `cells` as in `table_stems`."""
    return [*(f"{stem}.{suffix}" for stem in table_stems(config, cells) for suffix in FORMATS), RUNS]


def accuracy_stem(stem: str) -> tuple[str, str, str] | None:
    """Return recipe, choice of epoch and metric of an accuracy table's name, None for another table's."""
    if not stem.startswith("accuracy-"):
        return None
    rest, _, metric = stem.removeprefix("accuracy-").rpartition("-")
    epoch = next(epoch for epoch in EPOCHS if rest.endswith(f"-{epoch}"))
    return rest.removesuffix(f"-{epoch}"), epoch, metric


def module_of(stem: str) -> Any:
    """Return the module whose `table` makes a table that is no accuracy table; with pandas, which names don't need."""
    return import_module(f"{__name__}.{KINDS[stem].module}")


def title(stem: str) -> str:
    """Return a table's title."""
    accuracy = accuracy_stem(stem)
    if accuracy is None:
        return KINDS[stem].title
    recipe, epoch, metric = accuracy
    return f"Test accuracy, recipe {recipe}, {EPOCHS[epoch]}, {METRICS[metric]}"


def report_entry(stem: str) -> dict[str, Any]:
    """Return caption, category and labels of a table in the workflow's report."""
    # The report's menu is as wide as its longest label.
    label = title(stem).replace(EPOCHS["best-test"], "best test epoch")
    caption = "tables-accuracy" if accuracy_stem(stem) else f"tables-{stem}"
    return {"caption": caption, "category": "Tables", "labels": {"table": label}}


def write_tables(
    config: Config, results: Path, data: Path, output: Path, partial: bool = False, summary: Path | None = None
) -> list[Path]:
    """Read the runs of a config and write every table. Return the files.

    Args:
        config: a resolved config.
        results: the folder that holds runs/.
        data: the folder that holds datasets/, teachers/ and embeddings/.
        output: the folder to write to.
        partial: report what is there, with marks, instead of refusing an incomplete grid.
        summary: a JSON file to write the means of all cells to (`dvc metrics`).

    Raises:
        DataError: a run is missing or damaged; the message names it.
    """
    found = Results.collect(config, results / "runs", data, partial)
    return save_tables(found, made(found), output, summary)


def save_tables(found: Results, tables: Sequence[Table], output: Path, summary: Path | None = None) -> list[Path]:
    """Write tables in every format, and the frame; remove those that only an earlier config had. Return the files."""
    from clipkd.tables import metrics_file
    from clipkd.tables.formats import write

    for table in tables:
        write(table, output)
    write_text(output / RUNS, found.every_run.to_csv(index=False, lineterminator="\n"))
    if summary is not None:
        write_text(summary, metrics_file.text(found.shown))
    names = table_files(found.config, found.cells)
    remove_leftovers(output, names)
    return [*(output / name for name in names), *([summary] if summary else [])]


def made(found: Results) -> list[Table]:
    """Return every table of the results, in the order of `table_stems`."""
    from clipkd.tables import accuracy

    tables = []
    for stem in table_stems(found.config, found.cells):
        named = accuracy_stem(stem)
        table = accuracy.table(found, *named) if named else module_of(stem).table(found)
        table.stem, table.title = stem, title(stem)
        table.notes = [*found.gaps(), *table.notes, *found.remarks()]
        tables.append(table)
    return tables
