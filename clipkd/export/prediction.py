"""Files of predictions: CSV with one row per class, or JSON with one object per image. No torch here."""

from __future__ import annotations

import csv
import json
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from clipkd.export.model import FilePrediction


FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""What a spreadsheet takes for the beginning of a formula (https://owasp.org/www-community/attacks/CSV_Injection)."""


class CsvWriter:
    """CSV: image, rank, class, probability; an image that can't be read has no row.

    A path that a spreadsheet would take for a formula begins with `./`, a class with an apostrophe.
    """

    def __init__(self, stream: TextIO) -> None:
        self.writer = csv.writer(stream, lineterminator="\n")
        self.writer.writerow(["image", "rank", "class", "probability"])

    def write(self, prediction: FilePrediction) -> None:
        path = str(prediction.path)
        path = f"./{path}" if path.startswith(FORMULA) else path
        for rank, (label, probability) in enumerate(prediction.predictions, start=1):
            label = f"'{label}" if label.startswith(FORMULA) else label
            self.writer.writerow([path, rank, label, f"{probability:.6f}"])

    def close(self) -> None:
        pass


class JsonWriter:
    """JSON: a list with, for each image, its `predictions` or its `error`."""

    def __init__(self, stream: TextIO) -> None:
        self.stream, self.before = stream, "[\n"

    def write(self, prediction: FilePrediction) -> None:
        entry: dict[str, Any] = {"image": str(prediction.path)}
        if prediction.error is not None:
            entry["error"] = str(prediction.error)
        else:
            entry["predictions"] = [
                {"class": label, "probability": round(probability, 6)} for label, probability in prediction.predictions
            ]
        self.stream.write(self.before + as_json(entry, self.stream))
        self.before = ",\n"

    def close(self) -> None:
        self.stream.write("\n]\n" if self.before == ",\n" else "[]\n")


def as_json(entry: dict[str, Any], stream: TextIO) -> str:
    """Return an object as JSON, with letters as they are where the stream can write them."""
    text = json.dumps(entry, ensure_ascii=False)
    try:
        text.encode(getattr(stream, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        return json.dumps(entry)
    return text


WRITERS: dict[str, type[CsvWriter] | type[JsonWriter]] = {"csv": CsvWriter, "json": JsonWriter}
