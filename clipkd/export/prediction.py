"""Predictions on paper: CSV with one row per class, or JSON with one object per image. No torch here."""

from __future__ import annotations

import csv
import json
from typing import TYPE_CHECKING, Protocol, TextIO

if TYPE_CHECKING:
    from clipkd.export.model import Answer


class Writer(Protocol):
    """Writes answers one by one."""

    def write(self, answer: Answer) -> None: ...

    def close(self) -> None: ...


class Rows:
    """CSV: image, rank, class, probability; an image that can't be read has no row."""

    def __init__(self, stream: TextIO) -> None:
        self.writer = csv.writer(stream, lineterminator="\n")
        self.writer.writerow(["image", "rank", "class", "probability"])

    def write(self, answer: Answer) -> None:
        for rank, (label, probability) in enumerate(answer.predictions, start=1):
            self.writer.writerow([answer.path, rank, label, f"{probability:.6f}"])

    def close(self) -> None:
        pass


class Objects:
    """JSON: a list with, for each image, its `predictions` or its `error`."""

    def __init__(self, stream: TextIO) -> None:
        self.stream, self.before = stream, "[\n"

    def write(self, answer: Answer) -> None:
        said: dict = {"image": str(answer.path)}
        if answer.error is not None:
            said["error"] = str(answer.error)
        else:
            said["predictions"] = [
                {"class": label, "probability": round(probability, 6)} for label, probability in answer.predictions
            ]
        self.stream.write(self.before + json.dumps(said))
        self.before = ",\n"

    def close(self) -> None:
        self.stream.write("\n]\n" if self.before == ",\n" else "[]\n")


WRITERS: dict[str, type[Rows] | type[Objects]] = {"csv": Rows, "json": Objects}
