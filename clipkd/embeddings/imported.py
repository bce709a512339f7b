"""Import: embeddings that somebody else computed become a store, like those of a teacher. No torch here."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import yaml

from clipkd.core.artifacts import MANIFEST, Artifact, Draft, building, open_artifact
from clipkd.core.errors import DataError, InputError
from clipkd.core.files import sha256
from clipkd.core.progress import say
from clipkd.data.currency import is_of
from clipkd.data.dataset import Dataset, SplitName
from clipkd.embeddings import vector_files
from clipkd.embeddings.earlier import ARRAYS, DIGESTS, STEM
from clipkd.embeddings.matching import Match, by_name, by_row, is_of_both
from clipkd.embeddings.store import write_array, write_sample
from clipkd.embeddings.vector_files import VectorFile, listed
from clipkd.embeddings.view_plans import ViewPlan, small_classes, view_plans
from clipkd.plugins.teachers import ImportedTeacher, TeacherSpec
from clipkd.spec.class_names import by_numbers
from clipkd.spec.layout import Embeddings
from clipkd.spec.views import ImportedViews

DESCRIPTIONS = (".yaml", ".yml", ".json")
"""Of the file that says how vectors were made: beside a file of vectors under its name, in a folder `embeddings`."""
MOST_DESCRIPTION = 1 << 20
"""Bytes of it."""


@dataclass(frozen=True)
class Source:
    """The files of an imported teacher, opened and checked."""

    teacher: ImportedTeacher
    files: dict[str, VectorFile]
    """By part (`train`, `train-mirrored`, `test` or `classes`)."""
    made: dict[str, str]
    """What the user says about how the vectors were made."""

    @property
    def width(self) -> int:
        return next(iter(self.files.values())).width

    def summary(self) -> str:
        """Return what the files hold, in words."""
        counts = [f"{len(file):,} of {part}" for part, file in self.files.items()]
        # One file may be of both splits: names tell, once the dataset is packed.
        parts = ", ".join(counts) if len(counts) > 1 else counts[0].replace(" of train", " vectors")
        said = "; ".join(f"{key}: {value}" for key, value in self.made.items())
        return f"{self.teacher.source}: {parts}, {self.width} dimensions{f' ({said})' if said else ''}"


def open_source(teacher: TeacherSpec) -> Source:
    """Open an imported teacher's files; every number is looked at.

    Raises:
        DataError: a file has changed since its name was read, is damaged, or holds a vector that is not finite or zero;
            two files have vectors of different lengths.
    """
    assert isinstance(teacher, ImportedTeacher)
    files = {part: vector_files.read(Path(path), part == "classes") for part, path in teacher.vectors.items()}
    for part, file in files.items():
        if sha256(file.path) != teacher.digests[f"{part}{file.path.suffix}"]:
            raise DataError(f"{file.path} has changed since this command began; run it again")
        file.check()
    widths = {file.path.name: file.width for file in files.values()}
    if len(set(widths.values())) > 1:
        said = ", ".join(f"{name} {width}" for name, width in widths.items())
        raise DataError(f"{teacher.source}: vectors of different dimensions: {said}")
    return Source(teacher, files, description(Path(teacher.source)))


def description(source: Path) -> dict[str, str]:
    """Return what the user says about how vectors were made: a map in the file beside them, empty without one."""
    stem = source / "embeddings" if source.is_dir() else source.with_suffix("")
    path = next((path for suffix in DESCRIPTIONS if (path := Path(f"{stem}{suffix}")).is_file()), None)
    if path is None:
        return {}
    try:
        said = yaml.safe_load(path.read_text(encoding="utf-8")) if path.stat().st_size <= MOST_DESCRIPTION else None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not a map in YAML or JSON ({error})") from None
    if not isinstance(said, dict):
        raise InputError(f"{path} is not a map in YAML or JSON, for example `model: NAME`, 1 MB at most")
    return {str(key): str(value) for key, value in said.items()}


def matched(source: Source, dataset: Dataset) -> dict[str, Match]:
    """Return which vector is of which image, or class, by part.

    Raises:
        DataError: nothing matches, or what matches is not clear; `Match` tells what is missing.
        InputError: the vectors have names, and the images none.
    """
    found = {}
    train, test = dataset.names("train"), dataset.names("test")
    for part, file in source.files.items():
        if part == "classes":
            of_names = file.names is not None
            by = partial(by_name, file, dataset.classes) if of_names else partial(by_row, file, len(dataset.classes))
            found[part] = by(f"classes of {dataset.spec.title}")
            continue
        split: SplitName = "test" if part == "test" else "train"
        is_whole = part == "train" and "test" not in source.files and is_of_both(file, train or (), test or ())
        found[part] = of_images(file, dataset, split, is_whole)
        if is_whole:
            found["test"] = of_images(file, dataset, "test", is_whole)
    return found


def of_images(file: VectorFile, dataset: Dataset, split: SplitName, is_whole: bool) -> Match:
    """Return which of a file's vectors is of which image of a split; the others may be of the other split's.

    Args:
        file: the vectors.
        dataset: what they are of.
        split: which of its splits.
        is_whole: the file is read for both splits; else a vector of the other one's image counts as one of none.
    """
    what = f"{'training' if split == 'train' else 'test'} images of {dataset.spec.title}"
    if file.names is None:
        return by_row(file, len(dataset.labels(split)), what)
    names, others = dataset.names(split), dataset.names("test" if split == "train" else "train")
    if names is None:
        raise InputError(
            f"{file.path} names images, but the packed {dataset.spec.title} in {dataset.artifact.path} has no file "
            "names: give the vectors by row; or, if it is a folder of images that an older version packed, delete it "
            "to pack it again (nothing else is made again for that)"
        )
    return by_name(file, names, what, others or () if is_whole else ())


def order_warnings(matches: dict[str, Match], dataset: Dataset) -> list[str]:
    """Return what to say where vectors come by row, and who counts would order the images' files otherwise."""
    for part, match in matches.items():
        if part == "classes" or match.file.names is not None:
            continue
        names = dataset.names("test" if part == "test" else "train") or []
        pair = next(((a, b) for a, b in pairwise(names) if a < b and by_numbers(a) > by_numbers(b)), None)
        if pair:
            return [
                f"warning: {match.file.path} gives vectors by row, and the rows are in the order of the files' names "
                f"as text ('{pair[0]}' before '{pair[1]}'), not as numbers; names instead of rows are safer "
                "(docs/own.md)"
            ]
    return []


def import_embeddings(store: Embeddings, dataset: Dataset) -> Artifact:
    """Write the store of a teacher of which only embeddings are there.

    Args:
        store: what to make; its views are `ImportedViews`.
        dataset: for the names or number of its images, and their labels.

    Raises:
        DataError, InputError: as `open_source` and `matched`; an image that the store needs has no vector.
    """
    start, views = time.perf_counter(), store.views
    source = open_source(store.teacher)
    matches = matched(source, dataset)
    refuse_other_rows(store.folder, matches, dataset)
    for line in [match.report() for match in matches.values()] + order_warnings(matches, dataset):
        say(f"{store.teacher.title}: {line}")
    with building(store.folder, "embeddings", store.identity, replace=(store.folder / MANIFEST).exists()) as draft:
        draft.facts |= {
            "forward_passes": 0,
            "device": "imported",
            "hidden_size": source.width,
            "dataset_content": dataset.content,
            "imported": {
                "files": source.teacher.digests,
                "made": source.made,
                "matched": {part: match.report() for part, match in matches.items()},
            },
        }
        if views.of_classes:
            match = matches["classes"].complete()
            vectors, labels = match.file.at(match.rows), np.arange(len(match.rows))
            what = f"{store.dataset.title} classes, {store.teacher.title}"
            write_sample(draft, vectors, labels, store.dtype, what)
        else:
            write_images(draft, matches, store, dataset)
        draft.facts["seconds"] = round(time.perf_counter() - start, 3)
    return open_artifact(store.folder, "embeddings", store.identity)


def write_images(draft: Draft, matches: dict[str, Match], store: Embeddings, dataset: Dataset) -> None:
    """Write the vectors of every image, or those of a sample."""
    views: ImportedViews = store.views
    among = None
    if views.sample is None:
        refuse_missing(views, matches)
    else:
        parts = ("train", "train-mirrored") if views.mirrors else ("train",)
        among = np.flatnonzero(np.all([matches[part].rows >= 0 for part in parts], axis=0))
        refuse_empty_classes(matches["train"], dataset, among)
        if said := small_classes(dataset, views.sample, among):
            say(said)
    for name, plan in view_plans(views, dataset, among).items():
        if name == "test" and "test" not in matches:
            say(
                f"{store.teacher.title}: no vectors of the test images; tables can't show the accuracy of a probe on "
                "them"
            )
            continue
        write_array(draft, name, plan, partial(pieces, plan, matches), store, dataset)
        np.save(draft.path / f"{name}{DIGESTS}", dataset.digests(plan.split)[plan.rows])


def refuse_empty_classes(match: Match, dataset: Dataset, among: np.ndarray) -> None:
    """Raise DataError where no training image of a class, but for those held out, has a vector."""
    rows = np.intersect1d(dataset.labelled_training, among)
    counts = np.bincount(dataset.train_labels[rows], minlength=len(dataset.classes))
    empty = [dataset.classes[number] for number in np.flatnonzero(counts == 0)]
    if empty:
        raise DataError(
            f"{match.report()}; no image of class {listed(empty)} has one, but for images held out for validation"
        )


def pieces(plan: ViewPlan, matches: dict[str, Match]) -> Iterator[np.ndarray]:
    """Yield the vectors of what a plan shows, some at a time, float32 [n, V, D]."""
    plain = matches[plan.split]
    mirrored = matches.get("train-mirrored", plain)
    for start in range(0, len(plan.rows), vector_files.ROWS):
        rows, flips = (part[start : start + vector_files.ROWS] for part in (plan.rows, plan.flips))
        found = np.repeat(plain.file.at(plain.rows[rows])[:, None], flips.shape[1], axis=1)
        for view in range(flips.shape[1]):
            here = np.flatnonzero(flips[:, view])
            found[here, view] = mirrored.file.at(mirrored.rows[rows[here]])
        yield found


def refuse_other_rows(folder: Path, matches: dict[str, Match], dataset: Dataset) -> None:
    """Raise DataError where vectors that come by row were imported before, when the rows were of other images."""
    is_by_row = {"test" if part == "test" else "train" for part, one in matches.items() if one.file.names is None}
    if "classes" in matches or not is_by_row or not (folder / MANIFEST).exists():
        return
    try:
        before = open_artifact(folder, "embeddings")
    except DataError:
        return  # what is damaged is made again
    for name in ARRAYS:
        split: SplitName = "test" if name == "test" else "train"
        if split not in is_by_row or f"{name}{DIGESTS}" not in before.manifest["files"]:
            continue  # an older version imported it, without digests
        then, now = before.array(f"{name}{STEM}"), dataset.digests(split)
        rows = np.array(before.array("sample-rows")) if name == "sample" else np.arange(len(then))
        is_other = (now[np.minimum(rows, len(now) - 1)] != then).any(axis=1) | (rows >= len(now))
        if is_other.any():
            raise DataError(
                f"{matches[split].file.path} gives vectors by row, and {dataset.spec.title} was packed again since it "
                f"was imported: {is_other.sum():,} {split} rows are of other images now, from row "
                f"{rows[is_other].min()} on. Write the file again, with names rather than rows; or, if its rows are "
                f"right, delete {folder}"
            )


def refuse_missing(views: ImportedViews, matches: dict[str, Match]) -> None:
    """Raise DataError where an image, or class, of a store has no vector; a sample takes those that have one."""
    every = ("train", "test", *(["train-mirrored"] if views.flips else []))
    needed = ("classes",) if views.of_classes else every if views.sample is None else ()
    for part in needed:
        if part in matches:
            matches[part].complete()


def check(teacher: TeacherSpec, dataset: Dataset | None, stores: Iterable[Embeddings] = ()) -> list[str]:
    """Look at an imported teacher's files before anything is made of them; return what to say.

    Args:
        teacher: the teacher.
        dataset: what the vectors should be of; None: it is not packed yet, so nothing can be matched.
        stores: what will be made of them.

    Raises:
        DataError, InputError: as for `import_embeddings`.
    """
    source = open_source(teacher)
    if dataset is None:
        return [source.summary()]
    matches = matched(source, dataset)
    for store in stores:
        refuse_missing(store.views, matches)
        if not is_of(store.folder, dataset.content):
            refuse_other_rows(store.folder, matches, dataset)
    return [source.summary(), *(match.report() for match in matches.values()), *order_warnings(matches, dataset)]
