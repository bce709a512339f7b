"""Evaluation table: what `evaluation` in the config asks to measure of each student, over seeds."""

from __future__ import annotations

from typing import Any

from clipkd.core.words import counted
from clipkd.runs.record import Device
from clipkd.spec.cells import NO_TEACHER
from clipkd.tables.accuracy import SHARE
from clipkd.tables.fields import place_fields
from clipkd.tables.grouping import AXES, nested_order, over_seeds, rows_of, summary_of
from clipkd.tables.results import Results, teacher_titles
from clipkd.tables.settings import chosen_notes
from clipkd.tables.table import Column, Entry, Field, Table, filled, significant, spread, words

COLUMNS: dict[str, tuple[str, str, float]] = {
    "calibration_ece": ("ECE, %", "Calibration", SHARE),
    "classes_mean_class_accuracy": ("mean, %", "Accuracy of classes", SHARE),
    "classes_worst_class_accuracy": ("worst, %", "Accuracy of classes", SHARE),
    "knn_top1": ("k-NN, %", "Embeddings", SHARE),
    "probe_top1": ("linear probe, %", "Embeddings", SHARE),
    "agreement_top1_agreement": ("top-1, %", "Agreement with the teacher", SHARE),
    "agreement_kl": ("KL, nats", "Agreement with the teacher", 1),
    "agreement_cosine": ("cosine", "Agreement with the teacher", 1),
    "corruptions_accuracy": ("accuracy, %", "14 corruptions", SHARE),
    "speed_parameters": ("parameters, millions", "Size and speed", 1e-6),
    "speed_macs": ("MACs, millions", "Size and speed", 1e-6),
    "speed_torch_ms_1": ("ms, torch", "Size and speed", 1),
    "speed_onnx_ms_1": ("ms, ONNX", "Size and speed", 1),
    "speed_torch_images_per_second_64": ("images/s, torch", "Size and speed", 1),
    "speed_onnx_images_per_second_64": ("images/s, ONNX", "Size and speed", 1),
}
"""Column of runs.csv -> title, group, and factor in the table; what is measured beside these is in runs.csv only."""

SPEED = "speed"
"""The measure that depends on the machine: on its CPU, whatever computed the others."""


def table(results: Results) -> Table:
    """Return the table: a row per kind of student."""
    runs = results.comparable
    runs = runs[runs.epoch != "last"]  # the student that is saved is that of the selected epoch
    shown = [name for name in COLUMNS if name in runs and runs[name].notna().any()]
    rows = nested_order(over_seeds(runs, AXES, *shown), "dataset", "student", "recipe", "labels")
    titles = teacher_titles(name for name in runs.teacher.unique() if name != NO_TEACHER)
    made = filled(
        [
            words("recipe", "Recipe"),
            *place_fields(results, titles),
            words("train_type", "Train type"),
            *map(Field, ("n", "n_asked")),
            *(field for name in shown for field in fields_of(name)),
        ],
        rows_of(rows),
    )
    made.notes = [
        *chosen_notes(runs),
        "Mean ± sample standard deviation over seeds (n), on the test split, of the student that is saved: at the "
        "epoch that validation chose, or at the last one if its images are too few. Recipes that select on the test "
        "split, as reference, are optimistic. What each measure is: docs/evaluation.md.",
        *not_measured(results),
        *measured_differently(results),
    ]
    return made


def fields_of(name: str) -> list[Field]:
    """Return the fields of a number over seeds."""
    title, group, scale = COLUMNS[name]

    def entry(row: Any) -> Entry:
        found = summary_of(row, name)
        digits = 2 if scale == SHARE or not found.n else len(significant(found.mean * scale).partition(".")[2])
        return Entry(spread(*found, digits=digits, scale=scale), is_incomplete=0 < found.n < row.n_asked)

    return [Field(f"{name}_mean", Column(title, group), entry), Field(f"{name}_deviation"), Field(f"{name}_n")]


def measured_differently(results: Results) -> list[str]:
    """Return, of each measure, where students were measured by several protocols; of speed, on which machines."""
    protocols: dict[str, set[int]] = {}
    machines: dict[str, None] = {}
    for found in results.evaluations.values():
        asked = {name: one for name, one in found.measures.items() if name in results.config.evaluation}
        for name, one in asked.items():
            protocols.setdefault(name, set()).add(one.protocol)
        if SPEED in asked:
            machines[Device(**asked[SPEED].details["processor"]).detail] = None
    lines = [
        f"MIXED: {name} was measured by the protocols {' and '.join(map(str, sorted(found)))}, which give other "
        f"numbers: `clipkd evaluate RUN --measures {name}` measures a student anew."
        for name, found in protocols.items()
        if len(found) > 1
    ]
    if len(machines) > 1:
        lines.append(f"MIXED: speed was measured on several machines: {'; '.join(machines)}.")
    return lines


def not_measured(results: Results) -> list[str]:
    """Return, of each measure of the config that some students have nothing for, how many and why."""
    reasons: dict[str, list[str]] = {}
    for cell, found in results.evaluations.items():
        for measure, why in found.not_measured.items():
            if measure in results.config.evaluation:
                reasons.setdefault(f"{measure} of {cell.train_type}: {why}", []).append(cell.folder)
    return [f"Not measured: {why} ({counted(len(runs), 'run')})." for why, runs in sorted(reasons.items())]
