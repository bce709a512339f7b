"""`clipkd list`."""

from __future__ import annotations

import argparse
import shutil
import textwrap
from collections.abc import Callable
from pathlib import Path

from clipkd.core import registry
from clipkd.core.artifacts import MANIFEST, read_manifest
from clipkd.core.errors import DataError
from clipkd.plugins import (
    datasets,
    methods,
    prototype_forms,
    recipes,
    students,
    teachers,
)

TEXT = (
    "List what there is, with a line about each: datasets, teachers, students, ..., and the embeddings that are stored."
)
EXAMPLES = """\
example:
  clipkd list
"""

Lines = dict[str, str]
"""Name -> what it is."""
OWN: dict[str, Lines] = {
    "datasets": {
        "FOLDER": "Your own images, train/<class>/ and val/<class>/; under `sources`, or --dataset-source.",
        "hub:OWNER/NAME@COMMIT": "A dataset of the Hugging Face hub, in parquet files; given in the same places.",
        "torchvision:NAME": "A dataset of torchvision; given in the same places.",
    },
    "teachers": {
        "OWNER/MODEL@COMMIT": "A model of the Hugging Face hub: ViT, DINOv2, DINOv3, CLIP, SigLIP, ConvNeXt, ... "
        "(docs/teachers.md), or any of timm (timm/MODEL@COMMIT); or a folder with its files.",
        "timm:MODEL?pretrained=FILE": "Any timm model with its weights in a file; torchvision:MODEL likewise.",
        "trained:MODEL@PIXELS": "Any timm model, trained here on the images that the student learns.",
        "run:RECIPE/.../seedN": "A student of the grid, trained first; or a run folder, or an export of one.",
        "embeddings:FOLDER-or-FILE": "Vectors that somebody else computed: .npy, .safetensors, .parquet (docs/own.md).",
        "WHERE:OUTPUT": "Which output is used: cls, mean, pooler, pooled (what its classifier sees), logits; text: the "
        "text tower of a CLIP or SigLIP.",
        "A+B": "Several teachers at once for one student; with ?weights=2,1 or ?standardise=true behind them.",
    },
    "recipes": {
        "RECIPE?SWITCH=VALUE": "Any recipe with other values, and its own learning_rate, weight_decay, batch_size or "
        "epochs; a config names them, and sweeps, under `recipes` (docs/sweeps.md)."
    },
    "students": {
        "timm:MODEL@PIXELS": "Any model of timm, for images of that side (32 where none is given); "
        "?pretrained=FILE.safetensors or OWNER/MODEL@COMMIT behind it: not with fresh weights."
    },
}
"""What can be named without a file of its own."""


def add_options(child: argparse.ArgumentParser) -> None:
    child.add_argument("kind", nargs="?", choices=list(KINDS), help="one kind only")
    child.add_argument("--data", type=Path, default=Path("data"), help="folder of datasets, teachers and embeddings")


def described(package: str) -> Lines:
    """Return the first line about each thing of a package: of the file that it is."""
    lines = {name: registry.line(package, name) for name in registry.specs(package)}
    origins = {name: registry.origin(package, name) for name in lines}
    return {name: f"{line} (of {origins[name]})" if origins[name] else line for name, line in lines.items()}


def listed_datasets(data: Path) -> Lines:
    """Return the datasets, and of those that are packed below data/datasets what they hold."""
    lines = described(datasets.__name__)
    for path in sorted((data / "datasets").glob(f"[!.]*/{MANIFEST}")):
        name = path.parent.name
        try:
            facts = read_manifest(path.parent)["facts"]
            found = f"{len(facts['classes'])} classes, {facts['train']:,} training and {facts['test']:,} test images"
            note = f"packed: {found}"
        except DataError as error:
            note = f"DAMAGED: {error}"
        lines[name] = f"{lines[name]} ({note})" if name in lines else f"Your own, {note}"
    return lines


def listed_teachers(data: Path) -> Lines:
    """Return the teachers; those that can't be used yet say why."""
    lines = described(teachers.__name__)
    reasons = {name: teachers.get(name).available for name in lines}
    return {name: f"{line} ({reasons[name]})" if reasons[name] else line for name, line in lines.items()}


def listed_train_types(data: Path) -> Lines:
    lines = described(methods.__name__)
    specs = {name: methods.get(name) for name in methods.names()}
    return {name: lines.get(name) or f"Control of {spec.control_of}: {spec.title}." for name, spec in specs.items()}


def listed_forms(data: Path) -> Lines:
    lines = described(prototype_forms.__name__)
    return dict(zip(prototype_forms.names(), lines.values(), strict=True))


def listed_embeddings(data: Path) -> Lines:
    """Return what is stored below data/embeddings, by folder."""
    lines = {}
    for path in sorted((data / "embeddings").glob(f"*/*/[!.]*/{MANIFEST}")):
        folder = path.parent
        try:
            lines["/".join(folder.parts[-3:])] = stored(folder)
        except DataError as error:
            lines["/".join(folder.parts[-3:])] = f"DAMAGED: {error}"
    return lines


def stored(folder: Path) -> str:
    """Return what one folder of data/embeddings holds."""
    manifest = read_manifest(folder)
    facts, size = manifest["facts"], sum(entry["bytes"] for entry in manifest["files"].values())
    megabytes = f"{size / 1e6:.2f} MB"
    if manifest["kind"] == "prototypes":
        return f"prototypes of {facts['classes']} classes, form {manifest['identity']['form']}, {megabytes}"
    if manifest["kind"] == "head":
        reached = facts["accuracy"].get("test")
        shown = "no test images" if reached is None else f"test top-1 {reached:.1%}"
        return f"class scores by {facts['head']}, {shown}, {megabytes}"
    views = manifest["identity"]["views"]
    if "imported" in facts:
        return f"imported vectors, {facts['hidden_size']} dimensions, {megabytes}"
    shown = "prompts" if "templates" in views else "views of images for prototypes" if views["sample"] else "views"
    return f"{facts['forward_passes']:,} {shown}, {facts['hidden_size']} dimensions, {views['pooling']}, {megabytes}"


KINDS: dict[str, Callable[[Path], Lines]] = {
    "datasets": listed_datasets,
    "teachers": listed_teachers,
    "students": lambda data: described(students.__name__),
    "train-types": listed_train_types,
    "recipes": lambda data: described(recipes.__name__),
    "prototype-forms": listed_forms,
    "embeddings": listed_embeddings,
}


def run(options: argparse.Namespace) -> None:
    for kind in [options.kind] if options.kind else KINDS:
        lines = KINDS[kind](options.data) | OWN.get(kind, {})
        print(f"{kind}:" if lines else f"{kind}: none below {options.data}")
        width = min(36, max(map(len, lines), default=0)) + 4
        for name, line in lines.items():
            print(entry(name, line, width))


def entry(name: str, line: str, width: int) -> str:
    """Return a name and its line, wrapped to the terminal beside it."""
    first = f"  {name}".ljust(width)
    columns = max(60, min(120, shutil.get_terminal_size((120, 24)).columns))
    text = textwrap.fill(line, columns, initial_indent=" " * width, subsequent_indent=" " * width)
    return first + text[width:] if len(first) <= width else f"{first}\n{text}"
