"""The report's overview: what was run, and whether the teacher matters, in a few words and one table each."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

from clipkd.plugins import recipes
from clipkd.report.markup import (
    Field,
    answer,
    bar,
    facts,
    field,
    interval,
    notes,
    paragraph,
    table,
)
from clipkd.runs.record import Fields
from clipkd.spec.cells import NO_TEACHER
from clipkd.tables import KINDS, METRICS
from clipkd.tables.accuracy import best_mean, entry, group
from clipkd.tables.comparisons import Comparison
from clipkd.tables.results import (
    BASELINE,
    Results,
    accuracy_cells,
    dataset_title,
    headline,
    teacher_names,
    teacher_title,
    teacher_titles,
    train_types,
    values,
    where,
)
from clipkd.tables.table import NOTHING, Column, Entry, spread
from clipkd.tables.teacher_matters import plus

FEW_SEEDS = 5
VERDICTS = ("better", "worse", "no difference shown", "nothing can be concluded", "not compared")


def what_was_run(results: Results, runs: Path) -> str:
    """Return the tiles that say what stands in this report."""
    cells = results.cells
    epochs = sorted(set(values(cells, "epochs")))
    devices = sorted({run.cost.device for run in results.runs.values()})
    known = {
        "Runs": f"{len(results.runs)} of {len(cells)}",
        "Datasets": ", ".join(dataset_title(name, results.config) for name in values(cells, "dataset")),
        "Teachers": ", ".join(teacher_titles(teacher_names(cells)).values()) or "none",
        "Students": ", ".join(values(cells, "student")),
        "Train types": str(len(values(cells, "train_type"))),
        "Recipes": ", ".join(values(cells, "recipe")),
        "Seeds": str(len(values(accuracy_cells(cells), "seed"))),
        "Epochs": " to ".join(map(str, dict.fromkeys((epochs[0], epochs[-1])))),
        "Computed on": "; ".join(devices) or NOTHING,
    }
    return facts(known | versions(results, runs))


def versions(results: Results, runs: Path) -> dict[str, str]:
    """Return the versions that the runs were made with, where they say so."""
    found: dict[str, None] = {}
    for cell in results.runs:
        path = runs / cell.folder / "env.json"
        if path.exists():
            environment = Fields.read(path)
            found[f"clipkd {environment.word('clipkd')}, torch {environment.word('packages.torch')}"] = None
    return {"Software": "; ".join(found)} if found else {}


def answers(found: list[Comparison]) -> str:
    """Return, in words, whether it is the teacher's content that helps, and whether a teacher helps at all."""
    controls = [comparison for comparison in found if comparison.against != BASELINE]
    baseline = [comparison for comparison in found if comparison.against == BASELINE]
    methods = ", ".join(dict.fromkeys(comparison.method for comparison in controls))
    questions = [
        ("Does the teacher's content matter?", f"{methods} against its controls, which lack that content", controls),
        ("Does training with a teacher help at all?", "Every train type against training without a teacher", baseline),
    ]
    said = [
        answer(f"{ask} {verdict(them)}", f"{what}: {counted(them)}.{caution(them)}")
        for ask, what, them in questions
        if them
    ]
    return "".join(said) or paragraph(
        "This grid has nothing to compare: no train type has a partner without a teacher."
    )


def caution(found: list[Comparison]) -> str:
    """Return what few seeds forbid to conclude, "" where there are enough."""
    seeds = sorted(comparison.difference.n for comparison in found if comparison.difference)
    if not seeds or seeds[0] >= FEW_SEEDS:
        return ""
    if seeds[0] == seeds[-1]:
        limit = "no interval can be given" if seeds[0] == 1 else "only large effects can show"
        return f" With {seeds[0]} seed{'s' if seeds[0] > 1 else ''} {limit}."
    one = "from one seed nothing can be concluded, and " if seeds[0] == 1 else ""
    return f" The fewest seeds of a comparison are {seeds[0]}: {one}with few only large effects can show."


def verdict(found: list[Comparison]) -> str:
    """Return what comparisons say together."""
    counts = Counter(comparison.verdict for comparison in found)
    if counts["better"] and counts["worse"]:
        return "In some comparisons it helps, in others it harms."
    if counts["better"]:
        return "Yes." if counts["better"] == len(found) else "In some comparisons."
    return "It harms in some comparisons." if counts["worse"] else "Not shown here."


def counted(found: list[Comparison]) -> str:
    """Return how many comparisons came to which verdict."""
    counts = Counter(comparison.verdict for comparison in found)
    words = {"better": "better in", "worse": "worse in", "not compared": "not compared in"}
    told = [f"{words.get(verdict, verdict + ' in')} {counts[verdict]}" for verdict in VERDICTS if counts[verdict]]
    return f"{', '.join(told)} of {len(found)} comparisons"


def comparisons_table(results: Results, found: list[Comparison]) -> str:
    """Return every comparison with a drawing of its interval."""
    titles = teacher_titles(teacher_names(results.cells))
    means = [abs(comparison.difference.mean) for comparison in found if comparison.difference]
    reach = math.ceil(max(2.0, 2 * max(means, default=0.0)))
    names = ("Method", "Against", "Teacher", "Dataset", "Student", "Recipe")
    columns = [Column(name, is_number=False) for name in names]
    columns += [Column("Points"), Column("95 % interval"), Column("Seeds"), Column("Verdict", is_number=False)]
    rows = []
    for comparison in found:
        difference = comparison.difference
        texts = (comparison.method, comparison.against, titles[comparison.teacher])
        where = (dataset_title(comparison.dataset, results.config), comparison.student, comparison.recipe)
        row = [Field(text) for text in (*texts, *where)]
        kind = comparison.verdict if comparison.verdict in ("better", "worse") else ""
        if difference is None:
            row += [Field(NOTHING), Field(NOTHING), Field("0"), Field(comparison.verdict)]
        else:
            drawn = interval(difference.mean, difference.low, difference.high, reach)
            ends = (difference.low, difference.high)
            span = NOTHING if None in ends else " to ".join(plus(end) for end in ends if end is not None)
            points = Entry(plus(difference.mean), is_incomplete=comparison.is_incomplete).marked
            row += [Field(points, drawn, kind), Field(span), Field(str(difference.n))]
            row += [Field(comparison.verdict, kind=kind)]
        rows.append(row)
    said = (
        f"Drawn from −{reach} to +{reach} points; the line in the middle is no difference, "
        "an arrow says that the interval goes on."
    )
    return table(columns, rows) + paragraph(said)


def headline_tables(results: Results) -> str:
    """Return, for each dataset and student, the accuracy that comparisons use: a row for each train type."""
    cells = accuracy_cells(results.cells)
    titles = teacher_titles(teacher_names(cells) or [NO_TEACHER])
    made = []
    for dataset, student in dict.fromkeys((cell.dataset, cell.student) for cell in cells):
        here = where(cells, dataset=dataset, student=student)
        columns, rows = [Column("Train type", is_number=False)], {name: [Field(name)] for name in train_types(here)}
        for recipe in values(here, "recipe"):
            kind = headline(recipes.get(recipe).selection)
            mine = where(here, recipe=recipe)
            best = best_mean(results, mine, kind, "top1")
            for teacher in teacher_names(mine) or [NO_TEACHER]:
                columns.append(Column(titles[teacher], f"recipe {recipe}, {KINDS[kind]}"))
                for name, row in rows.items():
                    found = group(mine, train_type=name, teacher=teacher)
                    row.append(field(entry(results, found, kind, "top1", best)) if found else Field(NOTHING))
        caption = f"Test accuracy in percent: {dataset_title(dataset, results.config)}, student {student}"
        made.append(table(columns, list(rows.values()), caption=caption))
    told = [
        "Mean ± sample standard deviation over seeds (n). Bold: the highest mean of a recipe.",
        "supervised has no teacher: the same runs stand under each. Names with random, permuted or onehot are "
        "controls: embed-KD with the teacher's content taken out. –: not in this grid.",
    ]
    return "".join(made) + notes(told)


def explorer(results: Results) -> str:
    """Return every accuracy in one long table, at first limited to those that comparisons use."""
    columns = [
        *(Column(name, is_number=False) for name in ("Train type", "Teacher", "Dataset", "Student", "Recipe")),
        Column("Epoch", is_number=False),
        Column("Metric", is_number=False),
        Column("Shown as", is_number=False),
        Column("Test accuracy, %"),
    ]
    rows = []
    cells = accuracy_cells(results.cells)
    groups: dict[tuple, list] = {}
    for cell in cells:
        groups.setdefault((cell.dataset, cell.student, cell.teacher, cell.train_type, cell.recipe), []).append(cell)
    for (dataset, student, teacher, train_type, recipe), members in groups.items():
        selection = recipes.get(recipe).selection
        for kind in ("last", "selected" if selection == "validation" else "best-test"):
            for metric, name in METRICS.items():
                summary = results.summary(members, kind, metric)
                is_headline = kind == headline(selection) and metric == "top1"
                marked = Entry(spread(summary, scale=100), is_incomplete=results.incomplete(members)).marked
                texts = (train_type, teacher_title(teacher), dataset_title(dataset, results.config), student, recipe)
                row = [Field(text) for text in (*texts, KINDS[kind].partition(",")[0], name)]
                row += [Field("headline" if is_headline else "more")]
                row += [Field(marked, bar(summary.mean) if summary else "")]
                rows.append(row)
    return table(columns, rows, initial={"Shown as": "headline"})


def runs_table(results: Results) -> str:
    """Return every run of the grid: finished, failed or missing."""
    names = ("Train type", "Teacher", "Teacher source", "Dataset", "Student", "Recipe")
    columns = [Column(name, is_number=False) for name in names]
    columns += [Column(name) for name in ("Seed", "Epochs", "Top-1, last, %", "Top-1, headline, %", "s per epoch")]
    columns += [Column("State", is_number=False)]
    rows = []
    for cell in results.cells:
        source = "none" if cell.method.signal == "nothing" else cell.teacher_source
        texts = (cell.train_type, teacher_title(cell.teacher), source, dataset_title(cell.dataset, results.config))
        row = [Field(text) for text in (*texts, cell.student, cell.recipe, str(cell.seed), str(cell.epochs))]
        run = results.runs.get(cell)
        if run is None:
            failure = results.failed.get(cell)
            row += [Field(NOTHING)] * 3 + [Field(f"failed: {failure}" if failure else "missing", kind="worse")]
        else:
            chosen = run.chosen(headline(cell.recipe_spec.selection))
            row += [Field(f"{100 * score.test.top1:.2f}") for score in (run.last, chosen)]
            row += [Field(f"{run.cost.seconds_per_epoch:.3g}"), Field("finished")]
        rows.append(row)
    return table(columns, rows)
