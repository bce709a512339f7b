"""Accuracy tables: teachers as rows, dataset x train type as columns."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from clipkd.core.words import counted, verb
from clipkd.spec.cells import NO_TEACHER
from clipkd.spec.selection import LEAST_TO_CHOOSE
from clipkd.tables.grouping import AXES, ROLES, groups, nested_order, over_seeds, rows_of
from clipkd.tables.informed import informed_notes
from clipkd.tables.results import Results, dataset_title, teacher_titles
from clipkd.tables.settings import chosen_notes
from clipkd.tables.table import NOTHING, Column, Entry, Table, plain, significant, spread
from clipkd.tables.terms import EPOCHS

if TYPE_CHECKING:
    import pandas as pd

FAILED = "failed"
"""In place of a number where every run stopped on a number that is not finite."""
SHARE = 100.0
"""Accuracies are shares of 1 in the runs, percent in the tables."""
NEAR_CHANCE = 0.05
"""Above chance, as a share of 1; with many classes it is half as much again as chance."""
CSV = [
    *("dataset", "student", "labels", "teacher", "train_type", "recipe", "epoch", "metric", "epochs", "mean_percent"),
    *("deviation_percent", "n", "n_asked", "is_best", "teacher_head", "teacher_head_percent"),
]


def accuracy(
    runs: pd.DataFrame, metric: str = "top1", best_of: Sequence[str] = ("recipe", "dataset", "student", "labels")
) -> pd.DataFrame:
    """Return a row per student, teacher and train type: its accuracy over seeds, and whether it is the best.

    Args:
        runs: rows of the frame, one choice of epoch for each run.
        metric: `top1` or `top5`.
        best_of: in which groups of several the highest mean is marked; equal prints are equally good.
    """
    means = over_seeds(runs, [*AXES, "epoch"], metric)
    means = means.rename(columns={f"{metric}_mean": "mean", f"{metric}_deviation": "deviation"})
    printed = (means["mean"] * SHARE).map("{:.2f}".format)
    of_group = means.groupby(list(best_of))["mean"]
    highest = (of_group.transform("max") * SHARE).map("{:.2f}".format)
    is_best = (printed == highest) & (means.n > 0) & (of_group.transform("size") > 1)
    return means.assign(metric=metric, is_best=is_best)


def entry(row: Any) -> Entry:
    """Return the entry of a row of `accuracy`; None: this grid has no such runs."""
    if row is None:
        return Entry()
    text = FAILED if row.n_failed == row.n_asked else spread(row.mean, row.deviation, row.n, scale=SHARE)
    return Entry(text, row.is_best, row.n < row.n_asked)


class Lookup:
    """Rows of `accuracy` by student, labels, teacher and train type; without a teacher the same for each."""

    def __init__(self, means: pd.DataFrame) -> None:
        self.rows = {(row.student, row.labels, row.teacher, row.train_type): row for row in rows_of(means)}

    def __call__(self, student: str, labels: str, teacher: str, train_type: str) -> Any:
        """Return the row, None where there is none."""
        alone = self.rows.get((student, labels, NO_TEACHER, train_type))
        return self.rows.get((student, labels, teacher, train_type), alone)


def table(results: Results, recipe: str, epoch: str, metric: str) -> Table:
    """Return the table of one recipe, choice of epoch and metric (`top1`, `top5`)."""
    runs = results.comparable
    runs = runs[(runs.recipe == recipe) & (runs.epoch == epoch)]
    means = with_heads(accuracy(runs, metric), runs)
    students, labels, datasets = (list(runs[axis].unique()) for axis in ("student", "labels", "dataset"))
    titles, many = teacher_titles(teachers_of(runs)), len(students) > 1
    columns = [Column("Teacher", is_number=False)] + [Column("Student", is_number=False)] * many
    columns += [Column("Labels")] * results.has_few_labels
    made = Table("", "", columns)
    rows = {
        (student, few, teacher): [
            *[Entry(titles.get(teacher, NOTHING)), *[Entry(student)] * many, *[Entry(few)] * results.has_few_labels]
        ]
        for student, few in itertools.product(students, labels)
        if not (here := runs[(runs.student == student) & (runs.labels == few)]).empty
        for teacher in teachers_of(here)
    }
    csv = [name for name in CSV if name != "labels" or results.has_few_labels]
    for dataset in datasets:
        here = means[means.dataset == dataset]
        look, types = Lookup(here), train_types_of(runs[runs.dataset == dataset])
        columns += [Column(name, dataset_title(dataset, results.config)) for name in ("teacher", *types)]
        for (student, few, teacher), row in rows.items():
            mine = (here.student == student) & (here.labels == few) & (here.teacher == teacher)
            row.append(head_entry(here[mine]))
            row += [entry(look(student, few, teacher, name)) for name in types]
        made.records += [{name: plain(getattr(row, name)) for name in csv} for row in rows_of(here)]
    made.rows = list(rows.values())
    made.notes = [*informed_notes(results.cells, results.config), *notes(runs, epoch)]
    return made


def teachers_of(runs: pd.DataFrame) -> list[str]:
    """Return the teachers of runs; `none` where there is no other."""
    return [name for name in runs.teacher.unique() if name != NO_TEACHER] or [NO_TEACHER]


def train_types_of(runs: pd.DataFrame) -> list[str]:
    """Return the train types of runs: the baseline, the methods, then the controls; else in the config's order."""
    first = runs.drop_duplicates("train_type")
    return list(nested_order(first, "role", "train_type", role=ROLES).train_type)


def with_heads(means: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    """Return rows of `accuracy` in percent, with the accuracy of the teacher's own head beside them."""
    metric = means.metric.iloc[0]
    keys = ["dataset", "student", "labels", "teacher"]
    # Train types of one seed share a head: it counts once.
    each = runs.groupby([*keys, "seed"], sort=False).agg(
        teacher_head=("teacher_head", "first"),
        share=(f"teacher_head_{metric}", "first"),
        needs_head=("needs_head", "any"),
    )
    each = each.assign(lacks_head=each.needs_head & each.share.isna())
    heads = each.groupby(keys).agg(
        teacher_head=("teacher_head", "first"),
        teacher_head_percent=("share", only_or_mean),
        lacks_head=("lacks_head", "any"),
    )
    heads["teacher_head_percent"] *= SHARE
    percent = means.assign(mean_percent=means["mean"] * SHARE, deviation_percent=means.deviation * SHARE)
    return percent.merge(heads.reset_index(), on=keys, how="left")


def only_or_mean(values: pd.Series) -> float | None:
    """Return the one value of a group, or the mean where seeds differ; None where there is none."""
    known = values.dropna()
    if not len(known):
        return None
    return float(known.iloc[0] if known.nunique() == 1 else known.mean())


def head_entry(means: pd.DataFrame) -> Entry:
    """Return the accuracy of a teacher's own head; several teachers have one each, and none together."""
    share, is_incomplete = means.teacher_head_percent.dropna(), bool(means.lacks_head.any())
    return Entry(is_incomplete=is_incomplete) if share.empty else Entry(f"{share.iloc[0]:.2f}", False, is_incomplete)


def validation_notes(runs: pd.DataFrame) -> list[str]:
    """Return how many images choose the epoch of each dataset's runs, where a recipe lets them."""
    found = []
    known = runs.dropna(subset="validation_images")
    for (dataset, recipe, labels), here in groups(known, "dataset", "recipe", "labels"):
        images, training = (int(here[name].min()) for name in ("validation_images", "train_images"))
        if not images:  # the recipe chooses by test accuracy
            continue
        # One choice of the epoch for all rows of a dataset: that of the fewest held out.
        least = known[(known.dataset == dataset) & (known.recipe == recipe)].validation_images.min()
        few = "; these are few, so the last epoch is kept and compared" if images < LEAST_TO_CHOOSE else ""
        few = few or "; comparisons use the last epoch, as with the fewest labels" * bool(least < LEAST_TO_CHOOSE)
        of = f"{images + training:,}" if labels == "all" else f"the {labels} that are labelled"
        held_out = f"{counted(images, 'image')} {verb(images)}"
        found.append(f"{dataset}: {held_out} held out of {of} to choose the epoch{few}.")
    return found


def chance_notes(runs: pd.DataFrame) -> list[str]:
    """Return a line for each dataset on which no student does much better than guessing."""
    found = []
    for dataset, here in groups(runs.dropna(subset=["top1", "classes"]), "dataset"):
        chance = 1 / float(here.classes.min())
        limit = chance + min(chance / 2, NEAR_CHANCE)
        if over_seeds(here, [*AXES, "epoch"], "top1").top1_mean.max() <= limit:
            found.append(
                f"{dataset}: no student's top-1 is far above chance ({significant(chance * SHARE, 2)} %): little can "
                "be told from such runs; train longer."
            )
    return found


def notes(runs: pd.DataFrame, epoch: str) -> list[str]:
    """Return the lines that say how the numbers were obtained."""
    shortest, longest = runs.epochs.min(), runs.epochs.max()
    length = f"{shortest} epochs" if shortest == longest else f"{shortest} to {longest} epochs (see the CSV)"
    parts = {"student": "student", "labels": "number of labels"}
    apart = [name for axis, name in parts.items() if runs[axis].nunique() > 1]
    best_of = " and ".join(["dataset", *apart]) if len(apart) < 2 else f"dataset, {' and '.join(apart)}"
    own = " or ".join(sorted(runs.teacher_head.dropna().unique())) or "linear probe"
    replayed = runs[runs.teacher_source == "replayed"]
    limited = [
        f"{dataset}: replayed; students of {', '.join(train_types_of(here))} saw only the stored random views of each "
        "image."
        for dataset, here in groups(replayed, "dataset")
    ]
    for dataset, here in groups(runs[runs.has_one_view], "dataset"):
        who = " and ".join(teacher_titles(teachers_of(here)).values())
        limited.append(
            f"{dataset}: one view; students of {', '.join(train_types_of(here))} with {who} were taught the one vector "
            "that is known of each image, as it is, for every mirrored or cropped view of it: an approximation."
        )
    return [
        *chance_notes(runs),
        *limited,
        *chosen_notes(runs),
        *validation_notes(runs),
        f"Test accuracy in percent: mean ± sample standard deviation over seeds (n). "
        f"Runs of {length}; {EPOCHS[epoch]}.",
        f"Student: {', '.join(runs.student.unique())}. Bold: the highest mean of a {best_of}.",
        f"teacher: test accuracy of the teacher's {own} on its stored embeddings; – if this grid stores none.",
        "supervised has no teacher: each row shows the same runs. Names with permuted, within-class, random or "
        "onehot are controls: their method, with other targets than the teacher's for an image.",
    ]
