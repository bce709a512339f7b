"""The report's overview: what was run, and whether the teacher matters, in a few words."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from clipkd.core.words import counted
from clipkd.tables.comparisons import UNLIKE, Comparison, beside, untested
from clipkd.tables.results import Results, dataset_title, teacher_names, teacher_titles, values
from clipkd.tables.summary import FEW_SEEDS
from clipkd.tables.table import NOTHING

VERDICTS = ("better", "worse", "no difference shown", "nothing can be concluded", "not compared")


@dataclass(frozen=True)
class Answer:
    """An answer in a few words, and what it rests on."""

    question: str
    verdict: str
    evidence: str


@dataclass(frozen=True)
class Words:
    """A question about a list of comparisons, and its answers beside yes, in part, and not shown."""

    question: str
    evidence: str
    worse: str = "It harms in some comparisons."
    both: str = "In some comparisons it helps, in others it harms."


WORDS = {
    "content": Words(
        "Does the teacher's content matter?",
        "{methods}, against training without a teacher and the control that lacks that content, both at once",
    ),
    "help": Words(
        "Does training with a teacher help at all?",
        "Every train type except controls, against training without a teacher",
    ),
    "methods": Words(
        "Is {methods} better than {others}?",
        "Both with the same teacher",
        "It is worse in some comparisons.",
        "In some comparisons it is better, in others worse.",
    ),
}
"""List of comparisons -> its words."""


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
        "Recipes": ", ".join(dict.fromkeys(results.labels[cell.recipe] for cell in cells)),
        "Seeds": str(len(values([cell for cell in cells if not cell.is_cost_run], "seed"))),
        "Epochs": " to ".join(map(str, dict.fromkeys((epochs[0], epochs[-1])))),
        "Computed on": "; ".join(devices) or NOTHING,
    }
    return known | ({"Software": "; ".join(software)} if software else {})


def answers(found: list[Comparison]) -> list[Answer]:
    """Return whether the teacher's content matters, whether a teacher helps, and what is better than other methods."""
    made = []
    for name, words in WORDS.items():
        group = [one for one in found if one.question == name]
        methods, others = named(group)
        evidence = (
            [f"{words.evidence.format(methods=methods)}: {verdicts(group)}.{caution(group)}{mixed(group)}"]
            if group
            else []
        )
        if name == "content":
            evidence += [*information(found), *untested(found)]
        if evidence:
            question = words.question.format(methods=methods, others=others.replace(", ", " or "))
            made.append(Answer(question, verdict(group, words) if group else "Not tested here.", " ".join(evidence)))
    return made


def named(found: list[Comparison]) -> tuple[str, str]:
    """Return the methods of comparisons, and what they are compared with."""
    methods, others = (dict.fromkeys(getattr(one, side) for one in found) for side in ("method", "against"))
    return ", ".join(methods), ", ".join(others)


def information(found: list[Comparison]) -> list[str]:
    """Return a line about the controls that do not decide; none where the grid has no such controls."""
    group = beside(found)
    if not group:
        return []
    methods, others = named(group)
    return [f"For information, {methods} against {others}: {verdicts(group)}."]


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


def mixed(found: list[Comparison]) -> str:
    """Return how many comparisons are of runs that differ in more than the train type, "" where there are none."""
    count = sum(bool(one.unlike) for one in found)
    return f" In {count} of them the two sides differ in more than the train type ({UNLIKE})." if count else ""


def verdict(found: list[Comparison], words: Words = WORDS["help"]) -> str:
    """Return what comparisons say together."""
    counts = Counter(comparison.verdict for comparison in found)
    if counts["better"] and counts["worse"]:
        return words.both
    if counts["better"]:
        return "Yes." if counts["better"] == len(found) else "In some comparisons."
    return words.worse if counts["worse"] else "Not shown here."


def verdicts(found: list[Comparison]) -> str:
    """Return how many comparisons came to which verdict."""
    counts = Counter(comparison.verdict for comparison in found)
    parts = [f"{verdict} in {counts[verdict]}" for verdict in VERDICTS if counts[verdict]]
    return f"{', '.join(parts)} of {counted(len(found), 'comparison')}"
