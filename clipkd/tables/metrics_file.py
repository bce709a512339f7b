"""The results as one small JSON file that git keeps: `dvc metrics show` and `dvc metrics diff` read it."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

from clipkd.tables.grouping import AXES, over_seeds, rows_of

if TYPE_CHECKING:
    import pandas as pd

NUMBERS = ("top1", "top5", "validation_top1")
"""Columns of the frame whose mean over seeds is written."""


def text(shown: pd.DataFrame) -> str:
    """Return the file's content: recipe -> dataset -> student (-> few labels) -> teacher -> train type -> numbers.

    It is made of the rows that tables show: of a sweep, those of the chosen setting. Accuracies are means over seeds,
    shares of 1, of the epoch that comparisons use. `n` counts the seeds, and what is not known is left out. Runs that
    measure costs only are not among them. A teacher is called as in folders: a change of what it is keeps its place.
    """
    runs = shown[shown.is_headline & ~shown.is_cost_run & (shown.labels != "none") & (shown.state == "finished")]
    keys = dict(zip(runs.teacher, runs.teacher_key, strict=True))
    found: dict[str, Any] = {}
    for row in rows_of(over_seeds(runs, [*AXES, "teacher_source"], *NUMBERS)):
        place = found
        for axis in AXES[:-1]:
            name = keys[row.teacher] if axis == "teacher" else getattr(row, axis)
            if (axis, name) != ("labels", "all"):
                place = place.setdefault(f"{name} labels" if axis == "labels" else name, {})
        replayed = " (replayed)" if row.teacher_source == "replayed" else ""
        means = {name: getattr(row, f"{name}_mean") for name in NUMBERS}
        place[row.train_type + replayed] = {"n": row.n} | {
            name: round(mean, 6) for name, mean in means.items() if not math.isnan(mean)
        }
    return json.dumps(found, indent=2) + "\n"
