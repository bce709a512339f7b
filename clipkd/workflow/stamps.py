"""Stamps: the files that tell Snakemake which runs are complete.

Snakemake deletes a rule's outputs before its job runs, and after the job has failed. A run's results are therefore not
declared as outputs. Its job declares a stamp beside them instead, `.done-<fingerprint of the run's settings>`:

- other settings are another stamp, which is missing, and a missing output is always planned;
- a job without its stamp is not necessarily a training: the command looks at the run folder, and only trains what is
  not complete.

The settings are what the config says. What is known only once data are there is not among them: what `precision: auto`
stands for, which the tables check, and the digest of a dataset's content.

A stamp holds the sha256 of each metrics.json that it stands for, and the content that the runs saw: where another one
is packed now, whoever packed it, the stamp goes. No torch here: the Snakefile reads this.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from clipkd.core.artifacts import read_manifest
from clipkd.core.errors import DataError, MachineError
from clipkd.core.files import sha256, write_text
from clipkd.core.fingerprint import Identity, digest, fingerprint
from clipkd.core.progress import say
from clipkd.plugins.datasets import DatasetSpec
from clipkd.runs.record import KIND, METRICS, RESUME
from clipkd.spec.cells import Cell
from clipkd.spec.chains import generations
from clipkd.spec.identities import agree, run_identity
from clipkd.spec.layout import RUNS, Layout
from clipkd.spec.settings import Config

PREFIX = ".done-"
CONTENT = "dataset "
"""Begins a stamp's last line: the digest of the dataset's content that the runs saw."""
DELETING = Path(".snakemake/clipkd-deleting")
"""Lists the stamps that were there when `--delete-all-output` was given."""


@dataclass(frozen=True)
class TrainJob:
    """What one job trains: up to `training.stack` students of one dataset, recipe and shape."""

    cells: tuple[Cell, ...]
    settings: tuple[Identity, ...]
    """What makes each run, as far as the config says; with seed 0 where seeds share all else."""

    @property
    def folders(self) -> list[Path]:
        """The run folders."""
        return [RUNS / cell.folder for cell in self.cells]

    @property
    def stamp(self) -> Path:
        """The job's output, in its first run folder."""
        seeds = [cell.seed for cell in self.cells]
        # The identity of a kind is one object: it is digested once.
        digests = {id(one): digest(one) for one in self.settings}
        found = [digests[id(one)] for one in self.settings]
        made_of = {"settings": found[0] if len(set(found)) == 1 else found, "seeds": seeds}
        return self.folders[0] / f"{PREFIX}{fingerprint(made_of)}"

    def settle(self, content: str | None = None) -> None:
        """Make the stamp agree with the run folders.

        It goes where a result is missing or was changed. It is written where all runs are complete and have these
        settings, whoever trained them: by hand, in other company, or with a version that wrote no stamps.

        Args:
            content: the digest of the dataset's content that is packed now; None: there is none.
        """
        found, recorded = checksums(self.folders), read(self.stamp)
        if recorded is not None and found is not None and is_current(recorded, found, content):
            return
        seen = [] if found is None else list(map(seen_by, self.cells, self.settings))
        is_whole = bool(seen) and None not in seen
        if is_whole and len(set(seen)) == 1 and content in (None, seen[0]):
            write_text(self.stamp, f"{found}{CONTENT}{seen[0]}\n")
            newest = max((folder / METRICS).stat().st_mtime_ns for folder in self.folders)
            os.utime(self.stamp, ns=(newest, newest))  # what was made from these results stays newer
        elif recorded is not None:
            self.stamp.unlink(missing_ok=True)
            others = f"trained on other images than those of '{self.cells[0].dataset}' that are packed now"
            why = others if is_whole else f"{METRICS} is missing, damaged or of other settings"
            say(f"{self.stamp.parent}: {why}; it will be trained again")

    def forget(self) -> None:
        """Have the students trained from the beginning."""
        for folder in self.folders:
            (folder / METRICS).unlink(missing_ok=True)
            shutil.rmtree(folder / RESUME, ignore_errors=True)


def is_current(recorded: str, found: str, content: str | None) -> bool:
    """Return whether a stamp says what its runs' files are now, and which content they saw: the packed one."""
    if content is None:
        return recorded.partition(CONTENT)[0] == found
    return recorded == f"{found}{CONTENT}{content}\n"


def seen_by(cell: Cell, settings: Identity) -> str | None:
    """Return the content that a cell's run saw; None where its folder holds no sound result with these settings."""
    folder = RUNS / cell.folder
    try:
        manifest = read_manifest(folder)
        is_sound = manifest["files"][METRICS]["sha256"] == sha256(folder / METRICS)
        wanted = settings | {"cell": settings["cell"] | {"seed": cell.seed}}
        is_whole = manifest["kind"] == KIND and is_sound and agree(manifest["identity"], wanted)
        return str(manifest["identity"]["dataset"]["content"]) if is_whole else None
    except (DataError, KeyError, TypeError):
        return None


def jobs(cells: Iterable[Cell], config: Config, layout: Layout, size: int) -> dict[str, TrainJob]:
    """Return stamp -> the job that writes it.

    A job's students differ in their train types, teachers and seeds. Those of one teacher follow each other, so that
    a teacher that can't be had delays few others; its seeds do too, so that a new seed is in few jobs.

    Args:
        cells: of the grid.
        config: a checked config.
        layout: where data lie.
        size: the most students of one job.
    """
    cells = list(cells)
    depth = generations(cells)
    teachers = {cell.teacher: number for number, cell in reversed(list(enumerate(cells)))}
    alike: dict[object, list[Cell]] = {}
    for cell in sorted(cells, key=lambda one: (teachers[one.teacher], one.seed)):
        alike.setdefault((replace(cell, train_type="", teacher="", seed=0), depth[cell.folder]), []).append(cell)
    settings: dict[Cell, Identity] = {}
    found = {}
    for members in alike.values():
        for start in range(0, len(members), size):
            some = members[start : start + size]
            kinds = [cell if cell.differs_by_seed else replace(cell, seed=0) for cell in some]
            for kind in kinds:
                if kind not in settings:
                    settings[kind] = run_identity(kind, kind.hyperparameters(config), layout, content="")
            job = TrainJob(tuple(some), tuple(settings[kind] for kind in kinds))
            found[job.stamp.as_posix()] = job
    return found


def expect_deletion(planned: Iterable[TrainJob]) -> None:
    """Note the stamps that are there: `--delete-all-output` may be about to delete them.

    It deletes what Snakemake calls outputs, so the stamp and not the results. The next call looks at this note.
    """
    write_text(DELETING, "".join(f"{job.stamp}\n" for job in planned if job.stamp.exists()))


def settle(planned: Iterable[TrainJob], layout: Layout | None = None) -> None:
    """Make the stamps agree with the run folders; where those can't be written, leave the stamps as they are.

    Runs whose stamps `--delete-all-output` has deleted are trained again from the beginning.

    Args:
        planned: the jobs.
        layout: where the packed datasets lie, which the runs must have seen; None: they are not looked at.
    """

    @cache
    def packed(spec: DatasetSpec) -> str | None:
        """Return the content of a dataset; None where none is packed, or another one by its name."""
        if layout is None:
            return None
        with suppress(DataError, KeyError):
            manifest = read_manifest(layout.dataset(spec))
            if manifest["fingerprint"] == fingerprint(spec.identity()):
                return str(manifest["facts"]["content"])
        return None

    planned = list(planned)
    noted = set((read(DELETING) or "").splitlines())
    for job in planned:
        if str(job.stamp) in noted and not job.stamp.exists():
            job.forget()
    if DELETING.exists():  # a project that can't be written has none
        DELETING.unlink()
    for job in planned:
        try:
            job.settle(packed(job.cells[0].dataset_spec))
        except (OSError, MachineError):
            continue


def write(stamp: Path, folders: Sequence[Path]) -> None:
    """Write a stamp for complete runs; those of other settings beside it go."""
    text = checksums(folders)
    assert text is not None, "the runs are complete"
    text += f"{CONTENT}{read_manifest(folders[0])['identity']['dataset']['content']}\n"
    for other in stamp.parent.glob(f"{PREFIX}*"):
        other.unlink(missing_ok=True)
    write_text(stamp, text)


def checksums(folders: Iterable[Path]) -> str | None:
    """Return a stamp's text: a line for each run's metrics.json, by folder; None where one is missing."""
    try:
        return "".join(f"{sha256(folder / METRICS)}\n" for folder in sorted(folders))
    except OSError:
        return None


def read(stamp: Path) -> str | None:
    """Return what a stamp says; None where there is none."""
    try:
        return stamp.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return None
