"""Stamps of evaluations: the files that tell Snakemake which students are evaluated as the config asks.

`clipkd evaluate` adds to a file that may hold more than the config asks for, so the file is not Snakemake's to delete:
the rule's output is a stamp beside it (as in clipkd/workflow/stamps.py). No torch here: the Snakefile reads this.
"""

from __future__ import annotations

import os
from collections.abc import Container, Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from clipkd.core.artifacts import MANIFEST
from clipkd.core.errors import DataError, MachineError
from clipkd.core.files import json_text, write_text
from clipkd.core.fingerprint import fingerprint
from clipkd.core.typed_json import read_model
from clipkd.runs.measured import Evaluation
from clipkd.spec.cells import Cell
from clipkd.spec.config import Config
from clipkd.spec.identities import run_identity
from clipkd.spec.layout import Layout
from clipkd.tables.measured import evaluation_of, file_of, is_evaluated

RESULTS = Path("results")
MARK = ".measured-"
AGREEMENT = "agreement"
"""The measure that waits for what is stored of a teacher."""


def stamps(cells: Iterable[Cell], protocols: Mapping[str, int], config: Config, layout: Layout) -> dict[str, Cell]:
    """Return stamp -> the cell whose student is evaluated.

    Args:
        cells: of the grid; those that are in no table of accuracies are left out.
        protocols: name of each measure that the config asks for -> its protocol number.
        config: a checked config.
        layout: where data lie.
    """
    found = {}
    for cell in cells if protocols else ():
        if is_evaluated(cell):
            settings = run_identity(cell, cell.hyperparameters(config), layout, content="")
            key = fingerprint({"run": settings, "measures": dict(protocols)})
            found[f"{file_of(cell, RESULTS).with_suffix('').as_posix()}{MARK}{key}"] = cell
    return found


def settle(found: Mapping[str, Cell], protocols: Mapping[str, int], layout: Layout, made: Container[str]) -> None:
    """Make each stamp agree with its evaluation: written where that is complete, whoever made it, else deleted.

    Args:
        found: stamp -> the cell whose student is evaluated.
        protocols: name of each measure that the config asks for -> its protocol number.
        layout: where data lie.
        made: folders of the artefacts that the grid asks for.
    """
    for name, cell in found.items():
        stamp = Path(name)
        try:
            one = evaluation_of(cell, RESULTS, list(protocols))
        except DataError:
            one = None
        measures = one.measures if one else {}
        is_current = one is not None and not (AGREEMENT in one.not_measured and has_newer(cell, layout, made))
        with suppress(OSError, MachineError):  # a project that may only be read is planned too
            if not is_current or any(measures[key].protocol != protocols[key] for key in protocols if key in measures):
                stamp.unlink(missing_ok=True)
            elif not stamp.exists():
                write_text(stamp, "")
                written = file_of(cell, RESULTS).stat().st_mtime_ns
                os.utime(stamp, ns=(written, written))  # what was made from it stays newer


def forget(cell: Cell, names: Iterable[str]) -> None:
    """Have measures of a cell's student made again; what its file holds of others stays."""
    path = file_of(cell, RESULTS)
    with suppress(DataError):  # none is there, or what is there will be said to be none
        found = read_model(path, Evaluation)
        kept = {name: one for name, one in found.measures.items() if name not in set(names)}
        write_text(path, json_text(found.model_copy(update={"measures": kept}).model_dump()))


def has_newer(cell: Cell, layout: Layout, made: Container[str]) -> bool:
    """Return whether the grid's stores of a teacher are to be made, or were after its student was evaluated."""
    evaluated = file_of(cell, RESULTS).stat().st_mtime_ns
    for one in cell.by_teacher if cell.method.signal != "nothing" else ():
        if one.teacher_spec is not None and not one.teacher_spec.is_per_class:
            path = layout.full_embeddings(one).folder / MANIFEST
            is_new = path.stat().st_mtime_ns > evaluated if path.exists() else path.parent.as_posix() in made
            if is_new:
                return True
    return False
