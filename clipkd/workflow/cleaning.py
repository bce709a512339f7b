"""What the workflow made for a config, and its removal. No torch here."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

from pydantic import ValidationError

from clipkd.core.artifacts import MANIFEST, read_manifest
from clipkd.core.disk import DiskFull
from clipkd.core.errors import DataError, MachineError
from clipkd.core.fingerprint import Identity, differences
from clipkd.core.lock import acquire, is_held
from clipkd.core.words import counted, verb
from clipkd.runs.measured import EVALUATIONS
from clipkd.runs.record import FAILED, METRICS, RESUME
from clipkd.spec.cells import Cell
from clipkd.spec.chains import expand
from clipkd.spec.layout import RUNS, Layout
from clipkd.spec.settings import Config
from clipkd.tables.cleanup import list_of, written_before
from clipkd.tables.measured import file_of
from clipkd.workflow import session
from clipkd.workflow.doctor import RESOLVED
from clipkd.workflow.evaluations import MARK, RESULTS
from clipkd.workflow.extractions import STAMPS
from clipkd.workflow.stamps import PREFIX

TABLES, FIGURES, REPORT = Path("results/tables"), Path("results/figures"), Path("results/report.html")
SUMMARY = Path("results/summary.json")
WRITTEN = (PREFIX, "events.out.tfevents.", ".")
"""How names begin that a training writes and no manifest lists."""
LOGS, BENCHMARKS = Path("logs/runs"), Path("results/benchmarks/runs")


def made_for(config: Config, *, with_data: bool = False) -> list[Path]:
    """Return the files and folders that were made for a config and are there, each once.

    Args:
        config: a checked config.
        with_data: include datasets, thumbnails, teachers and embeddings. Other configs may use them too.
    """
    cells, _ = expand(config)
    found = [path for cell in cells if not is_of_other_settings(cell, config) for path in of_run(cell)]
    if is_shown(config):
        found += shown()
    if with_data:
        layout = Layout.of(config)
        found += [path for cell in cells for path in data_of(cell, layout)]
    return [path for path in dict.fromkeys(found) if (path.exists() or path.is_symlink()) and not is_left(path)]


def of_other_settings(config: Config) -> list[Path]:
    """Return the run folders of a config's cells whose runs were made with other settings: they are kept."""
    return [RUNS / cell.folder for cell in expand(config)[0] if is_of_other_settings(cell, config)]


def is_of_other_settings(cell: Cell, config: Config) -> bool:
    """Return whether a cell's folder holds runs, complete or saved, and none has the config's hyperparameters."""
    places = (RUNS / cell.folder, *(RUNS / cell.folder / RESUME).glob("[0-9]*"))
    found = [made_with for place in places if (made_with := hyperparameters_of(place))]
    wanted = hyperparameters(cell, config)
    return bool(found) and not any(wanted.items() <= one.items() for one in found)


def replaced(cells: Iterable[Cell], config: Config) -> list[str]:
    """Return the line on finished runs that a workflow trains again and replaces, as theirs are other settings."""
    found = {}
    for cell in cells:
        wanted, made_with = hyperparameters(cell, config), hyperparameters_of(RUNS / cell.folder)
        if made_with and not wanted.items() <= made_with.items():
            found[RUNS / cell.folder] = "; ".join(differences({name: made_with.get(name) for name in wanted}, wanted))
    if not found:
        return []
    first, why = next(iter(found.items()))
    one = len(found) == 1
    return [
        f"{counted(len(found), 'finished run')} with other settings {verb(len(found))} trained again, and then replaced"
        f"{'' if one else ', the first'}: {first} ({why}). To keep both, give the setting in a recipe of your own, "
        "whose runs have folders of their own (docs/sweeps.md)"
    ]


def hyperparameters(cell: Cell, config: Config) -> Identity:
    """Return the hyperparameters of a cell's run, without what `precision: auto` stands for."""
    wanted = cell.hyperparameters(config).model_dump()
    return {name: value for name, value in wanted.items() if (name, value) != ("precision", "auto")}


def hyperparameters_of(place: Path) -> Identity:
    """Return those of the run, complete or saved, in a folder; none where there is no sound one."""
    with suppress(DataError, KeyError):
        return dict(read_manifest(place)["identity"]["training"])
    return {}


def of_run(cell: Cell) -> Iterator[Path]:
    """Yield a run's folder, its evaluation, and their logs and benchmarks."""
    yield RUNS / cell.folder
    file = file_of(cell, RESULTS)
    yield file
    for name in (f"{file.stem}{MARK}*", f"{file.stem}-reliability.*"):
        yield from sorted(file.parent.glob(name))
    for root in (LOGS, BENCHMARKS, *(one.with_name(EVALUATIONS) for one in (LOGS, BENCHMARKS))):
        place = root / cell.folder
        yield from sorted(place.parent.glob(f"{place.name}-*"))


def is_shown(config: Config) -> bool:
    """Return whether tables, figures and report are of this config."""
    try:
        return Config.model_validate_json(RESOLVED.read_text(encoding="utf-8")) == config
    except (OSError, ValidationError):
        return False


def shown() -> list[Path]:
    """Return the resolved config and what was made from it; other files beside the tables are somebody else's."""
    found = [RESOLVED, REPORT, SUMMARY, *RESOLVED.parent.glob(".config-*"), RESOLVED.with_name(".reported")]
    for folder in (TABLES, FIGURES):
        found += [folder / name for name in written_before(folder)] + [list_of(folder)]
    return found


def data_of(cell: Cell, layout: Layout) -> Iterator[Path]:
    """Yield the artefacts that a run reads, those that were made from them included."""
    yield layout.dataset(cell.dataset_spec)
    if cell.dataset_spec.has_thumbnails:
        yield layout.thumbnails(cell.dataset_spec, cell.student_spec.image_size)[0]
    for one in cell.by_teacher:
        if one.teacher_spec is None:
            continue
        yield layout.teacher(one.teacher_spec)
        for store in layout.stores(one).values():
            yield store.folder
            # Prototypes and heads lie beside the store that they were made from.
            yield from sorted(store.folder.parent.glob(f"{store.folder.name}-*"))
            yield store.folder.with_name(f".{store.folder.name}.parts")
            yield STAMPS / store.folder.parent.relative_to(layout.data / "embeddings")


def size(path: Path) -> int:
    """Return the bytes of a file, or of all files in a folder."""
    files = [path] if path.is_file() else path.rglob("*")
    return sum(file.lstat().st_size for file in files if not file.is_dir())


def kind_of_small(path: Path) -> str:
    """Return what a file is that is only counted where many are listed; "" of what is listed by itself."""
    kinds = {LOGS.parent: "logs", BENCHMARKS.parent: "benchmarks", TABLES: "tables", FIGURES: "figures"}
    if STAMPS in path.parents:
        return "stamps of extractions"
    return next((f"{name} in {root}" for root, name in kinds.items() if root in path.parents), "")


def of_others(run: Path) -> list[Path]:
    """Return what lies in a run folder and is none of its files: an export, a note."""
    own = {MANIFEST, METRICS, FAILED, RESUME}
    with suppress(DataError):
        own |= read_manifest(run)["files"].keys()
    return [path for path in sorted(run.iterdir()) if path.name not in own and not path.name.startswith(WRITTEN)]


def is_left(path: Path) -> bool:
    """Return whether a path is a run folder in which nothing is left but what others put there."""
    if RUNS not in path.parents or not path.is_dir():
        return False
    there = list(path.iterdir())
    return bool(there) and len(of_others(path)) == len(there)


def delete(paths: Sequence[Path]) -> None:
    """Delete files and folders; nothing is, where another process writes into one of the run folders.

    What others put into a run folder stays.

    Raises:
        MachineError: a workflow runs in this folder, or a run is being trained; names its process.
    """
    if session.FILE.parent.is_dir() and session.another_runs(Path()):
        raise MachineError("a workflow is running in this folder: wait for it, or stop it")
    with ExitStack() as stack:
        for path in paths:
            if path.is_dir() and RUNS in path.parents:
                try:
                    stack.enter_context(acquire(path))
                except DiskFull:  # what is deleted makes room
                    if is_held(path):
                        raise
        for path in paths:
            if path.is_symlink() or path.is_file():
                path.unlink()
            elif RUNS in path.parents:
                others = of_others(path)
                for own in [one for one in path.iterdir() if one not in others]:
                    shutil.rmtree(own) if own.is_dir() else own.unlink()
                remove_empty(path)
            elif path.exists():
                shutil.rmtree(path)
            remove_empty(path.parent)


def remove_empty(folder: Path) -> None:
    """Remove a folder and those above it that are empty, up to the project's own."""
    while len(folder.parts) > 1:
        try:
            folder.rmdir()
        except OSError:
            return
        folder = folder.parent
