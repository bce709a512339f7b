"""Consistency: every run of a table was made from what the config asks for, and from one content of each dataset."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

from clipkd.core.artifacts import MANIFEST, read_manifest
from clipkd.core.errors import MOST_NAMED, DataError
from clipkd.core.fingerprint import Identity, differences, fingerprint
from clipkd.embeddings.weights_sha256 import SHOWN
from clipkd.plugins import teachers
from clipkd.plugins.teachers import StudentTeacher
from clipkd.plugins.teachers._student import STUDENT
from clipkd.runs.finished import FinishedRun
from clipkd.runs.record import HISTORY
from clipkd.spec.cells import NO_TEACHER, Cell
from clipkd.spec.identities import keys, run_identity
from clipkd.spec.layout import Layout
from clipkd.spec.settings import Config
from clipkd.tables.teacher_stats import DatasetFacts, StoredFacts, TeacherStats

Contents = dict[Cell, list[tuple[Path, StoredFacts, str]]]
"""Kind of cell -> manifest, facts and the teacher's fingerprint of each artefact that its runs read."""


def inconsistencies(
    config: Config, runs: dict[Cell, FinishedRun], layout: Layout, stats: TeacherStats
) -> Iterator[DataError]:
    """Yield where runs, datasets and stored embeddings do not belong together; each names both files.

    Args:
        config: a checked config.
        runs: the finished runs of its cells.
        layout: where datasets and embeddings lie.
        stats: reads their manifests.
    """
    kinds = {cell: cell.kind for cell in runs}  # seeds read the same artefacts, so these are looked at once
    contents: Contents = {kind: list(stats.contents(kind)) for kind in dict.fromkeys(kinds.values())}
    for name in dict.fromkeys(cell.dataset for cell in runs):
        mine = {cell: run for cell, run in runs.items() if cell.dataset == name}
        content, source = content_of(mine, layout, stats)

        @cache
        def wanted(kind: Cell, precision: str | None, content: str = content) -> Identity:
            return identity_of(kind, config, layout, content, precision)

        for cell, run in mine.items():
            try:
                precision = run.identity.get("training", {}).get("precision")
                check_identity(run, wanted(kinds[cell], precision) | {"cell": keys(cell)}, source)
            except DataError as error:
                yield error
            for path, facts, _ in contents[kinds[cell]]:
                found = facts.dataset_content
                if found != content:
                    yield mismatch(path, source, [f"dataset_content: found {found!r}, wanted {content!r}"])
    yield from other_weights(runs, kinds, contents)
    yield from same_seeds(runs)


def content_of(runs: dict[Cell, FinishedRun], layout: Layout, stats: TeacherStats) -> tuple[str, Path]:
    """Return the digest of a dataset's content, and the file that says so: its manifest, else a run's.

    Without a manifest most runs are right: were it the first one, and that one wrong, all others would be removed.
    """
    cell = next(iter(runs))
    folder = layout.dataset(cell.dataset_spec)
    dataset = stats.read(folder, "dataset", cell.dataset_spec.identity(), DatasetFacts)
    if dataset is not None:
        return dataset.facts.content, folder / MANIFEST
    contents = {run.path / MANIFEST: content_in(run) for run in runs.values()}
    content, _ = Counter(contents.values()).most_common(1)[0]
    return content, next(path for path, found in contents.items() if found == content)


def content_in(run: FinishedRun) -> str:
    """Return the digest of the dataset's content that a run was trained on."""
    found = run.identity.get("dataset")
    return str(found.get("content") if isinstance(found, dict) else None)


def check_identity(run: FinishedRun, wanted: Identity, source: Path) -> None:
    """Raise DataError unless a run was made from exactly what its cell, the config and the dataset say."""
    if fingerprint(run.identity) != fingerprint(wanted):
        raise mismatch(run.path / MANIFEST, source, list(differences(run.identity, wanted)))


def identity_of(cell: Cell, config: Config, layout: Layout, content: str, precision: str | None) -> Identity:
    """Return what makes a cell's run, by the config; of a run with `precision`, where the config leaves that open."""
    numbers = cell.hyperparameters(config)
    if numbers.precision == "auto":  # the machine that trained has chosen
        numbers = numbers.model_copy(update={"precision": "bf16" if precision == "bf16" else "fp32"})
    return run_identity(cell, numbers, layout, content)


def other_weights(runs: dict[Cell, FinishedRun], kinds: dict[Cell, Cell], contents: Contents) -> Iterator[DataError]:
    """Yield where one teacher has several weights: trained here, it has others on each machine, and one fingerprint."""
    said: dict[str, dict[str, dict[Path, None]]] = {}
    told: list[tuple[Path, str, str | None]] = []
    for cell, run in runs.items():
        told += [(run.path / MANIFEST, one.teacher, one.weights_sha256) for one in run.signal]
        told += [(path, teacher, facts.weights_sha256) for path, facts, teacher in contents[kinds[cell]]]
    told += students_that_teach(runs, {cell.folder: run.path for cell, run in runs.items()})
    for path, teacher, sha256 in told:
        if sha256 is not None:  # older manifests do not say
            said.setdefault(teacher, {}).setdefault(sha256, {})[path] = None
    for found in said.values():
        if len(found) > 1:
            lines = [f"sha256 {sha256[:SHOWN]}...: {some(list(paths))}" for sha256, paths in found.items()]
            yield DataError(
                "two teachers of one name, with other weights, must not be averaged or compared as one; keep what is "
                "of one of them, and delete the folders of the others to regenerate them:\n  " + "\n  ".join(lines)
            )


def students_that_teach(cells: Iterable[Cell], placed: dict[str, Path]) -> Iterator[tuple[Path, str, str]]:
    """Yield manifest, fingerprint and sha256 of the weights of each run that teaches a cell, as its student is now.

    Args:
        cells: who is taught.
        placed: a cell's folder -> that of its finished run.
    """
    taught_by = dict.fromkeys(cell.teacher_of_seed for cell in cells)
    specs = [one for name in taught_by if name != NO_TEACHER for one in teachers.get(name).members]
    for one in specs:
        if isinstance(one, StudentTeacher) and one.run in placed:
            path = placed[one.run] / MANIFEST
            files = read_manifest(path.parent)["files"]
            if STUDENT in files:
                yield path, fingerprint(one.identity()), files[STUDENT]["sha256"]


def some(paths: list[Path]) -> str:
    """Return the first of some paths, and how many there are besides."""
    more = f", and {len(paths) - MOST_NAMED} more" if len(paths) > MOST_NAMED else ""
    return ", ".join(map(str, paths[:MOST_NAMED])) + more


def same_seeds(runs: dict[Cell, FinishedRun]) -> Iterator[DataError]:
    """Yield where the runs of two seeds are one: random numbers never give the same losses twice."""
    seen: dict[tuple[Cell, str], Path] = {}
    for cell, run in runs.items():
        path = run.path / HISTORY
        earlier = seen.setdefault((replace(cell, seed=0), run.history_sha256), path)
        if earlier != path:
            yield DataError(
                f"{path} and {earlier} are equal, but belong to two seeds: one run is a copy of the other; "
                f"delete {path.parent} and {earlier.parent} to regenerate them"
            )


def mismatch(path: Path, other: Path, lines: list[str]) -> DataError:
    listed = "\n  ".join(lines)
    return DataError(
        f"{path} does not match the config and {other} (below); snakemake with this config trains it again:\n  {listed}"
    )
