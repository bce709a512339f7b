"""Accuracy by number of labels: each train type beside `supervised` on the same labels, and the teacher's probe."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from clipkd.spec.cells import NO_TEACHER
from clipkd.spec.selection import LEAST_TO_CHOOSE
from clipkd.tables.accuracy import SHARE, train_types_of
from clipkd.tables.comparisons import comparisons, p_value, row_of
from clipkd.tables.fields import percent_fields
from clipkd.tables.grouping import AXES, axes_of, nested_order, over_seeds, rows_of, summary_of
from clipkd.tables.informed import informed_notes
from clipkd.tables.results import Results, dataset_title, teacher_titles
from clipkd.tables.summary import by_student
from clipkd.tables.table import NOTHING, Column, Field, Table, count, filled, is_missing, spread, words
from clipkd.tables.teacher_matters import difference, interval, part, plus_or_minus
from clipkd.tables.terms import BASELINE

if TYPE_CHECKING:
    import pandas as pd

HEAD = "teacher_head_top1"
HEADS = {
    "linear probe": "a linear probe of its embeddings, fitted to the same labels",
    "checkpoint": "the teacher's own classifier, whatever labels it was trained with",
}

SHORT = {"linear probe": "linear probe", "checkpoint": "own classifier"}
"""What scores the teacher's embeddings -> its short name."""


def by_labels(results: Results) -> pd.DataFrame:
    """Return a row per train type and number of labels: accuracies over seeds, as shares of 1, and label counts.

    `seen`: labelled images in all; `of_class`: trained on, per class; `held_out`: for validation.
    """
    runs = results.comparable
    runs = runs[runs.is_headline]
    rows = over_seeds(runs, AXES, "top1", HEAD)
    # All labels make one probe of a teacher, which all seeds share, unless each has a teacher of its own.
    one_for_all = {
        (results.labels[cell.recipe], *axes_of(cell)[1:]) for cell in results.cells if not cell.differs_by_seed
    }
    is_shared = rows[AXES].apply(tuple, axis=1).isin(one_for_all) & (rows[f"{HEAD}_n"] > 0)
    rows.loc[is_shared, [f"{HEAD}_n", f"{HEAD}_deviation"]] = [1, float("nan")]
    counts = runs.groupby(AXES).agg(
        **{name: (name, "min") for name in ("train_images", "labelled_images", "validation_images", "classes")},
        head=("teacher_head", "first"),
        role=("role", "first"),
    )
    rows = rows.merge(counts.reset_index(), on=AXES)
    trained = rows.labelled_images.astype("float64").fillna(rows.train_images.astype("float64"))
    held_out = rows.validation_images.astype("float64")
    of_class = trained / rows.classes.astype("float64")
    return rows.assign(seen=trained + held_out.fillna(0), of_class=of_class, held_out=held_out)


def interval_of(mean: float, deviation: float, n: int) -> tuple[float, float] | None:
    """Return the 95 % confidence interval of a mean over seeds (Student's t); None where there is none."""
    if n < 2 or not deviation > 0:
        return None
    found = by_student(mean, deviation / math.sqrt(n), n)
    assert found.low is not None
    assert found.high is not None
    return found.low, found.high


def table(results: Results) -> Table:
    """Return the table: a row per train type, teacher and number of labels."""
    titles = teacher_titles(name for name in results.comparable.teacher.unique() if name != NO_TEACHER)
    found = {
        row_of(one): one for one in comparisons(results)[0] if one.against == BASELINE and one.question != "content"
    }

    rows = in_order(by_labels(results))
    compared: list[Any] = [found.get(place) for place in rows[AXES].itertuples(index=False, name=None)]
    rows["compared"] = compared

    def shown(text: Any) -> Any:
        return lambda row: text(row.compared) if row.compared else NOTHING

    fields = [
        words("recipe", "Recipe"),
        words("dataset", "Dataset", lambda row: dataset_title(row.dataset, results.config)),
        words("student", "Student"),
        Field("labels", Column("Labels")),
        words("teacher", "Teacher", lambda row: titles.get(row.teacher, NOTHING)),
        words("train_type", "Train type"),
        *percent_fields("", "top1", Column("Test top-1, %")),
        *map(Field, ("n", "n_asked")),
        Field(
            "difference_points",
            Column("to supervised, points"),
            shown(difference),
            lambda row: part(row.compared, "mean"),
        ),
        words(
            "verdict",
            "Verdict",
            shown(lambda one: one.verdict),
            lambda row: getattr(row.compared, "verdict", None),
        ),
        Field("low_points", Column("95 % CI"), shown(interval), lambda row: part(row.compared, "low")),
        Field("high_points", value=lambda row: part(row.compared, "high")),
        Field(
            "shown_from_points",
            Column("detectable from, points"),
            lambda row: plus_or_minus(part(row.compared, "half")),
            lambda row: part(row.compared, "half"),
        ),
        Field(
            "p_holm",
            Column("p, Holm"),
            shown(lambda one: p_value(one.corrected)),
            lambda row: getattr(row.compared, "corrected", None),
        ),
        Field(
            "probe_percent",
            Column("Teacher's classifier, %"),
            lambda row: spread(*summary_of(row, HEAD), scale=SHARE),
            lambda row: getattr(row, f"{HEAD}_mean") * SHARE,
        ),
        Field("probe_deviation_percent", value=lambda row: getattr(row, f"{HEAD}_deviation") * SHARE),
        Field(
            "validation_labels",
            Column("of these, validation"),
            lambda row: count(row.held_out),
            lambda row: None if is_missing(row.held_out) else int(row.held_out),
        ),
        Field(
            "training_labels_per_class",
            Column("trained on, per class"),
            lambda row: count(row.of_class),
            lambda row: row.of_class,
        ),
    ]
    made = filled(fields, rows_of(rows))
    heads = sorted(rows["head"].dropna().unique())
    made.notes = [
        "Test top-1 and the teacher's classifier: mean ± sample standard deviation over seeds (n); each seed has its "
        "own labelled images, the same for all train types.",
        *[f"Teacher's classifier: {', or '.join(HEADS[head] for head in heads)}."] * bool(heads),
        "Labels: labelled images in all. Those for validation choose the penalty of the probe, and the epoch if they "
        f"are {LEAST_TO_CHOOSE} or more; else the last one is kept. The classes have the same number of labels, to "
        "within one, unless one has no more.",
        "to supervised: the difference to training without a teacher on the same labels, paired by seed; its interval "
        "is not corrected, p is, as in the table teacher-matters. detectable from: half of the interval's width; a "
        "smaller difference could not have been told from 0 with this n, before any correction.",
        *informed_notes(results.cells, results.config),
    ]
    return made


def in_order(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows with the baseline first at each number of labels: a sweep's settings are chosen in any order."""
    teachers = [NO_TEACHER, *(name for name in rows.teacher.unique() if name != NO_TEACHER)]
    axes = ("recipe", "dataset", "student", "labels", "teacher", "train_type")
    return nested_order(rows, *axes, teacher=teachers, train_type=train_types_of(rows))
