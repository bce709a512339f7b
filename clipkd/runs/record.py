"""Records of a run: metrics.json, cost.json and history.csv, read and checked. No torch here."""

from __future__ import annotations

import csv
import math
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipkd.core.artifacts import open_artifact, read_json
from clipkd.core.errors import DataError
from clipkd.core.fingerprint import Identity
from clipkd.spec.cells import Cell
from clipkd.spec.identities import AXES

KIND = "run"
FAILED = "failed.json"
"""In the folder of a run that stopped on a number that is not finite: which epoch, step and images."""
FORMAT = 2
"""Of metrics.json; 2: a manifest.json lies beside it."""
HISTORY_COLUMNS = ("epoch", "learning_rate", "train_loss", "val_loss", "val_top1", "val_top5", "split")


@dataclass(frozen=True)
class Fields:
    """A JSON file's fields, by dotted names; a wrong one is a DataError that names file and field."""

    path: Path
    data: Any

    @classmethod
    def read(cls, path: Path) -> Fields:
        """Read a JSON file; a NaN is let in here, to be refused under its field's name."""
        try:
            return cls(path, read_json(path, is_strict=False))
        except DataError as error:
            raise DataError(f"{error}; remove {path.parent} and make it again") from None

    def wrong(self, name: str, problem: str) -> DataError:
        return DataError(f"{self.path}: field '{name}' {problem}; remove {self.path.parent} and make it again")

    def get(self, name: str) -> Any:
        """Return a field's value, None where it is null."""
        value = self.data
        for part in name.split("."):
            if not isinstance(value, dict) or part not in value:
                raise self.wrong(name, "is missing")
            value = value[part]
        return value

    def number(self, name: str, low: float = 0.0, high: float = math.inf) -> float:
        """Return a finite number in [low, high]."""
        return self.checked(name, self.get(name), low, high)

    def whole(self, name: str, low: int = 0) -> int:
        """Return a whole number of at least `low`."""
        value = self.get(name)
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.wrong(name, f"is {value!r}, not a whole number")
        return int(self.checked(name, value, low, math.inf))

    def word(self, name: str) -> str:
        """Return a text that is not empty."""
        value = self.get(name)
        if not isinstance(value, str) or not value.strip():
            raise self.wrong(name, f"is {value!r}, not a text")
        return value

    def checked(self, name: str, value: Any, low: float, high: float) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise self.wrong(name, f"is {value!r}, not a finite number")
        if not low <= value <= high:
            limits = f"at least {low:g}" if high == math.inf else f"in {low:g} to {high:g}"
            raise self.wrong(name, f"is {value!r}, it should be {limits}")
        return value


@dataclass(frozen=True)
class Score:
    """What a student reached on a split; accuracies as shares of 1."""

    top1: float
    top5: float
    loss: float


@dataclass(frozen=True)
class Chosen:
    """An epoch and its test score."""

    epoch: int
    test: Score
    nearest: float | None = None
    """Test top-1 by the nearest class prototype; None where the run has none."""


@dataclass(frozen=True)
class Cost:
    """What a run cost."""

    device: str
    threads: int | None
    seconds_per_epoch: float
    """Median over the epochs, training part only."""
    images_per_second: float
    images_per_epoch: int
    teacher_passes: int
    """Images that went through the teacher in the run."""
    weights_bytes: int
    """Student and live teacher, fp32: the paper's measure of memory."""
    peak_bytes: int
    peak_of: str


@dataclass(frozen=True)
class Run:
    """A finished run, checked."""

    cell: Cell
    path: Path
    """Its folder."""
    identity: Identity
    """What made it, as its manifest says."""
    classes: int
    last: Chosen
    selected: Chosen
    """By the split that the recipe selects on."""
    cost: Cost
    history: dict[str, list[float]]
    """Column -> one number an epoch."""
    history_split: str
    """The split that `val_*` was measured on."""
    history_sha256: str
    environment: str | None
    """Version of torch and kind of device; None where the run does not say."""
    zero_shot: float | None = None
    """Test top-1 of a CLIP teacher's own two towers; None for other teachers."""

    def chosen(self, kind: str) -> Chosen:
        """Return the epoch that a kind of table shows: `last`, or the selected one."""
        return self.last if kind == "last" else self.selected


def read_run(cell: Cell, folder: Path) -> Run:
    """Read and check a run folder.

    Raises:
        DataError: a file is missing or damaged, or a field is missing, not finite, out of its range,
            or of another run than `cell`; the message names file and field.
    """
    metrics = Fields.read(folder / "metrics.json")
    if metrics.get("format") != FORMAT:
        raise metrics.wrong("format", f"is {metrics.get('format')!r}, this clipkd reads {FORMAT}")
    for name in AXES:
        found, wanted = metrics.get(f"cell.{name}"), getattr(cell, name)
        if found != wanted or type(found) is not type(wanted):
            raise metrics.wrong(f"cell.{name}", f"is {found!r}, but the folder is that of {wanted!r}")
    epochs = metrics.whole("epochs", low=1)
    if epochs != cell.epochs:
        raise metrics.wrong("epochs", f"is {epochs}, the config asks for {cell.epochs}")
    classes = metrics.whole("classes", low=2)
    if cell.dataset_spec.classes not in (None, classes):
        raise metrics.wrong("classes", f"is {classes}, {cell.dataset} has {cell.dataset_spec.classes}")
    last = read_chosen(metrics, "last")
    if last.epoch != epochs:
        raise metrics.wrong("last.epoch", f"is {last.epoch}, the run has {epochs} epochs")
    selected = read_chosen(metrics, "selected")
    if not 1 <= selected.epoch <= epochs:
        raise metrics.wrong("selected.epoch", f"is {selected.epoch}, the run has {epochs} epochs")
    selection = cell.recipe_spec.selection
    if metrics.get("selected.by") != selection:
        raise metrics.wrong(
            "selected.by", f"is {metrics.get('selected.by')!r}, recipe {cell.recipe} selects by {selection!r}"
        )
    history, split = read_history(folder / "history.csv", epochs)
    cost = read_cost(cell, folder / "cost.json")
    # Last, so that a number that can't be is named by its field: now also one that could be, but was not written so.
    files = ("metrics.json", "cost.json", "history.csv", "env.json")
    artifact = open_artifact(folder, KIND, only=files)
    if artifact.manifest["fingerprint"] != metrics.get("fingerprint"):
        raise metrics.wrong("fingerprint", "is not that of the manifest.json beside it")
    zero_shot = read_share(metrics, "zero_shot")
    made_by, history_sha256 = read_environment(folder), artifact.manifest["files"]["history.csv"]["sha256"]
    return Run(
        cell,
        folder,
        artifact.identity,
        classes,
        last,
        selected,
        cost,
        history,
        split,
        history_sha256,
        made_by,
        zero_shot,
    )


def read_environment(folder: Path) -> str | None:
    """Return with which torch, and on which kind of device, a run was made; None where it does not say."""
    if not (folder / "env.json").exists():
        return None
    found = Fields.read(folder / "env.json")
    return f"torch {found.word('packages.torch')} on {found.word('device.kind')}"


def read_failure(folder: Path) -> str | None:
    """Return why a run failed, in words; None where it did not."""
    path = folder / FAILED
    return Fields.read(path).word("message") if path.exists() else None


def read_chosen(metrics: Fields, name: str) -> Chosen:
    """Return `last` or `selected` of metrics.json; its validation score, if any, is checked too."""
    if metrics.get(f"{name}.validation") is not None:
        read_score(metrics, f"{name}.validation")
    nearest = read_share(metrics, f"{name}.nearest_prototype")
    return Chosen(metrics.whole(f"{name}.epoch", low=1), read_score(metrics, f"{name}.test"), nearest)


def read_share(metrics: Fields, name: str) -> float | None:
    """Return the top-1 of an accuracy that not every run has (none had, before it was measured)."""
    *parents, last = name.split(".")
    above = metrics.get(parents[0]) if parents else metrics.data
    return None if above.get(last) is None else metrics.number(f"{name}.top1", high=1)


def read_score(metrics: Fields, name: str) -> Score:
    top1, top5 = metrics.number(f"{name}.top1", high=1), metrics.number(f"{name}.top5", high=1)
    if top5 < top1:
        raise metrics.wrong(f"{name}.top5", f"is {top5!r}, less than top1 = {top1!r}")
    return Score(top1, top5, metrics.number(f"{name}.loss"))


def read_cost(cell: Cell, path: Path) -> Cost:
    """Read and check cost.json."""
    cost = Fields.read(path)
    seconds = cost.get("seconds_per_epoch")
    if not isinstance(seconds, list) or len(seconds) != cell.epochs:
        raise cost.wrong("seconds_per_epoch", f"does not hold one number for each of {cell.epochs} epochs")
    for index, value in enumerate(seconds):
        cost.checked(f"seconds_per_epoch[{index}]", value, 0, math.inf)
    source = cost.word("teacher.source")
    if source not in ("none", cell.teacher_source) or (source == "none" and cell.teacher_source != "cached"):
        raise cost.wrong("teacher.source", f"is {source!r}, the run's teacher is {cell.teacher_source!r}")
    return Cost(
        device=" ".join(cost.word("device.name").split()),
        threads=cost.whole("device.threads", low=1) if cost.word("device.kind") == "cpu" else None,
        seconds_per_epoch=statistics.median(seconds),
        images_per_second=cost.number("images_per_second"),
        images_per_epoch=cost.whole("images_per_epoch", low=1),
        teacher_passes=cost.whole("teacher.forward_passes"),
        weights_bytes=cost.whole("weights_bytes", low=1),
        peak_bytes=cost.whole("peak_memory_bytes"),
        peak_of=cost.word("peak_memory_of"),
    )


def read_history(path: Path, epochs: int) -> tuple[dict[str, list[float]], str]:
    """Read and check history.csv: return its columns of numbers, and the split of `val_*`."""
    try:
        with open(path, encoding="utf-8", newline="") as stream:
            rows = list(csv.DictReader(stream))
    except FileNotFoundError:
        raise DataError(f"{path} does not exist; remove {path.parent} and make it again") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} is damaged: not CSV ({error}); remove {path.parent} and make it again") from None
    names = list(rows[0]) if rows else []
    for name in HISTORY_COLUMNS:
        if name not in names:
            raise DataError(f"{path}: column '{name}' is missing; remove {path.parent} and make it again")
    if [row["epoch"] for row in rows] != [str(epoch) for epoch in range(1, epochs + 1)]:
        raise DataError(f"{path}: column 'epoch' does not count 1 to {epochs}; remove {path.parent} and make it again")
    splits = {row["split"] for row in rows}
    if len(splits) != 1 or not splits <= {"validation", "test"}:
        raise DataError(f"{path}: column 'split' holds {sorted(map(str, splits))}, not one of validation, test")
    columns = {name: [history_number(path, row, name) for row in rows] for name in HISTORY_COLUMNS if name != "split"}
    return columns, splits.pop()


def history_number(path: Path, row: dict[str, str], name: str) -> float:
    """Return a finite number of history.csv; accuracies lie in 0 to 1."""
    where = f"{path}: column '{name}' of epoch {row['epoch']}"
    try:
        value = float(row[name])
    except (TypeError, ValueError):
        raise DataError(f"{where} is {row[name]!r}, not a number") from None
    if not math.isfinite(value):
        raise DataError(f"{where} is {row[name]!r}, not a finite number")
    if name in ("val_top1", "val_top5") and not 0 <= value <= 1:
        raise DataError(f"{where} is {row[name]!r}, it should be in 0 to 1")
    return value
