"""What training costs: a row per dataset, student, teacher, train type, recipe and source of the teacher's signal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, get_args

from clipkd.spec.cells import NO_TEACHER, TeacherSource
from clipkd.tables.grouping import AXES, ROLES, joined, nested_order, over_seeds
from clipkd.tables.results import Results
from clipkd.tables.table import is_missing

if TYPE_CHECKING:
    import pandas as pd

GIGABYTE, MEGABYTE = 1e9, 1e6
"""Powers of ten, as in the paper's figure."""
NUMBERS = (
    "top1",
    "seconds_per_epoch",
    "images_per_second",
    "images_per_epoch",
    "teacher_passes",
    "weights_bytes",
    "peak_memory_bytes",
)
"""Columns of the frame, of which a row has mean and deviation over seeds; top-1 at the headline epoch."""
LIVE = ("live", "lazy")
STACKED = (
    "students at once: those that a GPU computes together. Seconds are then one student's share of the time, images/s "
    "and peak memory are of all of them."
)
SOURCES = ("none", *get_args(TeacherSource))


def costs(results: Results) -> pd.DataFrame:
    """Return the costs over seeds; runs with a cached teacher before those with a live one."""
    runs = results.shown[results.shown.is_headline]
    keys = [*AXES, "teacher_source"]
    rows = over_seeds(runs, keys, *NUMBERS)
    once = runs.groupby(keys).agg(
        role=("role", "first"),
        signal=("signal", "first"),
        is_cost_run=("is_cost_run", "first"),
        setting=("setting", "first"),
        epoch=("epoch", "first"),
        least_side_by_side=("side_by_side", "min"),
        most_side_by_side=("side_by_side", "max"),
        device=("device", joined),
        peak_memory_of=("peak_memory_of", joined),
        extraction_seconds=("extraction_seconds", "first"),
        extraction_passes=("extraction_passes", "first"),
        embeddings_disk_bytes=("embeddings_disk_bytes", "first"),
        extraction_device=("extraction_device", "first"),
    )
    rows = rows.merge(once.reset_index(), on=keys).assign(is_incomplete=lambda f: f.n < f.n_asked)
    rows["has_teacher"] = rows.teacher != NO_TEACHER
    axes = ("dataset", "student", "has_teacher", "teacher", "role", "train_type", "recipe", "teacher_source")
    rows = nested_order(rows, *axes, has_teacher=[False, True], role=ROLES, teacher_source=SOURCES)
    return with_cached(rows)


def side_by_side(row: Any) -> str:
    """Return how many students of a row were computed together, each with others; "" of none."""
    if is_missing(row.most_side_by_side):
        return ""
    least, most = int(row.least_side_by_side), int(row.most_side_by_side)
    return str(most) if least == most else f"{least} to {most}"


def with_cached(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the costs; beside those with a live teacher, the same runs with a cached one: `cached_*`.

    Of a sweep both are shown with the setting that was chosen for them: where these differ, they are not the same runs.
    There is no ratio where other numbers of students were computed together: each time is one student's share.
    """
    numbers = ["seconds_per_epoch_mean", "epochs", "is_incomplete", "least_side_by_side", "most_side_by_side"]
    cached = rows.loc[rows.teacher_source == "cached", [*AXES, "setting", *numbers]]
    found = rows.merge(cached, on=[*AXES, "setting"], how="left", suffixes=("", "_cached"))
    is_live = found.teacher_source.isin(LIVE)
    for number in numbers:
        found[f"cached_{number}"] = found.pop(f"{number}_cached").where(is_live)
    ends = [(found[f"{end}_side_by_side"], found[f"cached_{end}_side_by_side"]) for end in ("least", "most")]
    is_alike = (ends[0][0] == ends[0][1]) & (ends[1][0] == ends[1][1])
    seconds = found.cached_seconds_per_epoch_mean.where(lambda each: each > 0)
    ratio = (found.seconds_per_epoch_mean / seconds).where(is_alike.fillna(value=False).astype(bool))
    return found.assign(live_to_cached=ratio)
