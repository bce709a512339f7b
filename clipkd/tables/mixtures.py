"""Mixtures: runs of one grid that were made in different ways, which every table says. No torch here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

from clipkd.core.words import counted
from clipkd.runs.finished import FinishedRun
from clipkd.spec.cells import Cell
from clipkd.tables.grouping import labels_of, place_of

NAMED = 5
"""Rows or artefacts that a note names."""
Runs = dict[Cell, FinishedRun]


Contents = Mapping[tuple[str, str], str]
"""Kind and fingerprint of an artefact -> sha256 of its files together."""


def mixtures(runs: Runs, stored: Contents) -> list[str]:
    """Return the notes on runs that were made in different ways; none where all were made in one.

    `stored`: what lies in data/ now.
    """
    return [*ways_of_computing(runs), *contents_of_signals(runs, stored)]


def ways_of_computing(runs: Runs) -> list[str]:
    """Return the note on library, device, threads and precision, and on rows whose seeds differ in them.

    A precision that the config leaves open (`auto`) is the machine's choice; a difference of it is no last digit. That
    it is another one for some recipes and kinds of students is no mixture (`formats`).
    """
    chosen: dict[object, set[str]] = {}
    for cell, run in runs.items():
        kind = cell.recipe_spec.float32_by_default, type(cell.student_spec)
        chosen.setdefault(kind, set()).add(precision_of(run))
    is_mixed = any(len(found) > 1 for found in chosen.values())
    made = {cell: run.made_with for cell, run in runs.items() if run.made_with}
    if is_mixed:
        made = {cell: f"{precision_of(runs[cell])}, {way}" for cell, way in made.items()}
    if len(set(made.values())) < 2:
        return []
    number = {way: index for index, way in enumerate(sorted(set(made.values())), start=1)}
    rows: dict[Cell, list[int]] = {}
    for cell, way in made.items():
        rows.setdefault(replace(cell, seed=0), []).append(number[way])
    mixed = [
        f"{place_of(cell)}{labels_of(cell)}, recipe {cell.recipe_spec.name} ({by_way(ways)})"
        for cell, ways in rows.items()
        if len(set(ways)) > 1
    ]
    exact = "" if is_mixed else " to the last digit"
    counts = Counter(made.values())
    ways = "; ".join(f"({index}) {way}: {counted(counts[way], 'run')}" for way, index in number.items())
    note = f"NOT COMPARABLE{exact}: these runs were made in {len(number)} ways. These are {ways}."
    if is_mixed:
        note += " Name a training.precision in the config in place of auto: runs in another one are then trained again."
    if mixed:
        note += f" The seeds of {len(mixed)} of {len(rows)} rows differ in this: {some(mixed)}."
    return [note]


def formats(runs: Runs) -> list[str]:
    """Return the note on the recipes and students of each number format; none where all are trained in one."""
    found: dict[str, set[str]] = {}
    for cell, run in runs.items():
        found.setdefault(precision_of(run), set()).add(f"{cell.recipe_spec.name} {cell.student}")
    if len(found) < 2:
        return []
    listed = "; ".join(f"{name} ({', '.join(sorted(recipes))})" for name, recipes in sorted(found.items()))
    return [f"Number formats of the students' matrix products (training.precision): {listed}."]


def contents_of_signals(runs: Runs, stored: Contents) -> list[str]:
    """Return the notes on runs that read other bytes of what one teacher with the same weights gave, or gives now."""
    found: dict[tuple[str, str], Counter[str]] = {}
    for run in runs.values():
        for signal in run.signal:
            found.setdefault((signal.kind, signal.fingerprint), Counter())[signal.sha256] += 1
    mixed = [
        f"{kind} {fingerprint} ({' and '.join(map(str, contents.values()))} runs)"
        for (kind, fingerprint), contents in found.items()
        if len(contents) > 1
    ]
    replaced = [
        f"{kind} {fingerprint} ({sum(contents.values())} of the runs)"
        for (kind, fingerprint), contents in found.items()
        if stored.get((kind, fingerprint), next(iter(contents))) not in contents
    ]
    notes = []
    if mixed:
        several = "runs learnt from several versions, with other bytes, of what a teacher gave"
        notes.append(f"NOT COMPARABLE to the last digit: {several}. Several versions: {some(mixed)}.")
    if replaced:
        again = "Made again since, with other bytes than runs learnt from"
        notes.append(f"{again}: {some(replaced)}. What is stored now may say something else.")
    return notes


def some(named: list[str]) -> str:
    """Return the first of some rows or artefacts, and how many there are besides."""
    more = f"; and {len(named) - NAMED} more" if len(named) > NAMED else ""
    return "; ".join(named[:NAMED]) + more


def precision_of(run: FinishedRun) -> str:
    """Return the precision that a student was trained in."""
    return str(run.identity.get("training", {}).get("precision"))


def by_way(numbers: list[int]) -> str:
    """Return how many runs were made in each way, by its number."""
    return ", ".join(f"{count} in way {number}" for number, count in sorted(Counter(numbers).items()))
