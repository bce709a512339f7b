"""Sweep table: every setting with its validation accuracy, and the test accuracy of the chosen one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd

from clipkd.plugins import recipes
from clipkd.spec.own_recipes import merged
from clipkd.spec.settings import Config
from clipkd.tables.accuracy import SHARE, validation_notes
from clipkd.tables.fields import labels_field, percent_fields
from clipkd.tables.grouping import groups, over_seeds, rows_of, summary_of
from clipkd.tables.results import Results, accuracy_cells, dataset_title, teacher_titles
from clipkd.tables.settings import PLACE, best, chosen_by_validation, sweeps_of
from clipkd.tables.table import NOTHING, Column, Entry, Field, Table, filled, spread, words


def table(results: Results) -> Table:
    """Return the table: a row for each setting at each place of the grid."""
    frame = results.frame
    runs = frame[frame.is_headline & ~frame.is_cost_run & (frame.labels != "none")]
    made = sweeps_of(results.config, accuracy_cells(results.cells))
    titles = teacher_titles(frame.teacher.unique())
    rows = pd.concat([part(results.config, key, of, runs) for key, of in made.items()], ignore_index=True)
    table = filled(
        [
            words("sweep", "Sweep"),
            words("dataset", "Dataset", lambda row: dataset_title(row.dataset, results.config)),
            words("student", "Student"),
            words("teacher", "Teacher", lambda row: titles[row.teacher]),
            words("train_type", "Train type"),
            *labels_field(results),
            Field("teacher_source"),
            words("setting", "Setting", lambda row: Entry(row.setting, row.is_chosen)),
            *map(Field, ("recipe", "epoch", "epochs", "n", "n_asked", "settings_tried")),
            *percent_fields("validation_", "validation_top1", Column("Validation, %"), shown("validation_top1")),
            Field("is_chosen", Column("Chosen", is_number=False), lambda row: "chosen" if row.is_chosen else NOTHING),
            *percent_fields("test_", "test", Column("Test, %"), shown("test")),
        ],
        rows_of(rows),
    )
    table.notes = notes(results, rows, runs)
    return table


def part(config: Config, key: str, of: list[str], runs: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of one sweep, place by place; with the test accuracy of the chosen setting only."""
    axes = [name for name, value in merged(key, config.recipes)[1].items() if isinstance(value, list)]
    setting = {
        spec.name: ", ".join(f"{axis} {recipes.written(getattr(spec, axis))}" for axis in axes)
        for spec in map(recipes.get, of)
    }
    parts = []
    for _, here in groups(runs[runs.recipe.isin(setting)], *PLACE):
        rows = over_seeds(here, [*PLACE, "teacher_source", "recipe", "epoch"], "validation_top1", "top1")
        chosen = best(here) if chosen_by_validation(of) else None
        parts.append(rows.assign(is_chosen=rows.recipe == chosen, settings_tried=len(rows)))
    rows = pd.concat(parts, ignore_index=True)
    test = {f"test_{part}": rows[f"top1_{part}"].where(rows.is_chosen) for part in ("mean", "deviation")}
    return rows.assign(sweep=key, setting=rows.recipe.map(setting), test_n=rows.n.where(rows.is_chosen, 0), **test)


def shown(column: str) -> Callable[[Any], Entry]:
    """Return what makes the entry of an accuracy of a setting; that of the chosen one is bold."""

    def entry(row: Any) -> Entry:
        text = spread(*summary_of(row, column), scale=SHARE)
        return Entry(text, row.is_chosen, text != NOTHING and row.n < row.n_asked)

    return entry


def notes(results: Results, rows: pd.DataFrame, runs: pd.DataFrame) -> list[str]:
    """Return the lines that say how settings were chosen, and among how many."""
    found = []
    axes = "dataset, student, labels" if results.has_few_labels else "dataset, student"
    for key, of in sweeps_of(results.config, accuracy_cells(results.cells)).items():
        mine = rows[rows.sweep == key]
        places, count = mine.groupby(PLACE).ngroups, int(mine.settings_tried.max())
        if not chosen_by_validation(of):
            found.append(
                f"{key}: no choice is possible. Some of its recipes hold out no validation images, and to choose by "
                "test accuracy would make that accuracy mean nothing. Each of its settings is a recipe of its own in "
                "the other tables."
            )
            continue
        found.append(
            f"{key}: {count} settings tried at each of {places} place{'s' if places > 1 else ''} ({axes}, teacher, "
            f"train type), {len(mine)} in all. Elsewhere, recipe {key} is the chosen setting of each."
        )
        undecided = places - int(mine.is_chosen.sum())
        if undecided:
            found.append(f"{key}: at {undecided} of {places} places no setting has all of its runs: none is chosen.")
        elif bool((mine.n < mine.n_asked).any()):
            found.append(f"{key}: PROVISIONAL: settings with missing runs could not be chosen.")
    return [
        *found,
        *dict.fromkeys(validation_notes(runs[runs.recipe.isin(rows.recipe)])),
        "Top-1 in percent: mean ± sample standard deviation over seeds (n), at the epoch that comparisons use. Chosen, "
        "in bold: the highest mean on validation images, of settings with all their runs; of equals, the first.",
        "Test accuracy is shown for the chosen setting only: it had no part in the choice. Its validation accuracy "
        "did, and is too high for that reason: the best of several is partly lucky, the more so the more there were.",
    ]
