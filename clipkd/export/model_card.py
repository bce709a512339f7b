"""The model card of an export: what the student is, how well it does, and its limits; every number from its run."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from clipkd.core.errors import DataError, InputError
from clipkd.core.progress import say
from clipkd.core.typed_json import read_model
from clipkd.data.preprocessing import Preprocessing
from clipkd.export.source import ExportSource
from clipkd.plugins import datasets, methods, teachers
from clipkd.runs.record import ENVIRONMENT, METRICS, CellNames, Metrics
from clipkd.runs.record import Environment as RunEnvironment
from clipkd.spec.cells import NO_TEACHER
from clipkd.spec.selection import LEAST_TO_CHOOSE
from clipkd.tables.formats import MARKDOWN
from clipkd.tables.results import teacher_title
from clipkd.tables.summary import FEW_SEEDS, summarise
from clipkd.tables.table import spread

MOST_CLASSES = 30
"""Class names in the card; config.json has them all."""
LIBRARIES = {"hf": "timm", "onnx": "onnx"}
"""Format -> the library that the hub shows for it."""


def escaped(value: Any) -> Markup:
    """Return a value as one line in which nothing acts as Markdown or HTML; Markup passes as it is."""
    return value if isinstance(value, Markup) else Markup(" ".join(str(value).split()).translate(MARKDOWN))


TEMPLATES = Environment(
    loader=PackageLoader(__name__.rpartition(".")[0]),
    autoescape=True,
    finalize=escaped,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)


def card(source: ExportSource, form: str, int8: dict[str, Any] | None = None) -> str:
    """Return the README.md of an export: metadata for the hub, then text for people.

    Args:
        source: the student and its run.
        form: the format, `hf` or `onnx`.
        int8: what the graph with 8-bit weights does (`clipkd.export.int8.write`); None: there is none.
    """
    metrics, cell, identity = source.metrics, source.metrics.cell, source.metrics.identity
    summaries, seeds = over_seeds(source.folder)
    return TEMPLATES.get_template("model_card.md").render(
        metadata=Markup(metadata(source, LIBRARIES[form]).to_yaml()),
        form=form,
        int8=int8,
        name=name_of(cell),
        dataset=title(cell.dataset),
        teacher=None if cell.teacher == NO_TEACHER else teacher_title(cell.teacher),
        hub_models=hub_models(identity["signal"]),
        method=method_of(cell.train_type),
        trained_here=trained_here(cell.teacher),
        classes=source.model.names,
        most_classes=MOST_CLASSES,
        parameters=source.model.parameters,
        metrics=metrics,
        cell=cell,
        identity=identity,
        training=identity["training"],
        selected=metrics.selected,
        epoch_note=epoch_note(metrics),
        over_seeds=summaries,
        seeds=seeds,
        few_seeds=FEW_SEEDS,
        environment=read_model(source.folder / ENVIRONMENT, RunEnvironment),
        preprocessing=source.model.preprocessing,
        steps=first_steps(source.model.preprocessing),
        license=source.license,
    )


def method_of(train_type: str) -> str:
    """Return a train type's name, and its title where that says more."""
    spec = methods.get(train_type)
    is_named = spec.title.lower() == spec.name.lower()
    return f"train type {spec.name}" + ("" if is_named else f", {spec.title}")


def first_steps(preprocessing: Preprocessing) -> list[str]:
    """Return what is done to an image before it is resized to the student's input, in order."""
    steps, side = [], preprocessing.dataset_size
    if preprocessing.pack_size:
        steps.append(f"reduces the short side of a larger image to {preprocessing.pack_size} pixels (bicubic)")
    if side and side != preprocessing.size:
        steps.append(
            f"resizes {'it' if steps else 'an image'} to {side} x {side} pixels, the size of the training images"
        )
    return steps


def epoch_note(metrics: Metrics) -> str:
    """Return what to say, with both accuracies, where tables compare another epoch than the exported one; else ""."""
    last, selected, images = metrics.last, metrics.selected, metrics.validation_images
    by_validation = selected.by == "validation"
    is_compared = by_validation and (images is None or images >= LEAST_TO_CHOOSE)
    if is_compared or last.epoch == selected.epoch or last.test is None or selected.test is None:
        return ""
    why = f"{images} validation images are too few to choose by" if by_validation else "the test split chose the other"
    return (
        f"The tables compare the last epoch, {last.epoch}, because {why}: top-1 {100 * last.test.top1:.2f} % there, "
        f"{100 * selected.test.top1:.2f} % in epoch {selected.epoch}, which is exported."
    )


def metadata(source: ExportSource, library: str) -> ModelCardData:
    """Return what the hub reads."""
    cell, score = source.metrics.cell, source.metrics.selected.test
    assert score is not None, "a student without classes is not exported"
    results = [
        EvalResult(
            task_type="image-classification",
            task_name="Image classification",
            dataset_type=cell.dataset,
            dataset_name=title(cell.dataset),
            dataset_split="test",
            metric_type="accuracy",
            metric_name=f"top-{k} accuracy",
            metric_value=round(value, 6),
        )
        for k, value in ((1, score.top1), (5, score.top5))
        if k == 1 or k < len(source.model.names)
    ]
    return ModelCardData(
        license=source.license,
        library_name=library,
        pipeline_tag="image-classification",
        tags=[library, "clipkd", "knowledge-distillation", cell.train_type],
        model_name=name_of(cell),
        eval_results=results,
    )


def name_of(cell: CellNames) -> str:
    return f"{cell.student}-{cell.dataset}-{cell.train_type}"


def title(dataset: str) -> str:
    """Return a dataset's title; its name where the user's own folder has no other."""
    try:
        return datasets.get(dataset).title
    except InputError:
        return dataset


def over_seeds(folder: Path) -> tuple[dict[str, str], list[int]]:
    """Return mean and deviation over the runs that differ from this one in the seed only, and their seeds."""
    own = read_model(folder / METRICS, Metrics)
    alike = {}
    for path in [folder / METRICS, *folder.parent.glob(f"seed*/{METRICS}")]:
        try:
            other = read_model(path, Metrics)
        except DataError as error:
            say(f"not among the seeds of the model card: {error}")
            continue
        if without_seed(other) == without_seed(own):
            alike[other.cell.seed] = other.selected.test
    summaries = {name: summarise(getattr(score, name) for score in alike.values()) for name in ("top1", "top5")}
    return {name: spread(*summary, scale=100) for name, summary in summaries.items()}, sorted(alike)


def without_seed(metrics: Metrics) -> str:
    """Return what made a run, as text to compare, without its seed and what that chose: labels, a `seed*` teacher."""
    seed, text = metrics.cell.seed, json.dumps(seedless(metrics.identity), sort_keys=True)
    for settings in re.findall(rf"/seed{seed}@([0-9a-f]{{16}})", metrics.cell.teacher):
        text = text.replace(f"/seed{seed}@{settings}", "/seed*").replace(settings, "of its seed")
    return text


def seedless(identity: Any) -> Any:
    """Return an identity in which neither the run nor the choice of few labels has a seed."""
    if not isinstance(identity, dict):
        return identity
    named = {name: seedless(value) for name, value in identity.items()}
    return named | {name: named[name] | {"seed": None} for name in ("cell", "few_labels") if name in named}


def trained_here(teacher: str) -> list[str]:
    """Return what the workflow itself trained, of a run's teacher or teachers; a config's key for it says nothing."""
    found = (name.partition("=")[2] or name for name in (() if teacher == NO_TEACHER else teachers.split(teacher)))
    return [re.sub("@[0-9a-f]{16}$", "", where) for where in found if where.startswith(("trained:", "run:"))]


def hub_models(signal: Any) -> list[str]:
    """Return the Hugging Face models, each with its commit, in what a run's teacher signal was made from."""
    if not isinstance(signal, dict):
        return []
    here = [f"{signal['hub']} at {signal['revision']}"] if "hub" in signal else []
    return list(dict.fromkeys(here + [model for child in signal.values() for model in hub_models(child)]))
