"""Tables of the results: accuracy, cost, resources, and whether the teacher matters. No torch here.

Each table is written as CSV (plain numbers, for programs), Markdown, LaTeX and HTML.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from clipkd.spec.cells import expand
from clipkd.tables.cleanup import remove_leftovers
from clipkd.tables.results import Results, values
from clipkd.tables.table import Table

FORMATS = ("csv", "md", "tex", "html")
METRICS = {"top1": "top-1", "top5": "top-5"}
KINDS = {
    "last": "last epoch",
    "selected": "validation-selected epoch",
    "best-test": "best epoch chosen on the test set, as released: optimistic",
}


def table_stems(config: dict[str, Any]) -> list[str]:
    """Return the file names, without suffix, of the tables that a config gives; cheap, reads no run."""
    from clipkd.plugins import recipes

    chosen = {"validation": "selected", "test": "best-test"}
    kinds = [
        (recipe, kind)
        for recipe in values(expand(config)[0], "recipe")
        for kind in ("last", chosen[recipes.get(recipe).selection])
    ]
    accuracy = [f"accuracy-{recipe}-{kind}-{metric}" for recipe, kind in kinds for metric in METRICS]
    has_prototypes = any(cell.method.signal == "prototypes" for cell in expand(config)[0])
    return [*accuracy, "teacher-matters", *["prototypes"] * has_prototypes, "cost", "resources", "teachers"]


def accuracy_stem(stem: str) -> tuple[str, str, str] | None:
    """Return recipe, kind and metric of an accuracy table's name, None for another table's."""
    if not stem.startswith("accuracy-"):
        return None
    rest, _, metric = stem.removeprefix("accuracy-").rpartition("-")
    kind = next(kind for kind in KINDS if rest.endswith(f"-{kind}"))
    return rest.removesuffix(f"-{kind}"), kind, metric


def title(stem: str) -> str:
    """Return a table's title."""
    titles = {
        "teacher-matters": "Does the teacher matter?",
        "prototypes": "The classifier beside the nearest prototype",
        "cost": "Cost of training and extraction",
        "resources": "The paper's resource figure, published and measured",
        "teachers": "Teachers and their embeddings",
    }
    accuracy = accuracy_stem(stem)
    if accuracy is None:
        return titles[stem]
    recipe, kind, metric = accuracy
    return f"Test accuracy, recipe {recipe}, {KINDS[kind]}, {METRICS[metric]}"


def report_entry(stem: str) -> dict[str, Any]:
    """Return caption, category and labels of a table in the workflow's report."""
    # The report's menu is as wide as its longest label.
    label = title(stem).replace(KINDS["best-test"], "best test epoch")
    caption = "tables-accuracy" if accuracy_stem(stem) else f"tables-{stem}"
    return {"caption": caption, "category": "Tables", "labels": {"table": label}}


def write_tables(config: dict[str, Any], results: Path, data: Path, output: Path, partial: bool = False) -> None:
    """Write every table of a config, in every format; those of an earlier config that it has not are removed.

    Args:
        config: a resolved config.
        results: the folder that holds runs/.
        data: the folder that holds datasets/, teachers/ and embeddings/.
        output: the folder to write to.
        partial: report what is there, with marks, instead of refusing an incomplete grid.

    Raises:
        DataError: a run is missing or damaged; the message names it.
    """
    from clipkd.tables.formats import write

    found = Results.collect(config, Path(results) / "runs", Path(data), partial)
    for table in made(found):
        write(table, Path(output))
    remove_leftovers(Path(output), table_stems(config), FORMATS)


def made(found: Results) -> list[Table]:
    """Return every table of the results, in the order of `table_stems`."""
    import clipkd.tables.accuracy as accuracy
    import clipkd.tables.cost as cost
    import clipkd.tables.prototypes as prototypes
    import clipkd.tables.resources as resources
    import clipkd.tables.teacher_matters as teacher_matters
    import clipkd.tables.teachers as teachers

    others: dict[str, Callable[[Results], Table]] = {
        "teacher-matters": teacher_matters.table,
        "prototypes": prototypes.table,
        "cost": cost.table,
        "resources": resources.table,
        "teachers": teachers.table,
    }
    tables = []
    for stem in table_stems(found.config):
        named = accuracy_stem(stem)
        table = accuracy.table(found, *named) if named else others[stem](found)
        table.stem, table.title = stem, title(stem)
        table.notes = [*found.gaps(), *table.notes, *(f"Left out: {reason}." for reason in found.left_out)]
        tables.append(table)
    return tables
