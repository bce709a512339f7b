"""Prototypes table: the classifier beside the nearest prototype, and a CLIP teacher's own zero-shot."""

from __future__ import annotations

from clipkd.tables.accuracy import SHARE, teachers_of, validation_notes
from clipkd.tables.fields import percent_fields, place_fields
from clipkd.tables.grouping import AXES, over_seeds, rows_of
from clipkd.tables.results import Results, teacher_titles
from clipkd.tables.settings import chosen_notes
from clipkd.tables.table import NOTHING, Column, Field, Table, filled, is_missing, words


def table(results: Results) -> Table:
    """Return the table: one row for each kind of run that has class prototypes."""
    runs = results.comparable
    runs = runs[runs.is_headline & (runs.signal == "prototypes")]
    rows = over_seeds(runs, [*AXES, "epoch"], "top1", "nearest_prototype_top1")
    zero_shot = runs.groupby(AXES).zero_shot_top1.first().reset_index()
    rows = rows.merge(zero_shot, on=AXES, how="left")
    titles = teacher_titles(teachers_of(runs))
    fields = [
        words("recipe", "Recipe"),
        *place_fields(results, titles),
        words("train_type", "Train type"),
        *map(Field, ("epoch", "n", "n_asked")),
        *percent_fields("classifier_", "top1", Column("classifier, %", "Student")),
        *percent_fields("nearest_prototype_", "nearest_prototype_top1", Column("nearest prototype, %", "Student")),
        Field(
            "zero_shot_percent",
            Column("zero-shot, %", "Teacher"),
            lambda row: NOTHING if is_missing(row.zero_shot_top1) else f"{row.zero_shot_top1 * SHARE:.2f}",
            lambda row: row.zero_shot_top1 * SHARE,
        ),
    ]
    made = filled(fields, rows_of(rows))
    made.notes = [
        *chosen_notes(runs),
        *validation_notes(runs),
        "Test top-1: mean ± sample standard deviation over seeds (n), at the epoch that comparisons use: recipe "
        "reference at its last one, others at the one that validation chose, unless its images are too few.",
        "nearest prototype: the class whose prototype is most similar to the student's embedding, with the trained "
        "projection and without the classifier.",
        f"zero-shot: the teacher's image embeddings against those of the class names, without training; {NOTHING} if "
        "the teacher is not a text tower, or its vision tower (MODEL:pooler) is not in this grid.",
    ]
    return made
