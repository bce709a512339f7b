"""Reading a dataset of the Hugging Face hub: parquet files at a pinned commit, in the layouts that the hub has.

Files are `<config>/<split>-00000-of-00003.parquet`, `<config>/<split>/0000.parquet` (the hub's own conversion of
every public dataset, branch refs/convert/parquet) or `data/<split>-...parquet`. Only they are read: no script, no
pickle. They come through the user's Hugging Face cache, and their sha256 is compared with the hub's.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from clipkd.core.artifacts import sha256
from clipkd.core.errors import DataError, InputError, MachineError
from clipkd.core.hub_client import ETAG_TIMEOUT, hub_errors
from clipkd.core.images import decoded
from clipkd.core.progress import say
from clipkd.plugins.datasets import Reading, Split
from clipkd.plugins.datasets.hub import HubDataset

FILE = re.compile(r"(?:(?P<config>[^/]+)/)?(?P<split>[^/]+?)(?:-\d+-of-\d+|/[^/]+)?\.parquet")
ROWS = 64
"""Images that are taken out of a file at once."""


def read(spec: HubDataset) -> Reading:
    """Read both splits.

    Raises:
        InputError: the repository is unknown, or has no parquet files of the splits, or no such column.
        DataError: a file is damaged or another than the hub announced; an image can't be decoded.
        MachineError: no network; pyarrow is not installed.
    """
    parquet()
    files = files_of(spec)
    paths = {split: [bring(spec, *file) for file in files[split]] for split in (spec.train, spec.test)}
    names = class_names(spec, paths[spec.train])
    train, test = (
        Split(labels(spec, paths[split], names), images(spec, paths[split])) for split in (spec.train, spec.test)
    )
    return Reading(names, train, test, {"hub": spec.hub_id, "revision": spec.revision})


def parquet() -> Any:
    """Return pyarrow's parquet module."""
    try:
        import pyarrow.parquet
    except ImportError:
        raise MachineError("datasets of the hub need pyarrow: pip install 'clipkd[hub-datasets]'") from None
    return pyarrow.parquet


def files_of(spec: HubDataset) -> dict[str, list[tuple[str, str | None]]]:
    """Return split -> its files' names and sha256, as the hub lists them at the commit."""
    from huggingface_hub import HfApi

    with hub_errors(spec, "the list of files"):
        info = HfApi(library_name="clipkd").dataset_info(
            spec.hub_id, revision=spec.revision, files_metadata=True, timeout=ETAG_TIMEOUT
        )
    found: dict[str, dict[str, list[tuple[str, str | None]]]] = {}
    for file in sorted(info.siblings or [], key=lambda file: file.rfilename):
        match = FILE.fullmatch(file.rfilename)
        if match:
            large = (file.rfilename, file.lfs.sha256 if file.lfs else None)
            found.setdefault(match["config"] or "", {}).setdefault(match["split"], []).append(large)
    where = f"dataset '{spec.name}': {spec.hub_id} at {spec.revision}"
    if not found:
        raise InputError(
            f"{where} has no parquet files; the hub keeps a conversion of most datasets in their branch "
            "refs/convert/parquet: pin a commit of that branch"
        )
    if not spec.config and len(found) > 1:
        raise InputError(f"{where} has several parts: choose one with ?config= ({', '.join(map(repr, found))})")
    config = spec.config or next(iter(found))
    if config not in found:
        raise InputError(f"{where} has no part '{config}' (it has {', '.join(map(repr, found))})")
    missing = [split for split in (spec.train, spec.test) if split not in found[config]]
    if missing:
        raise InputError(
            f"{where} has no split '{missing[0]}' (it has {', '.join(map(repr, found[config]))}): "
            "say ?train= and &test="
        )
    return found[config]


def bring(spec: HubDataset, name: str, expected: str | None) -> Path:
    """Return the path of one file in the Hugging Face cache, downloaded if need be, its bytes checked."""
    from huggingface_hub import hf_hub_download

    for again in (False, True):
        with hub_errors(spec, name):
            path = Path(
                hf_hub_download(
                    spec.hub_id,
                    name,
                    repo_type="dataset",
                    revision=spec.revision,
                    etag_timeout=ETAG_TIMEOUT,
                    force_download=again,
                    library_name="clipkd",
                )
            )
        actual = sha256(path) if expected else None
        if actual == expected:
            return path
        say(f"{spec.title}: {name} in the Hugging Face cache is damaged")
    raise DataError(f"{name} of {spec.hub_id} is not the expected file: sha256 expected {expected}, actual {actual}")


def opened(path: Path, spec: HubDataset) -> Any:
    """Return an opened parquet file that has both columns."""
    try:
        file = parquet().ParquetFile(path)
    except Exception as error:  # pyarrow raises several kinds for a damaged file
        raise DataError(f"{path} is damaged: no parquet file ({error})") from None
    names = file.schema_arrow.names
    for column, key in ((spec.image, "image"), (spec.label, "label")):
        if column not in names:
            raise InputError(
                f"dataset '{spec.name}': {path.name} has no column '{column}' (it has {', '.join(names)}): say ?{key}="
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
        raise DataError(f"{paths[0]}: its description of features is no JSON") from None
    names = features.get(spec.label, {}).get("names")
    if names:
        return [str(name) for name in names]
    values = column(spec, paths)
    if all(isinstance(value, str) for value in values):
        return sorted(set(values))
    return [str(number) for number in range(max(values, default=-1) + 1)]


def column(spec: HubDataset, paths: list[Path]) -> list[Any]:
    """Return the labels of all files as they are written.

    Raises:
        DataError: a row has none, or one that is neither a number nor a word; names file and row.
    """
    values: list[Any] = []
    for path in paths:
        here = opened(path, spec).read(columns=[spec.label]).column(spec.label).to_pylist()
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


def images(spec: HubDataset, paths: list[Path]) -> Iterator[np.ndarray]:
    """Yield the images of all files, uint8 [H, W, 3]."""
    for path in paths:
        row = 0
        for batch in opened(path, spec).iter_batches(batch_size=ROWS, columns=[spec.image]):
            for value in batch.column(0).to_pylist():
                content = value.get("bytes") if isinstance(value, dict) else value
                yield decoded(content, f"{path.name}, row {row}", spec.pack_size)
                row += 1
