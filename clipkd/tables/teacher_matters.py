"""Does the teacher matter: differences to training without it, to its controls and between methods."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from clipkd.tables.accuracy import chance_notes
from clipkd.tables.comparisons import QUESTIONS, UNLIKE, Comparison, comparisons, interval_of, p_value, signed
from clipkd.tables.fields import place_fields
from clipkd.tables.informed import informed_notes
from clipkd.tables.results import Results, teacher_names, teacher_titles
from clipkd.tables.settings import chosen_notes
from clipkd.tables.table import NOTHING, Column, Entry, Field, Table, filled, marked, words

EPOCHS = {"selected": "the validation-selected epoch", "last": "the last epoch"}
FAR_BELOW = 5
"""Points."""


def table(results: Results) -> Table:
    """Return the table of comparisons."""
    found, alone = comparisons(results)
    titles = teacher_titles(teacher_names(results.cells))
    made = filled(
        [
            words("recipe", "Recipe"),
            *place_fields(results, titles),
            words("method", "Method"),
            words("against", "Against", lambda row: f"{row.against} {UNLIKE}" if row.unlike else row.against),
            Field("unlike"),
            words("question", "Question", lambda row: QUESTIONS[row.question]),
            Field("epoch"),
            Field("difference_points", Column("Difference, points"), difference, lambda row: part(row, "mean")),
            Field("low_points", Column("95 % CI, uncorrected"), interval, lambda row: part(row, "low")),
            Field("high_points", value=lambda row: part(row, "high")),
            words("interval_over", "Interval over", lambda row: over(row) or NOTHING, over),
            Field("n", Column("n"), lambda row: marked(row, str(seeds(row))), seeds),
            Field("p", value=lambda row: part(row, "p")),
            Field("p_holm", Column("p, Holm"), lambda row: p_value(row.corrected), lambda row: row.corrected),
            Field("verdict"),
            Field(
                "sentence",
                Column("In words", is_number=False, is_sentence=True),
                lambda row: marked(row, row.sentence),
            ),
            Field("incomplete", value=lambda row: int(row.is_incomplete)),
        ],
        found,
    )
    is_mixed = any(one.unlike for one in found)
    recipes = {epoch: sorted({one.recipe for one in found if one.epoch == epoch}) for epoch in EPOCHS}
    used = "; ".join(f"recipe {', '.join(names)}: {EPOCHS[epoch]}" for epoch, names in recipes.items() if names)
    runs = results.comparable
    made.notes = [
        *["This grid has nothing to compare: no train type has a partner without a teacher."] * (not found),
        *chance_notes(runs[runs.is_headline]),
        *chosen_notes(runs),
        *informed_notes(results.cells, results.config),
        *too_short_notes(found),
        f"Difference in test top-1, in percentage points, paired by seed. Epoch compared: {used or 'none'}.",
        "Interval: of a paired bootstrap over seeds and images, if all runs kept which test images are correct; else "
        "Student's t over the seeds' differences, which covers the choice of seed only, on one test set. It is not "
        "corrected for the number of comparisons. With 2 seeds it is at least 12 times as wide as the gap between "
        "their two differences, so that only large effects can show.",
        'In words: better or worse if "p, Holm" is at most 0.05. It is the p-value of the difference, corrected by '
        f'Holm\'s method for the list of all comparisons of its question; "{QUESTIONS["help"]}" and '
        f'"{QUESTIONS["methods"]}" share a list. Where a list has nothing to find, at most 5 % of grids find something '
        "in it.",
        f'"{QUESTIONS["content"]}": it does if a method is better than training without a teacher and than the control '
        "that gives the same targets to the wrong classes or images. Such a row shows the difference to the better of "
        "the two; its p-value is the larger one. Other controls change more than the content, or less: they are "
        "information.",
        "no difference shown does not prove equality.",
        *[f"{UNLIKE}: the two sides differ in more than the train type, as the row says in words."] * is_mixed,
        *alone,
    ]
    return made


def part(comparison: Any, name: str) -> float | None:
    """Return one number of a comparison's difference; None where there is none, or no comparison."""
    return getattr(comparison.difference, name, None) if comparison else None


def over(comparison: Comparison) -> str | None:
    """Return what the interval and p-value of a comparison cover the choice of; None where it has neither."""
    found = comparison.difference
    return found.over if found and found.p is not None else None


def seeds(comparison: Comparison) -> int:
    return comparison.difference.n if comparison.difference else 0


def difference(comparison: Any) -> Entry:
    return marked(comparison, plus(comparison.difference.mean) if comparison.difference else NOTHING)


def interval(comparison: Comparison) -> Entry:
    return marked(comparison, interval_of(comparison.difference) or NOTHING)


def plus(value: float) -> str:
    """Return a signed number, with its sign where it is not zero."""
    text = signed(value)
    return text if text.startswith("−") or float(text) == 0 else f"+{text}"


def plus_or_minus(half: float | None) -> str:
    """Return half of an interval's width as text; a dash where there is no interval."""
    return NOTHING if half is None else f"± {signed(half)}"


def too_short_notes(found: Sequence[Comparison]) -> list[str]:
    """Return the line on train types far below training without a teacher; none where there are none."""
    methods = [
        one.method for one in found if one.question == "help" and one.difference and one.difference.mean <= -FAR_BELOW
    ]
    if not methods:
        return []
    return [
        f"{', '.join(dict.fromkeys(methods))}: {FAR_BELOW} points or more below training without a teacher. A student "
        "that imitates a teacher may need many more epochs than one that learns from labels alone: train longer before "
        "you conclude that the teacher harms (docs/faq.md)."
    ]
