"""The record of a run: metrics.json, cost.json and history.csv, written and read by the same models. No torch here."""

from __future__ import annotations

import csv
import io
import os
import statistics
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationInfo, field_validator

from clipkd.core.artifacts import MANIFEST
from clipkd.core.errors import MOST_NAMED
from clipkd.core.files import json_text
from clipkd.core.fingerprint import Identity
from clipkd.core.typed_json import Count, Excerpt, Model, NonNegative, Positive, Share, Text
from clipkd.spec.layout import RUNS
from clipkd.spec.selection import KeptBy, Split

KIND = "run"
EXPORTED = "config.json"
"""In the folder of an export."""
METRICS, COST, HISTORY, ENVIRONMENT = "metrics.json", "cost.json", "history.csv", "env.json"
FAILED = "failed.json"
"""In the folder of a run that stopped on a number that is not finite: in which epoch and, of a step, which."""
RESUME = ".resume"
"""In the folder of an unfinished run: its checkpoints."""
FORMAT: Literal[2] = 2
"""Of metrics.json; 2: a manifest.json lies beside it."""


def runs_below(folder: Path) -> str:
    """Return what to say of the runs or exports that lie in a folder, so that one can be named; "" without any."""
    places = (path.parent for path in folder.glob(f"*/{MANIFEST}"))
    found = sorted(path.name for path in places if any((path / name).is_file() for name in (METRICS, EXPORTED)))
    more = f", ... ({len(found)})" if len(found) > MOST_NAMED else ""
    return f"; it holds {', '.join(found[:MOST_NAMED])}{more}: name one, as {folder / found[0]}" if found else ""


def how_to_finish(folder: Path) -> str:
    """Return what finishes an unfinished run: `clipkd resume` knows only a workflow's, which lie in its place."""
    is_in_place = Path(os.path.abspath(folder)).match(f"{RUNS}/*/*/*/*/*/seed*")
    return "repeat the command that trains it" + is_in_place * " (`clipkd resume`, where the workflow does)"


class Accuracy(Model):
    """Accuracies as shares of 1."""

    top1: Share
    top5: Share

    @field_validator("top5")
    @classmethod
    def not_below_top1(cls, top5: float, info: ValidationInfo) -> float:
        """Refuse a top-5 accuracy below top-1."""
        if top5 < info.data.get("top1", 0):
            raise ValueError(f"less than top1 = {info.data['top1']!r}")
        return top5


class Score(Accuracy):
    """What a student reached on a split."""

    loss: NonNegative


class ZeroShot(Accuracy):
    """What a CLIP teacher's own two towers reach on the test split."""

    embeddings: Text
    """The store of the vision tower's embeddings."""


class Chosen(Model):
    """An epoch and its scores."""

    epoch: Positive
    test: Score | None
    """None where no label is seen: the student tells no classes apart."""
    validation: Score | None
    """None where the recipe holds no images out."""
    nearest_prototype: Accuracy | None = None
    """On the test split, by the nearest class prototype; None without prototypes."""


class Selected(Chosen):
    """The epoch whose student is kept."""

    by: KeptBy


class CellNames(Model):
    """A run's place in the grid."""

    recipe: Text
    dataset: Text
    student: Text
    teacher: Text
    train_type: Text
    seed: int
    teacher_source: Text


class Device(Model):
    """What computed."""

    kind: Text
    name: Text
    threads: Positive

    @property
    def title(self) -> str:
        """The name in one line."""
        return " ".join(self.name.split())

    @property
    def detail(self) -> str:
        """The name, with the threads of a CPU."""
        return self.title + self.counted_threads

    @property
    def counted_threads(self) -> str:
        """`, 2 threads` of a CPU, to follow a name; else nothing."""
        return f", {self.threads} thread{'s' if self.threads > 1 else ''}" if self.kind == "cpu" else ""


class TeacherCost(Model):
    """What the teacher cost during the run."""

    source: Text
    """`none`, or where its signal came from."""
    forward_passes: Count
    """Images that went through it."""
    weights_bytes: Count


class Cost(Model):
    """What a run cost: the content of cost.json."""

    device: Device
    side_by_side: Positive = 1
    """Students trained together, which share the time."""
    seconds_per_epoch: list[NonNegative]
    """Training part only."""
    images_per_second: NonNegative
    images_per_epoch: Positive
    teacher: TeacherCost
    student_weights_bytes: Positive
    weights_bytes: Positive
    """Student and live teacher, fp32: the paper's measure of memory."""
    peak_memory_bytes: Count
    peak_memory_of: Text

    @property
    def median_seconds(self) -> float:
        """Seconds per epoch."""
        return statistics.median(self.seconds_per_epoch)


def with_loss(parts: dict[str, float]) -> dict[str, float]:
    """Return the parts of a training loss; ValueError where their sum is missing."""
    if "loss" not in parts:
        raise ValueError("'loss' is missing")
    return parts


class EpochRecord(Model):
    """A line of history.csv."""

    epoch: Positive
    learning_rate: NonNegative
    train: Annotated[dict[str, float], AfterValidator(with_loss)]
    """Means over the epoch's images: the parts of the training loss, their sum `loss`, and what else the train type
    records (vanilla: `teacher_top1`, the accuracy of the teacher's scores on the views that were taught)."""
    val: Score | None
    """None where no label is seen."""
    split: Split
    """Of `val`."""

    @property
    def train_loss(self) -> float:
        return self.train["loss"]

    def line(self) -> dict[str, Any]:
        """Return the line, column -> value."""
        train = {f"train_{part}": value for part, value in self.train.items()}
        val = {f"val_{part}": getattr(self.val, part) for part in ("loss", "top1", "top5")} if self.val else {}
        return {"epoch": self.epoch, "learning_rate": self.learning_rate, **train, **val, "split": self.split}

    @classmethod
    def of(cls, line: dict[str, Any]) -> EpochRecord:
        """Return the epoch of a line.

        Raises:
            pydantic.ValidationError: a value is missing, unknown or impossible.
        """
        found: dict[str, Any] = {"train": {}, "val": {}}
        for name, value in line.items():
            group, _, part = name.partition("_")
            (found[group] if group in ("train", "val") else found)[part if group in ("train", "val") else name] = value
        return cls.model_validate(found | {"val": found["val"] or None})


class Metrics(Model):
    """What a run is and what it reached: the content of metrics.json."""

    format: Literal[2]
    fingerprint: Text
    identity: Identity
    """All that the run's numbers depend on."""
    cell: CellNames
    epochs: Positive
    classes: Count
    """0 where no label is seen."""
    train_images: Positive
    """Different images that are trained on. (Where few have a label, an epoch shows these several times.)"""
    validation_images: Count | None = None
    """Images that are held out to choose the epoch; None: the run is older than this number."""
    labelled_images: Count | None = None
    """Of the training images, those whose labels are seen; None: all."""
    student_parameters: Positive
    last: Chosen
    selected: Selected
    zero_shot: ZeroShot | None = None
    """Of a CLIP teacher; None for other teachers."""

    @property
    def dataset_content(self) -> str:
        """The digest of the dataset's content that the run was trained on."""
        return str(self.identity["dataset"]["content"])

    def chosen(self, kind: str) -> Chosen:
        """Return the epoch that a kind of table shows: `last`, or the selected one."""
        return self.last if kind == "last" else self.selected


class RunRecord(Model):
    """All that a finished run leaves but its weights."""

    metrics: Metrics
    cost: Cost
    history: list[EpochRecord]

    def files(self) -> dict[str, str]:
        """Return name -> content of the record's files."""
        return {
            HISTORY: csv_text([epoch.line() for epoch in self.history]),
            COST: json_text(self.cost.model_dump(exclude_unset=True)),
            METRICS: json_text(self.metrics.model_dump(exclude_unset=True)),
        }


class Packages(Excerpt):
    """Versions of libraries."""

    torch: Text


class DeviceKind(Excerpt):
    """What kind of device computed."""

    kind: Text
    name: str = ""
    onednn: list[str] | None = None
    """The products that oneDNN takes on a CPU; None: the run does not say."""

    def __str__(self) -> str:
        """Return the name; the kind of one that has none."""
        name = " ".join(self.name.split()) or self.kind
        return name if self.onednn is None else f"{name} (by oneDNN: {', '.join(self.onednn) or 'nothing'})"


class Sitting(Excerpt):
    """With what a run was trained from when it was begun or resumed until it was stopped."""

    packages: Packages
    device: DeviceKind

    def __str__(self) -> str:
        """Return the library and the device, which can change the last digits of a result."""
        return f"torch {self.packages.torch} on {self.device}"


class Environment(Sitting):
    """What is read of env.json."""

    clipkd: str = ""
    commit: str | None = None
    sittings: list[Sitting] = Field(default_factory=list)
    """One for each time that the run was begun or resumed, the first one first; none: the run is older than this."""

    def __str__(self) -> str:
        """Return the library and the device of each sitting, those that are equal once."""
        return ", resumed with ".join(dict.fromkeys(map(str, self.sittings))) or super().__str__()


class SignalContent(Excerpt):
    """Which bytes taught a run: an artefact of the teacher's."""

    kind: Text
    fingerprint: Text
    """Of what it was made from."""
    sha256: Text
    """Of its files together."""
    teacher: Text
    """The fingerprint of the teacher that it was made with."""
    weights_sha256: Text | None
    """Of that teacher's weights; None: unknown."""


class RunFacts(Excerpt):
    """What is read of the facts in a run's manifest."""

    signal: list[SignalContent] = Field(default_factory=list)
    """None: the run has no teacher, or is older than this."""


class Failure(Excerpt):
    """What is read of failed.json."""

    message: Text


def csv_text(lines: list[dict[str, Any]]) -> str:
    """Return lines as CSV text; floats keep every digit."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(lines[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()
