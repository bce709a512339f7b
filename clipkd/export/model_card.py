"""The model card: what a student is, how well it does and what it is no good for; every number from its run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from clipkd.core.errors import InputError
from clipkd.core.typed_json import read_model
from clipkd.plugins import datasets, methods
from clipkd.runs.record import ENVIRONMENT, METRICS, CellNames, Environment, Metrics
from clipkd.spec.cells import NO_TEACHER
from clipkd.tables.formats import MARKDOWN
from clipkd.tables.results import teacher_title
from clipkd.tables.summary import Summary, summarise
from clipkd.tables.table import spread

if TYPE_CHECKING:
    from clipkd.export.write import Source

PAPER = "[arXiv 2404.06170](https://arxiv.org/abs/2404.06170)"
MOST_CLASSES = 30
"""Class names that stand in the card; config.json has them all."""


def card(source: Source, described: dict[str, Any]) -> str:
    """Return the README.md of an export: YAML for the hub, then text for people; `described`: as in config.json."""
    return f"---\n{yaml.safe_dump(front(source), sort_keys=False, allow_unicode=True)}---\n\n{body(source, described)}"


def plain(text: Any) -> str:
    """Return text with everything that Markdown or HTML would act on escaped."""
    return " ".join(str(text).split()).translate(MARKDOWN)


def front(source: Source) -> dict[str, Any]:
    """Return the metadata that the hub reads."""
    cell, score = source.metrics.cell, source.metrics.selected.test
    numbers = {"top-1": score.top1, "top-5": score.top5}
    metrics = [{"type": "accuracy", "name": f"{k} accuracy", "value": round(v, 6)} for k, v in numbers.items()]
    dataset = {"type": cell.dataset, "name": title(cell.dataset), "split": "test"}
    task = {"type": "image-classification", "name": "Image classification"}
    results = [{"task": task, "dataset": dataset, "metrics": metrics}]
    return {
        "license": source.license,
        "library_name": "clipkd",
        "pipeline_tag": "image-classification",
        "tags": ["knowledge-distillation", "vision", cell.train_type],
        "model-index": [{"name": name_of(cell), "results": results}],
    }


def name_of(cell: CellNames) -> str:
    return f"{cell.student}-{cell.dataset}-{cell.train_type}"


def title(dataset: str) -> str:
    """Return a dataset's title; its name where the user's own folder has no other."""
    try:
        return datasets.get(dataset).title
    except InputError:
        return dataset


def body(source: Source, described: dict[str, Any]) -> str:
    """Return the text."""
    cell = source.metrics.cell
    teacher = cell.teacher
    by = "without a teacher" if teacher == NO_TEACHER else f"with the teacher {plain(teacher_title(teacher))}"
    method = methods.get(cell.train_type).title
    classes = [plain(name) for name in source.model.names[:MOST_CLASSES]]
    more = len(described["classes"]) - len(classes)
    listed = ", ".join(classes) + (f", and {more} more (config.json)" if more else "")
    parts = [
        f"# {plain(name_of(cell))}",
        f"An image classifier of {source.metrics.student_parameters:,} parameters, trained on "
        f"{plain(title(cell.dataset))} {by} ({plain(method)}) by clipkd, an implementation of CLIP-Embed-KD "
        f"({PAPER}).\n\nClasses ({len(described['classes'])}): {listed}.",
        "## Accuracy\n\n" + accuracy(source),
        "## Use\n\n" + use(described),
        "## How it was made\n\n" + made(source),
        "## Limits\n\n" + "\n".join(f"- {line}" for line in limits(source)),
        "## Licence\n\n" + licence(source),
    ]
    return "\n\n".join(parts) + "\n"


def accuracy(source: Source) -> str:
    """Return the table of test accuracies: this run's, and over the seeds that lie beside it."""
    metrics, cell = source.metrics, source.metrics.cell
    over, found = seeds(source.folder)
    score = metrics.selected.test
    split = f"test split of {plain(title(cell.dataset))}"
    lines = [
        f"| {split} | this model (seed {cell.seed}) | mean ± SD over seeds (n) |",
        "|---|---:|---:|",
    ]
    for metric, name in (("top1", "top-1, %"), ("top5", "top-5, %")):
        lines.append(f"| {name} | {100 * getattr(score, metric):.2f} | {spread(over[metric], scale=100)} |")
    chosen = metrics.selected
    how = "the test split itself, so the numbers are optimistic" if chosen.by == "test" else "a held-out split"
    return "\n".join(
        [
            *lines,
            "",
            f"Epoch {chosen.epoch} of {metrics.epochs}, chosen by {how}. Seeds: {', '.join(map(str, found))}.",
        ]
    )


def seeds(folder: Path) -> tuple[dict[str, Summary | None], list[int]]:
    """Return mean and deviation over the runs that differ from this one in the seed only, and their seeds."""
    own = read_model(folder / METRICS, Metrics)
    alike = {}
    for path in [folder / METRICS, *folder.parent.glob(f"seed*/{METRICS}")]:
        other = read_model(path, Metrics)
        if without_seed(other) == without_seed(own):
            alike[other.cell.seed] = other.selected.test
    summaries = {m: summarise(getattr(score, m) for score in alike.values()) for m in ("top1", "top5")}
    return summaries, sorted(alike)


def without_seed(metrics: Metrics) -> str:
    """Return what made a run, its seed left out, as text to compare."""
    identity = metrics.identity
    return json.dumps(identity | {"cell": identity["cell"] | {"seed": None}}, sort_keys=True)


def use(described: dict[str, Any]) -> str:
    """Return how to use it, as code that runs."""
    text = (
        "```python\nimport clipkd\n\n"
        'student = clipkd.load("FOLDER")  # this folder, downloaded\n'
        'student.predict(["image.png"])  # the likeliest classes; student.embed gives embeddings\n```'
    )
    if described.get("names") != "transformers":
        return text
    return text + (
        "\n\nWith transformers alone, the tower is a CLIPVisionModel, and the classifier one matrix beside it:\n\n"
        "```python\nfrom PIL import Image\nfrom safetensors.torch import load_file\n"
        "from transformers import AutoImageProcessor, CLIPVisionModel\n\n"
        'tower, weights = CLIPVisionModel.from_pretrained("FOLDER").eval(), load_file("FOLDER/model.safetensors")\n'
        'inputs = AutoImageProcessor.from_pretrained("FOLDER")(Image.open("image.png"), return_tensors="pt")\n'
        "embedding = tower(**inputs).pooler_output\n"
        'scores = embedding @ weights["classifier.weight"].T + weights["classifier.bias"]\n```'
    )


def made(source: Source) -> str:
    """Return the settings and versions."""
    identity, cell = source.metrics.identity, source.metrics.cell
    training, found = identity["training"], read_model(source.folder / ENVIRONMENT, Environment)
    teacher = (
        "none"
        if cell.teacher == NO_TEACHER
        else ", ".join([plain(teacher_title(cell.teacher)), *map(plain, hub_models(identity["signal"]))])
    )
    rows = {
        "Dataset": f"{plain(title(cell.dataset))}, {source.metrics.train_images:,} training images "
        f"(content {source.metrics.dataset_content[:16]})",
        "Teacher": teacher,
        "Train type, recipe": f"{plain(cell.train_type)}, {plain(cell.recipe)}",
        "Student": plain(", ".join(f"{key} {value}" for key, value in identity["student"].items())),
        "Training": f"{training['epochs']} epochs, batch {training['batch_size']}, learning rate "
        f"{training['learning_rate']:g}, weight decay {training['weight_decay']:g}, seed {cell.seed}",
        "Software": f"clipkd {found.clipkd} ({(found.commit or 'no commit')[:12]}), torch "
        f"{found.packages.torch}, {plain(found.device.name)}",
        "Fingerprint of the run": source.metrics.fingerprint,
    }
    return "\n".join(["| | |", "|---|---|", *(f"| {key} | {value} |" for key, value in rows.items())])


def hub_models(signal: Any) -> list[str]:
    """Return the Hugging Face models, each with its commit, in what a run's teacher signal was made from."""
    if not isinstance(signal, dict):
        return []
    here = [f"{signal['hub']} at {signal['revision']}"] if "hub" in signal else []
    return list(dict.fromkeys(here + [model for child in signal.values() for model in hub_models(child)]))


def limits(source: Source) -> list[str]:
    """Return what the numbers do not say."""
    metrics, steps = source.metrics, source.model.preprocessing
    count = len(seeds(source.folder)[1])
    lines = [
        f"It knows these {metrics.classes} classes only: an image of anything else gets one of them too, and its "
        "probabilities were not calibrated.",
        f"An image is resized to {steps.size} x {steps.size} pixels, not cropped; fine detail is lost.",
        f"Accuracy was measured on one test split; it says nothing of other cameras, places or times. "
        f"{'One seed gives no idea of the spread.' if count == 1 else f'{count} seeds are few.' if count < 5 else ''}",
    ]
    if metrics.selected.by == "test":
        lines.append(
            "The epoch was chosen on the test split, as the paper's released code does: expect less elsewhere."
        )
    if steps.pack_size:
        lines.append(
            f"Training images had their short side brought down to {steps.pack_size} pixels (bicubic) first; clipkd "
            "does so, preprocessor_config.json can't say it."
        )
    if steps.dataset_size:
        lines.append(
            f"Training images had {steps.dataset_size} x {steps.dataset_size} pixels: clipkd brings others to that "
            "size first, preprocessor_config.json can't say it."
        )
    return [line.strip() for line in lines]


def licence(source: Source) -> str:
    """Return what may be done with it, as far as it is known."""
    if source.license != "other":
        return f"{plain(source.license)}, as given by whoever exported it. The dataset and the teacher have their own."
    return (
        "None was given at export (`--license`). The code of clipkd is under the MIT licence; that says nothing about "
        "these weights: whoever publishes them has to look at the licences of the dataset and of the teacher."
    )
