"""The report's overview: what was run, and whether the teacher matters, in a few words."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from clipkd.tables.comparisons import Comparison
from clipkd.tables.results import Results, accuracy_cells, dataset_title, teacher_names, teacher_titles, values
from clipkd.tables.table import NOTHING
from clipkd.tables.terms import BASELINE

FEW_SEEDS = 5
VERDICTS = ("better", "worse", "no difference shown", "nothing can be concluded", "not compared")


@dataclass(frozen=True)
class Answer:
    """An answer in a few words, and what it rests on."""

    question: str
    verdict: str
    evidence: str


def facts(results: Results) -> dict[str, str]:
    """Return what was run, by name."""
    cells = results.cells
    epochs = sorted(set(values(cells, "epochs")))
    devices = sorted({run.cost.device.title for run in results.runs.values()})
    environments = [run.environment for run in results.runs.values() if run.environment]
    software = dict.fromkeys(f"clipkd {one.clipkd}, torch {one.packages.torch}" for one in environments)
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
    return known | ({"Software": "; ".join(software)} if software else {})


def answers(found: list[Comparison]) -> list[Answer]:
    """Return whether it is the teacher's content that helps, and whether a teacher helps at all."""
    controls = [comparison for comparison in found if comparison.against != BASELINE]
    baseline = [comparison for comparison in found if comparison.against == BASELINE]
    methods = ", ".join(dict.fromkeys(comparison.method for comparison in controls))
    questions = [
        ("Does the teacher's content matter?", f"{methods} against its controls, which lack that content", controls),
        ("Does training with a teacher help at all?", "Every train type against training without a teacher", baseline),
    ]
    return [
        Answer(question, verdict(group), f"{what}: {counted(group)}.{caution(group)}")
        for question, what, group in questions
        if group
    ]


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
    parts = [f"{verdict} in {counts[verdict]}" for verdict in VERDICTS if counts[verdict]]
    return f"{', '.join(parts)} of {len(found)} comparisons"
