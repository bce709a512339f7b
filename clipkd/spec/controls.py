"""Controls: what their targets ask of a dataset's labels. No torch here: the Snakefile reads this."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from clipkd.spec.cells import Cell
from clipkd.spec.grid import block_named
from clipkd.spec.refusals import needs_all_labels
from clipkd.spec.settings import Config
from clipkd.spec.strength import packed_facts


def check(cells: Sequence[Cell], config: Config, data: Path) -> None:
    """Raise InputError where a control exchanges targets within classes, and a dataset is labelled in part."""
    for cell in {(cell.dataset, cell.train_type): cell for cell in cells}.values():
        if cell.method.target_of == "another image of the class" and is_labelled_in_part(cell, data):
            with block_named(cell, config):
                raise needs_all_labels(cell)


def is_labelled_in_part(cell: Cell, data: Path) -> bool:
    """Return whether images of a cell's dataset lack labels: as it was packed, or as its source looks before."""
    facts = packed_facts(cell.dataset_spec, data)
    return cell.dataset_spec.leaves_unlabelled(cell.source) if facts is None else bool(facts.get("unlabelled"))
