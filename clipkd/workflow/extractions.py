"""Extractions: what one job makes of a teacher for a dataset, and the stamp that tells Snakemake that all is there.

A job makes the stores of all view sets, and the prototypes and heads that are made from them. Snakemake deletes the
outputs of a job that fails, so the artefacts are not declared as outputs: a job that goes on makes only what is
missing, and what DVC brought stays as it is. The stamp says that everything the grid asks for is there. It lies in
`results/`, as several projects may share `data/`. No torch here: the Snakefile reads this.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from clipkd.core.artifacts import MANIFEST
from clipkd.core.errors import MachineError
from clipkd.core.files import write_text
from clipkd.core.fingerprint import fingerprint
from clipkd.core.progress import say
from clipkd.data.currency import is_current, is_of, packed_content
from clipkd.plugins.datasets import DatasetSpec
from clipkd.plugins.teachers import TeacherSpec
from clipkd.spec import flags
from clipkd.spec.cells import Cell
from clipkd.spec.layout import Embeddings, Layout
from clipkd.spec.settings import Config
from clipkd.workflow import session

STAMPS = Path("results/extractions")
SUFFIX = ".made"


@dataclass(frozen=True)
class Extraction:
    """What one job makes for a dataset of a teacher, or of the teachers that one job trains."""

    place: Path
    """Where the artefacts lie: data/embeddings/<dataset>/<teacher>."""
    stores: dict[str, tuple[Cell, str]] = field(default_factory=dict)
    """Folder -> a cell that reads it, and the kind of its views."""
    prototypes: dict[str, tuple[Cell]] = field(default_factory=dict)
    heads: dict[str, tuple[Cell]] = field(default_factory=dict)
    content: str | None = None
    """The digest of the dataset's content that is packed now; None: none is, and what is there counts."""

    @property
    def stamp(self) -> Path:
        """The job's output; the same whatever else of these teachers a grid asks for."""
        cells = [cell for made in (self.stores, self.prototypes, self.heads) for cell, *_ in made.values()]
        teachers = sorted({fingerprint(spec.identity()) for cell in cells if (spec := cell.teacher_spec)})
        return STAMPS / self.place.parent.name / self.place.name / f"{fingerprint({'teachers': teachers})}{SUFFIX}"

    @property
    def folders(self) -> list[str]:
        """Every artefact, in the order in which they can be made."""
        return [*self.stores, *self.prototypes, *self.heads]

    @property
    def missing(self) -> list[str]:
        """The artefacts that are not there, or were made when the dataset was another."""
        return [folder for folder in self.folders if not is_of(Path(folder), self.content)]

    def views(self, layout: Layout) -> list[Embeddings]:
        """Return the stores that are missing; all, where none is."""
        stores = {folder: getattr(layout, f"{kind}_embeddings")(cell) for folder, (cell, kind) in self.stores.items()}
        missing = self.missing
        return [store for folder, store in stores.items() if folder in missing] or list(stores.values())

    def commands(self, config: Config, batch_size: Any, compute: list[Any], everything: bool = False) -> list[Any]:
        """Return the words behind `clipkd` that make what is missing, as one command line.

        Args:
            config: a checked config.
            batch_size: images of a pass through the teacher.
            compute: the flags that say what computes.
            everything: name what is there, too.
        """
        asked = self.folders if everything else self.missing or self.folders
        found: list[list[Any]] = []
        for folder, (cell, kind) in self.stores.items():
            if folder in asked:
                made = flags.extract_flags(config, cell, kind)
                found.append(["extract", *made, "--embed-batch-size", batch_size, *compute])
        for folder, (cell,) in self.prototypes.items():
            if folder in asked:
                found.append(["prototypes", *flags.prototypes_flags(config, cell)])
        for folder, (cell,) in self.heads.items():
            if folder in asked:
                found.append(["probe", *flags.probe_flags(config, cell), *compute])
        first, *rest = found
        return [*first, *(word for command in rest for word in ["then", *command])]

    def settle(self) -> None:
        """Make the stamp agree with what is there, whoever made it.

        It stays where a workflow runs in this folder: that one's jobs may need it, and have what they ask for.
        """
        missing = self.missing
        if not missing and not self.stamp.exists():
            write_text(self.stamp, "")
        elif missing and self.stamp.exists():
            if session.another_runs(Path()):
                say(f"{missing[0]} is missing, and not in this plan: another workflow is running in this folder")
            else:
                self.stamp.unlink()

    def forget(self) -> None:
        """Have everything made from the beginning."""
        for folder in self.folders:
            (Path(folder) / MANIFEST).unlink(missing_ok=True)


def remove_stale(folder: Path, spec: DatasetSpec, layout: Layout) -> None:
    """Remove the manifest of thumbnails of other images than are packed now: what is missing is always planned.

    Snakemake looks at nothing behind a job that it makes again though its output is there.
    """
    if not is_there(folder) or is_current(folder, spec, layout.dataset(spec)):
        return
    with suppress(OSError):  # a project that may only be read is planned too
        (folder / MANIFEST).unlink()
        say(f"{folder} is of other images than those of '{spec.name}' that are packed now; it will be made again")


def is_there(folder: str | Path) -> bool:
    """Return whether an artefact is there."""
    return (Path(folder) / MANIFEST).exists()


def extractions(
    stores: Mapping[str, tuple[Cell, str]],
    prototypes: Mapping[str, tuple[Cell]],
    heads: Mapping[str, tuple[Cell]],
    trained_by: Callable[[TeacherSpec], object],
    layout: Layout,
) -> dict[str, Extraction]:
    """Return stamp -> what its job makes.

    Args:
        stores: folder -> a cell that reads it, and the kind of its views.
        prototypes: folder -> a cell that reads them.
        heads: folder -> a cell that reads it.
        trained_by: gives what trains a teacher that is a student of the grid: those of one job share one here, too.
            None for other teachers.
        layout: says where the packed datasets lie.
    """

    @cache
    def content(spec: DatasetSpec) -> str | None:
        return packed_content(spec, layout.dataset(spec))

    found: dict[object, Extraction] = {}
    kinds: dict[str, Mapping[str, tuple[Any, ...]]] = {"stores": stores, "prototypes": prototypes, "heads": heads}
    for kind, artefacts in kinds.items():
        for folder, (cell, *more) in artefacts.items():
            spec, place = cell.teacher_spec, Path(folder).parent
            assert spec is not None
            key = place, trained_by(spec) or fingerprint(spec.identity())
            if key not in found:
                found[key] = Extraction(place, content=content(cell.dataset_spec))
            getattr(found[key], kind)[folder] = (cell, *more)
    return {one.stamp.as_posix(): one for one in found.values()}


def settle(planned: Iterable[Extraction]) -> None:
    """Make the stamps agree with what is there; where they can't be written, leave them as they are."""
    for one in planned:
        with suppress(OSError, MachineError):
            one.settle()
