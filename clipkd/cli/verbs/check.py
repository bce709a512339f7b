"""`clipkd check`."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from clipkd.core import timm_models
from clipkd.core.errors import InputError
from clipkd.core.files import read_json
from clipkd.core.words import counted
from clipkd.data.dataset import open_dataset
from clipkd.embeddings import prepare
from clipkd.plugins import methods, teachers
from clipkd.plugins.students import TimmSpec
from clipkd.plugins.teachers import FolderTeacher, LibraryTeacher, TrainedCNN
from clipkd.runs import epoch_size
from clipkd.spec import controls
from clipkd.spec.cells import NO_TEACHER, Cell
from clipkd.spec.chains import expand
from clipkd.spec.config import load
from clipkd.spec.controls import is_labelled_in_part
from clipkd.spec.grid import block_named
from clipkd.spec.layout import Layout
from clipkd.spec.refusals import has_imported
from clipkd.spec.settings import Config
from clipkd.spec.strength import packed_facts
from clipkd.tables.grouping import labels_of
from clipkd.tables.informed import informed_notes
from clipkd.tables.results import accuracy_cells
from clipkd.tables.terms import BASELINE
from clipkd.workflow import cleaning

TEXT = "Check config files before Snakemake reads them: a config file can make Snakemake run code."
EXAMPLES = """\
examples:
  clipkd check
  clipkd check config/demo.yaml
"""
BASE = Path("config/config.yaml")
MOST_ROWS = 3
"""A note names so many rows of tables."""
DATA = Path("data")
"""Where the workflow keeps its data."""


def add_options(child: argparse.ArgumentParser) -> None:
    """Add the files that a config is made of."""
    child.add_argument(
        "files", nargs="*", type=Path, metavar="FILE", help="as for --configfile: each is merged over those before it"
    )
    child.add_argument(
        "--configfile",
        "--configfiles",
        nargs="+",
        action="extend",
        type=Path,
        default=[],
        metavar="FILE",
        help="the same files, named as for Snakemake",
    )
    child.add_argument("--base", type=Path, default=BASE, help="the config that Snakemake reads first")


def files_of(options: argparse.Namespace) -> list[Path]:
    """Return the files in the order in which they are merged, the base first and once."""
    given = [*options.files, *options.configfile]
    return [options.base, *(path for path in given if path.resolve() != options.base.resolve())]


def imported_lines(cells: Sequence[Cell], layout: Layout) -> Iterator[str]:
    """Yield what is found in each file of embeddings that somebody else computed, every number looked at.

    Raises:
        DataError, InputError: it can't be imported as it is.
    """
    pairs: dict[tuple[str, str], list[Cell]] = {}
    for cell in cells:
        for one in cell.by_teacher if has_imported(cell) else ():
            if one.teacher_spec and one.teacher_spec.is_imported:
                pairs.setdefault((one.dataset, one.teacher), []).append(one)
    for alike in pairs.values():
        from clipkd.embeddings import imported  # with torch, which no other check needs

        spec, teacher = alike[0].dataset_spec, alike[0].teacher_spec
        source = f" --dataset-source {shlex.quote(alike[0].source)}" if alike[0].source else ""
        assert teacher is not None
        is_packed = packed_facts(spec, layout.data) is not None
        dataset = open_dataset(spec, layout.dataset(spec), with_images=False) if is_packed else None
        stores = {store.folder: store for cell in alike for store in layout.stores(cell).values()}
        yield from imported.check(teacher, dataset, stores.values())
        if dataset is None:
            yield (
                f"{teacher.title}: {spec.title} is not packed yet, or with other settings; once it is, by `clipkd "
                f"download {spec.name}{source}` or the workflow, this shows which vector is of which image"
            )


def untested(cells: Sequence[Cell]) -> list[str]:
    """Return lines that name train types whose deciding controls, or `supervised`, a dataset's rows of tables lack:
    everywhere, or some of them.
    """
    beside: dict[tuple[Any, ...], set[str]] = {}
    for cell in cells:
        beside.setdefault(row_of(cell), set()).add(cell.train_type)
    of_each = {cell.dataset: cell for cell in cells}
    in_part = {dataset: is_labelled_in_part(cell, DATA) for dataset, cell in of_each.items()}
    lacking: dict[tuple[str, bool], dict[str, dict[Cell, list[str]]]] = {}
    for cell in {cell.kind: cell for cell in accuracy_cells(cells)}.values():
        if cell.method.control_of:
            continue
        place = cell.dataset, cell.labels != "all" or in_part[cell.dataset]
        there = beside[row_of(cell)] | beside.get((*row_of(cell)[:-1], NO_TEACHER), set())
        wanted = [BASELINE, *methods.deciding(cell.train_type, place[1])]
        missing = [name for name in wanted if name not in there]
        lacking.setdefault(place, {}).setdefault(cell.train_type, {})[cell] = missing
    lines = []
    for (dataset, is_partly_labelled), named in lacking.items():
        where = f"{dataset}, {'few' if is_partly_labelled else 'all'} labels"
        everywhere = {name: rows for name, rows in named.items() if all(rows.values())}
        if everywhere:
            lines.append(
                f"{where}: the grid lacks {controls_of(everywhere)}, so tables will not tell whether the teacher's "
                f"content matters for {', '.join(everywhere)}"
            )
        some = {name: rows for name, rows in named.items() if any(rows.values()) and name not in everywhere}
        if some:
            rows = dict.fromkeys(in_words(cell) for them in some.values() for cell, missing in them.items() if missing)
            shown = "; ".join(list(rows)[:MOST_ROWS]) + f"; and {len(rows) - MOST_ROWS} more" * (len(rows) > MOST_ROWS)
            lines.append(
                f"{where}: {counted(len(rows), 'row')} of the tables {'lacks' if len(rows) == 1 else 'lack'} "
                f"{controls_of(some)} for {', '.join(some)}, which others have: {shown}"
            )
    return lines


def controls_of(named: dict[str, dict[Cell, list[str]]]) -> str:
    """Return the names of the train types that rows lack, each once."""
    return ", ".join(dict.fromkeys(name for rows in named.values() for missing in rows.values() for name in missing))


def in_words(cell: Cell) -> str:
    """Return what the row of a cell is for."""
    return f"{cell.student} with {cell.teacher_key}, recipe {cell.recipe_spec.name}{labels_of(cell)}"


def row_of(cell: Cell) -> tuple[Any, ...]:
    """Return what train types of one row of the tables share."""
    return cell.recipe, cell.dataset, cell.student, cell.labels, cell.teacher


def unused(config: Config) -> list[str]:
    """Return a line that names the keys of a config's `teachers` and `recipes` that no block of its grid uses."""
    used = {member for block in config.grid for name in block.teachers for member in teachers.split(name)}
    found = [f"teachers.{key}" for key in config.teachers if key not in used]
    based = {name for block in config.grid for name in block.recipes}
    while more := {config.recipes[name].base for name in based if name in config.recipes} - based:
        based |= more
    found += [f"recipes.{key}" for key in config.recipes if key not in based]
    return [f"no block of the grid uses {', '.join(found)}"] if found else []


def check_models(cells: Sequence[Cell], config: Config, layout: Layout) -> None:
    """Raise InputError where a library has no such model, a folder no sound checkpoint, or its own classifier not a
    dataset's classes.

    What the hub alone can tell is checked by `clipkd fetch`, before it downloads weights.
    """
    for cell in {cell.student: cell for cell in cells}.values():
        spec = cell.student_spec
        if isinstance(spec, TimmSpec) and spec.model.split(".")[0] not in timm_models.registered():
            with block_named(cell, config):
                spec.network(2, None, "teacher", learnable_scale=False)  # timm itself says so
    taught = [(one, cell) for cell in cells if cell.teacher != NO_TEACHER for one in cell.by_teacher]
    for one, cell in {(one.dataset, one.teacher): (one, cell) for one, cell in taught}.values():
        with block_named(cell, config):
            check_teacher(one, layout)


def check_teacher(cell: Cell, layout: Layout) -> None:
    """Raise InputError where a cell's teacher can't be made, or its own classifier is not one of the dataset."""
    spec = cell.teacher_spec
    if isinstance(spec, TrainedCNN | LibraryTeacher):
        from clipkd.embeddings import library_models  # with torch, which few configs need

        library_models.check(spec)
    elif isinstance(spec, FolderTeacher):
        from clipkd.embeddings import checkpoint_settings

        checkpoint_settings.check_folder(spec)
        if spec.matches_names(cell.dataset):
            config = read_json(Path(spec.folder) / "config.json")
            prepare.check_head(config, spec, cell.dataset_spec, layout, cell.source)


def run(options: argparse.Namespace) -> None:
    files = files_of(options)
    if not options.base.exists():
        raise InputError(f"there is no {options.base} here: go to the project's folder, or name its config with --base")
    config = load(files, data=DATA)
    cells, left_out = expand(config)
    for reason in left_out:
        print(f"left out: {reason}")
    for cell in {cell.dataset: cell for cell in cells}.values():
        if packed_facts(cell.dataset_spec, DATA) is None:
            cell.dataset_spec.check_source(cell.source)
        for line in cell.dataset_spec.remarks(cell.source):
            print(f"{cell.dataset}: {line}")
    for line in [*prepare.stale_sources(cells, Layout.of(config, DATA)), *cleaning.replaced(cells, config)]:
        print(f"warning: {line}")
    epoch_size.check(cells, config, DATA)
    controls.check(cells, config, DATA)
    check_models(cells, config, Layout.of(config, DATA))
    for line in imported_lines(cells, Layout.of(config, DATA)):
        print(line)
    for line in [*unused(config), *untested(cells), *informed_notes(cells, config)]:
        print(f"note: {line}")
    print(f"{', '.join(map(str, files))}: {counted(len(cells), 'run')}")
