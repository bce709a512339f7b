"""Datasets of the Hugging Face hub, by id and commit: parquet files of images and labels.

Files are `<config>/<split>-00000-of-00003.parquet` (with or without a hash before the dot),
`<config>/<split>/0000.parquet` (the hub's own conversion of every public dataset, branch refs/convert/parquet) or
`data/<split>-...parquet`. Nothing else is read: no script, no pickle. They go through the user's Hugging Face cache,
and their sha256 is compared with the hub's.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from clipkd.core import lfs
from clipkd.core.errors import DataError, InputError, MachineError
from clipkd.core.fingerprint import Identity
from clipkd.core.hub import COMMIT, HUB_ID
from clipkd.plugins.datasets import IMAGENET_MEAN, IMAGENET_STD, Reading, Split
from clipkd.plugins.datasets._hub_files import fetch, files_of, write_listing
from clipkd.plugins.datasets._source_options import (
    DECODING_OPTIONS,
    PACK_SIZE,
    DecodedDataset,
    decoding_options,
    options_of,
    size_options,
)

OWN = {"config": "", "image": "image", "label": "label", "train": "train", "test": "test"}
OPTIONS = OWN | {"size": "", "augment": "", "pack": ""} | DECODING_OPTIONS
"""The options after the `?`, with their defaults."""
ROWS = 64
"""Images that are read from a file at once."""


@dataclass(frozen=True, kw_only=True)
class HubDataset(DecodedDataset):
    """A repository of parquet files at a commit."""

    kind: ClassVar[str] = "dataset"
    thing: ClassVar[str] = "dataset"
    verb: ClassVar[str] = "download"
    hub_id: str
    revision: str
    config: str
    """The part of the repository that is read, where it has several; "": its only one."""
    image: str
    label: str
    """Columns."""
    train: str
    test: str
    """Splits."""
    validation_fraction: float = 0.1

    @property
    def source(self) -> str:
        """What `--dataset-source` takes: `hub:OWNER/NAME@COMMIT?option=value&...`."""
        given = {name: getattr(self, name) for name in (*OWN, *DECODING_OPTIONS)}
        given |= {"size": str(self.image_size or ""), "augment": self.training_identity().get("augmentation", "")}
        given["pack"] = str(self.pack_size if self.pack_size != max(PACK_SIZE, self.image_size or 0) else "")
        options = "&".join(f"{name}={value}" for name, value in given.items() if value != OPTIONS[name])
        return f"hub:{self.hub_id}@{self.revision}{'?' if options else ''}{options}"

    def source_identity(self) -> Identity:
        identity = {"hub_dataset": self.hub_id, "revision": self.revision, "size": self.image_size}
        return identity | {name: getattr(self, name) for name in OWN} | self.decoding_identity()

    def listing(self, downloads: Path) -> Path:
        return downloads / f"{self.name}.json"

    def fetch(self, downloads: Path) -> None:
        paths_of(self, self.listing(downloads))

    def read(self, source: str | None, downloads: Path) -> Reading:
        return read(self, self.listing(downloads))


def from_source(name: str, where: str) -> HubDataset:
    """Return the dataset that `OWNER/NAME@COMMIT?option=value&...` describes.

    Raises:
        InputError: it has no full commit hash, or an unknown option.
    """
    place, options = options_of(name, where, OPTIONS)
    hub_id, _, revision = place.partition("@")
    if not HUB_ID.fullmatch(hub_id) or not COMMIT.fullmatch(revision):
        raise InputError(
            f"dataset '{name}': write hub:OWNER/NAME@<40 hex digits of a commit>, not 'hub:{place}'; a branch can move"
        )
    if options["train"] == options["test"]:
        raise InputError(
            f"dataset '{name}': '{options['train']}' is both the training and the test split: choose another one with "
            "?train= or ?test=, since accuracy on training images says nothing about new ones"
        )
    decoding_options(name, options)
    more: dict[str, Any] = size_options(name, *(options.pop(one) for one in ("size", "augment", "pack"))) | options
    return HubDataset(
        name=name, title=name, classes=None, mean=IMAGENET_MEAN, std=IMAGENET_STD, hub_id=hub_id, revision=revision,
        **more,
    )  # fmt: skip


def paths_of(spec: HubDataset, listing: Path) -> dict[str, list[Path]]:
    """Return split -> its files in the Hugging Face cache, downloaded if necessary, and write which they are.

    Raises:
        InputError, DataError, MachineError: as for `read`.
    """
    parquet()
    files = files_of(spec, listing)
    # The test split first: it is small, and may say that this can't work.
    paths = {}
    for split in (spec.test, spec.train):
        paths[split] = [fetch(spec, *file) for file in files[split]]
        check_labelled(spec, split, paths[split], [other for other in files if other not in (spec.test, spec.train)])
    write_listing(spec, listing, files)
    return paths


def read(spec: HubDataset, listing: Path) -> Reading:
    """Read both splits; `listing` names their files where they were fetched before.

    Raises:
        InputError: the repository is unknown, or has no parquet files of the splits, or no such column.
        DataError: a file is damaged or another than the hub announced; an image can't be decoded.
        MachineError: no network; pyarrow is not installed.
    """
    paths = paths_of(spec, listing)
    names = class_names(spec, paths[spec.train])
    reader = spec.reader(lambda: (content for split in paths.values() for content, _ in contents(spec, split)))
    train, test = (
        Split(
            labels(spec, paths[split], names),
            (reader.stored(content, where) for content, where in contents(spec, paths[split])),
        )
        for split in (spec.train, spec.test)
    )
    facts = {"hub": spec.hub_id, "revision": spec.revision}
    return Reading(names, train, test, facts, complete=lambda: {"reading": reader.complete()})


def parquet() -> Any:
    """Return pyarrow's parquet module."""
    try:
        import pyarrow.parquet
    except ImportError:
        raise MachineError("datasets of the hub need pyarrow: pip install 'clipkd[hub-datasets]'") from None
    return pyarrow.parquet


def opened(path: Path, spec: HubDataset) -> Any:
    """Return an opened parquet file that has both columns."""
    try:
        file = parquet().ParquetFile(path)
    except Exception as error:  # pyarrow raises several kinds for a damaged file
        raise DataError(f"{path} is damaged: not a parquet file ({error}){lfs.instead(path)}") from None
    names = file.schema_arrow.names
    for column, key in ((spec.image, "image"), (spec.label, "label")):
        if column not in names:
            raise InputError(
                f"dataset '{spec.name}': {path.name} has no column '{column}' (it has {', '.join(names)}): say ?{key}="
                + (", or choose a labelled split with ?test=" if key == "label" else "")
            )
    return file


def class_names(spec: HubDataset, paths: list[Path]) -> list[str]:
    """Return the names of the classes, in the order of their numbers.

    From the features that the `datasets` library writes into a file; labels that are words name themselves.
    """
    written = opened(paths[0], spec).schema_arrow.metadata or {}
    try:
        features = json.loads(written.get(b"huggingface", b"{}")).get("info", {}).get("features", {})
    except ValueError:
        raise DataError(f"{paths[0]}: its description of features is not JSON") from None
    feature = features.get(spec.label)
    if isinstance(feature, dict) and feature.get("names"):  # that of a column of lists is a list
        return [str(name) for name in feature["names"]]
    values = column(spec, paths)
    if all(isinstance(value, str) for value in values):
        return sorted(set(values))
    return [str(number) for number in range(max(values, default=-1) + 1)]


def check_labelled(spec: HubDataset, split: str, paths: list[Path], others: list[str]) -> None:
    """Raise InputError where a split has rows without a label, -1 or none, as the test splits of contests have.

    Args:
        spec: the dataset.
        split: the split.
        paths: its files.
        others: splits that may be taken in its place.
    """
    values = [value for path in paths for value in column_of(spec, path)]
    unlabelled = sum(value is None or (isinstance(value, int) and value < 0) for value in values)
    if not unlabelled:
        return
    labelled = len(values) - unlabelled
    amount = "no image" if not labelled else f"only {labelled:,} of {len(values):,} images"
    key = "test" if split == spec.test else "train"
    listed = ", ".join(f"?{key}={other}" for other in others) or f"none: it has only '{spec.train}' and '{spec.test}'"
    raise InputError(
        f"dataset '{spec.name}': {amount} of its split '{split}' with a label (others have -1, or nothing): choose a "
        f"labelled split ({listed})"
    )


def column_of(spec: HubDataset, path: Path) -> list[Any]:
    """Return the labels of a file as they are written; None where a row has none."""
    values: list[Any] = opened(path, spec).read(columns=[spec.label]).column(spec.label).to_pylist()
    return values


def column(spec: HubDataset, paths: list[Path]) -> list[Any]:
    """Return the labels of all files as they are written.

    Raises:
        DataError: a row has one that is neither a number nor a word; names file and row.
    """
    values: list[Any] = []
    for path in paths:
        here = column_of(spec, path)
        for row, value in enumerate(here):
            if isinstance(value, bool) or not isinstance(value, int | str):
                raise DataError(f"{path.name}: row {row} has the label {value!r}, neither a whole number nor a word")
        values += here
    return values


def labels(spec: HubDataset, paths: list[Path], names: list[str]) -> np.ndarray:
    """Return the class numbers of all files, int64 [N]."""
    numbers = {name: number for number, name in enumerate(names)}
    values = column(spec, paths)
    unknown = next((value for value in values if isinstance(value, str) and value not in numbers), None)
    if unknown is not None:
        raise DataError(f"dataset '{spec.name}': class {unknown!r} of its split '{spec.test}' is not in training")
    return np.array([value if isinstance(value, int) else numbers[value] for value in values], dtype=np.int64)


def contents(spec: HubDataset, paths: list[Path]) -> Iterator[tuple[Any, str]]:
    """Yield the bytes of each image of all files, and where it is stored."""
    for path in paths:
        row = 0
        for batch in opened(path, spec).iter_batches(batch_size=ROWS, columns=[spec.image]):
            for value in batch.column(0).to_pylist():
                yield value.get("bytes") if isinstance(value, dict) else value, f"{path.name}, row {row}"
                row += 1
