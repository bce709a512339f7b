"""One function per stage: each computes an artefact if it is missing and does nothing if it exists.

The workflow calls them one by one; `clipkd train` calls those that its run needs.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipkd.core.artifacts import MANIFEST, Artifact, open_artifact
from clipkd.core.errors import DataError, InputError
from clipkd.core.lock import Busy, acquire
from clipkd.core.progress import say
from clipkd.core.scratch import open_near
from clipkd.data import currency
from clipkd.data.dataset import Dataset, Opener, open_dataset, prepare_dataset
from clipkd.embeddings import seen_images
from clipkd.embeddings.other_names import is_copied
from clipkd.embeddings.weights_sha256 import refuse_other_weights
from clipkd.plugins.datasets import DatasetSpec
from clipkd.plugins.teachers import LibraryTeacher, StudentTeacher, TeacherSpec, TrainedCNN, TrainedTeacher
from clipkd.spec.cells import Cell
from clipkd.spec.few_labels import FewLabels
from clipkd.spec.layout import Embeddings, Layout

if TYPE_CHECKING:
    import torch

BATCH_SIZE = 64


def dataset(
    spec: DatasetSpec,
    layout: Layout,
    source: str | None,
    with_images: bool = True,
    opener: Opener = open_artifact,
    overwrite: bool = False,
) -> Dataset:
    """Download and pack a dataset; where its images are not needed, only its labels are checked."""
    return prepare_dataset(spec, layout.dataset(spec), source, with_images, opener, overwrite)


def stale_sources(cells: Iterable[Cell], layout: Layout) -> Iterator[str]:
    """Yield what to say of datasets whose source has changed since they were packed, of each once."""
    from clipkd.data.source_files import stale

    for cell in {cell.dataset: cell for cell in cells}.values():
        local = cell.dataset_spec.local_files(cell.source)
        if said := stale(layout.dataset(cell.dataset_spec), local.base if local else None, cell.source):
            yield said


def is_current(folder: Path, spec: DatasetSpec, layout: Layout) -> bool:
    """Return whether an artefact is there and of the dataset as it is packed now; of any, where none is packed."""
    return currency.is_current(folder, spec, layout.dataset(spec))


def thumbnails(spec: DatasetSpec, side: int, layout: Layout, source: str | None) -> None:
    """Pack a dataset of large images at a student's size."""
    folder, identity = layout.thumbnails(spec, side)
    if is_current(folder, spec, layout):
        return
    from clipkd.data.thumbnails import write_thumbnails

    write_thumbnails(dataset(spec, layout, source), side, folder, identity)


def teacher(
    spec: TeacherSpec,
    layout: Layout,
    device: torch.device,
    source: str | None = None,
    scored: DatasetSpec | None = None,
) -> None:
    """Fetch a teacher's checkpoint, or train it where the workflow itself is its source.

    Args:
        spec: the teacher.
        layout: where data lie.
        device: where it is trained.
        source: where the images lie that it is trained on, if not at the official place.
        scored: the dataset that the checkpoint's own classifier is to score, where it is.
    """
    check_model(spec, layout)
    folder = layout.teacher(spec)
    if spec.is_imported:
        raise InputError(f"teacher '{spec.name}' has no model, only embeddings: `clipkd extract` imports them")
    if isinstance(spec, StudentTeacher):
        student_teacher(spec, folder)
    elif (folder / MANIFEST).exists():
        if isinstance(spec, TrainedCNN):
            check_images(spec, layout)
    elif isinstance(spec, TrainedTeacher | TrainedCNN):
        with alone(folder, spec.title):
            if not (folder / MANIFEST).exists():
                train(spec, layout, device, source)
    else:
        from clipkd.embeddings.teacher_checkpoint import fetch

        fetch(
            spec,
            folder,
            lambda checkpoint: trial(spec, checkpoint),
            lambda config: check_head(config, spec, scored, layout, source),
        )


@contextmanager
def alone(folder: Path, title: str) -> Iterator[None]:
    """Wait until no other process is making the teacher of a folder; none begins while this block lasts."""
    place = folder.with_name(f".{folder.name}.lock")
    place.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        for attempt in count():
            try:
                stack.enter_context(acquire(place))
                break
            except Busy as error:
                if attempt == 0:
                    say(f"{title} is being trained by another process, which is waited for ({error})")
                time.sleep(1)
        yield


def train(spec: TrainedTeacher | TrainedCNN, layout: Layout, device: torch.device, source: str | None) -> None:
    """Train a teacher on its dataset; `source`: where its images lie, as for `teacher`."""
    from clipkd.plugins import datasets

    if isinstance(spec, TrainedTeacher):
        from clipkd.embeddings.train_teacher import train_teacher

        train_teacher(spec, dataset(datasets.get(spec.dataset), layout, None), layout.teacher(spec), device)
    else:
        from clipkd.embeddings.train_cnn import train_cnn

        images = dataset(datasets.get(spec.dataset, source), layout, source)
        train_cnn(spec, images, layout.teacher(spec), device)


def check_images(spec: TrainedCNN, layout: Layout) -> None:
    """Say where a teacher was trained on its dataset as it was before; DataError where it can't be used for that."""
    folder = layout.teacher(spec)
    if changed := seen_images.change(folder, layout.data / "datasets" / spec.dataset):
        if changed.refusal:
            raise DataError(f"teacher '{spec.name}': {folder} {changed.refusal}; delete {folder} to train it again")
        say(f"teacher '{spec.name}' {changed}. To train it again, delete {folder}")


def check_head(
    config: dict[str, Any], spec: TeacherSpec, scored: DatasetSpec | None, layout: Layout, source: str | None
) -> None:
    """Raise InputError where a teacher's config.json says that its own classifier can't score a dataset."""
    if scored is None or not spec.brings_head(scored.name):
        return
    from clipkd.embeddings import own_head

    is_packed = (layout.dataset(scored) / MANIFEST).exists()
    classes = (
        open_dataset(scored, layout.dataset(scored), with_images=False).classes
        if is_packed
        else scored.known_classes(source) or scored.classes
    )
    own_head.check_config(config, spec, scored.name, classes, layout.names_of(scored))


def check_model(spec: TeacherSpec, layout: Layout) -> None:
    """Raise InputError where a teacher that is not there yet is a model that its library does not have."""
    if isinstance(spec, LibraryTeacher | TrainedCNN) and not (layout.teacher(spec) / MANIFEST).exists():
        from clipkd.embeddings import library_models

        library_models.check(spec)


def trial(spec: TeacherSpec, checkpoint: Artifact) -> None:
    """Load a checkpoint as an extraction will, so that none is fetched that it would refuse."""
    import torch

    cpu = torch.device("cpu")
    if spec.reads_names:
        from clipkd.embeddings.text import text_tower

        text_tower(spec, checkpoint, cpu)
    else:
        from clipkd.embeddings.teacher import encoder_of

        encoder_of(replace(spec, output=spec.any_output), checkpoint, cpu, is_float32=False)


def source_of(spec: TeacherSpec, shown: DatasetSpec, source: str | None) -> str | None:
    """Return where the images lie that a teacher is trained on, where they are those that it is shown."""
    return source if getattr(spec, "dataset", "") == shown.name else None


def student_teacher(spec: StudentTeacher, folder: Path) -> None:
    """Copy a trained student from its run or export; a run that was trained again must have given the same one."""
    from clipkd.embeddings.student_teacher import bring, refuse_retrained

    if (folder / MANIFEST).exists():
        refuse_retrained(spec, folder)
    else:
        bring(spec, folder)


def embeddings(
    store: Embeddings,
    layout: Layout,
    source: str | None,
    device: torch.device,
    batch_size: int = BATCH_SIZE,
    shard: tuple[int, int] = (1, 1),
) -> None:
    """Run the teacher over a view set, or over one shard of it."""
    if is_current(store.folder, store.dataset, layout):
        refuse_other_weights(layout.teacher(store.teacher), store.folder)
        return
    if store.teacher.is_imported:
        from clipkd.embeddings.imported import import_embeddings

        if shard[1] == 1:  # there is nothing to divide: the job that would join the parts imports all
            import_embeddings(store, dataset(store.dataset, layout, source, with_images=False))
        return
    if store.teacher.reads_names:
        from clipkd.embeddings.text import extract_names

        names = dataset(store.dataset, layout, source)
        teacher(store.teacher, layout, device)
        extract_names(store, names, layout.teacher(store.teacher), device)
        return
    from clipkd.embeddings.extract import extract
    from clipkd.embeddings.own_head import not_linear, own_head_of, rows
    from clipkd.embeddings.teacher import load

    check_model(store.teacher, layout)
    images = dataset(store.dataset, layout, source)
    if is_copied(store, images.content, layout.teacher(store.teacher)):
        return
    is_scored = store.views.sample is None and store.teacher.brings_head(store.dataset.name)
    scored = store.dataset if is_scored else None
    teacher(store.teacher, layout, device, source_of(store.teacher, store.dataset, source), scored)
    if is_scored:
        # A classifier of other classes is refused before anything is computed.
        own = own_head_of(layout.teacher(store.teacher), store.teacher)
        rows(own, store.teacher, store.dataset.name, images.classes, store.class_names)
    loaded = load(store.teacher, layout.teacher(store.teacher), device, store.precision)
    if is_scored and loaded.head is None:
        raise not_linear(store.teacher, store.dataset.name)
    extract(store, images, loaded, batch_size, shard)


def prototypes(cell: Cell, layout: Layout) -> None:
    """Make the class prototypes of a cell's one teacher from a stored sample, or from its labelled images."""
    store, (folder, _) = layout.sample_embeddings(cell), layout.prototypes(cell)
    if is_current(folder, store.dataset, layout):
        refuse_other_weights(store.folder, folder)
        return
    from clipkd.embeddings.prototypes import write_prototypes

    labelled = layout.labelled_sample(cell)
    labels = dataset(cell.dataset_spec, layout, cell.source, with_images=False) if labelled else None
    write_prototypes(store, layout.form_of(cell), labelled, labels)


def head(
    store: Embeddings, layout: Layout, source: str | None, device: torch.device, few: FewLabels | None = None
) -> None:
    """Fit the linear probe on stored embeddings, or take the checkpoint's own head.

    `few`: whose labels may be seen; None: all.
    """
    refuse_other_weights(layout.teacher(store.teacher), store.folder)
    if is_current(store.head(few)[0], store.dataset, layout):
        refuse_other_weights(store.folder, store.head(few)[0])
        return
    from clipkd.embeddings.head import write_head
    from clipkd.embeddings.own_head import own_head_of
    from clipkd.embeddings.teacher import load

    own = store.teacher.brings_head(store.dataset.name)
    folder = layout.teacher(store.teacher)
    loaded = load(store.teacher, folder, device) if own else None
    # Where embeddings were copied here, the checkpoint may not be.
    known = own_head_of(folder, store.teacher) if (folder / MANIFEST).exists() else None
    write_head(store, dataset(store.dataset, layout, source), loaded, device, known, few)


def for_training(cell: Cell, layout: Layout, device: torch.device, batch_size: int = BATCH_SIZE) -> None:
    """Make everything that a cell's training reads and that is not there yet."""
    spec = cell.dataset_spec
    for teacher_spec in cell.teacher_specs:
        check_model(teacher_spec, layout)
    dataset(spec, layout, cell.source, with_images=not spec.has_thumbnails, opener=open_near)
    if spec.has_thumbnails:
        thumbnails(spec, cell.student_spec.image_size, layout, cell.source)
    for one in cell.by_teacher:
        signal_of(one, layout, device, batch_size)


def signal_of(cell: Cell, layout: Layout, device: torch.device, batch_size: int) -> None:
    """Make what a cell's one teacher gives."""
    source = cell.source
    signal, where = cell.method.signal, cell.teacher_source
    if where in {"live", "lazy"} and cell.teacher_spec is not None:
        scored = cell.dataset_spec if signal == "scores" else None
        teacher(cell.teacher_spec, layout, device, source_of(cell.teacher_spec, cell.dataset_spec, source), scored)
    if signal == "prototypes":
        store = layout.sample_embeddings(cell)
        embeddings(store, layout, source, device, batch_size)
        prototypes(cell, layout)
    if where == "replayed" and cell.method.is_per_image:
        embeddings(layout.replayed_embeddings(cell), layout, source, device, batch_size)
    if signal == "scores" or (signal == "embeddings" and where == "cached"):
        embeddings(layout.full_embeddings(cell), layout, source, device, batch_size)
    if signal == "scores":
        head(layout.full_embeddings(cell), layout, source, device, cell.few_labels)
