"""Groups of options that several verbs share, and what they are parsed to."""

from __future__ import annotations

import argparse
import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

from pydantic import TypeAdapter, ValidationError

from clipkd.core.artifacts import MANIFEST, read_manifest
from clipkd.core.errors import InputError
from clipkd.core.fingerprint import differences
from clipkd.data.currency import is_current
from clipkd.plugins import (
    datasets,
    methods,
    prototype_forms,
    recipes,
    students,
    teachers,
)
from clipkd.plugins.datasets import DatasetSpec
from clipkd.spec import class_names
from clipkd.spec.cells import NO_TEACHER, Cell
from clipkd.spec.class_names import ClassNames
from clipkd.spec.config import explain
from clipkd.spec.grid import trained_on
from clipkd.spec.layout import Embeddings, Layout
from clipkd.spec.prompts import TEMPLATES, checked_template
from clipkd.spec.refusals import checked
from clipkd.spec.settings import Block, EmbeddingSettings, Labels, PrototypeSettings, Seed, Settings, Training
from clipkd.spec.views import Sample
from clipkd.spec.yaml_source import meant

STRICT = Settings.model_config
Parsed = TypeVar("Parsed")
SEED: TypeAdapter[int] = TypeAdapter(Seed, config=STRICT)


def positive(text: str) -> int:
    """Parse a whole number of at least 1."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 1")
    return number


def seed(text: str) -> int:
    """Parse a seed: what both torch and numpy take."""
    return int(parsed(text, SEED))


def parsed(text: str, kind: TypeAdapter[Any]) -> Any:
    """Parse a value as a config would hold it.

    Raises:
        argparse.ArgumentTypeError: it is of another type, or out of range.
    """
    try:
        return kind.validate_python(meant(text))
    except ValidationError as error:
        raise argparse.ArgumentTypeError(explain(error.errors(include_url=False)[0])) from None
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def setting_option(child: argparse.ArgumentParser, settings: type[Settings], name: str, **changes: Any) -> None:
    """Add the option of a config's field: its flag, default, range and help text are the field's."""
    field = settings.model_fields[name]
    choices = get_args(field.annotation) if get_origin(field.annotation) is Literal else None

    def parse(text: str) -> Any:
        kind: Any = Annotated[field.annotation, field]
        return parsed(text, TypeAdapter(kind, config=STRICT))

    option = {
        "default": field.get_default(call_default_factory=True),
        "help": str(field.description).replace("`", ""),
        **({"choices": choices} if choices else {"type": parse}),
    }
    child.add_argument(settings.flag(name), **option | changes)


def data_options(child: argparse.ArgumentParser) -> None:
    """Add where data lie, and where the dataset comes from."""
    folder_options(child)
    child.add_argument("--dataset-source", help="where the dataset's data are: base URL, archive or folder")


def folder_options(child: argparse.ArgumentParser) -> None:
    """Add where data lie."""
    child.add_argument("--data", type=Path, default=Path("data"), help="folder of datasets, teachers and embeddings")
    child.add_argument(
        "--verify", action="store_true", help="hash every byte that is read, also what this machine has verified before"
    )


def device_options(child: argparse.ArgumentParser) -> None:
    """Add what computes."""
    setting_option(child, Training, "device")
    child.add_argument("--threads", type=positive, help="CPU threads (default: torch's own choice)")


def store_options(child: argparse.ArgumentParser, several: bool = False) -> None:
    """Add what tells one embeddings artefact from another; where `several`, teacher and recipe are lists."""

    def usual(name: str) -> dict[str, Any]:
        return {"nargs": "+", "default": [name]} if several else {"default": name}

    child.add_argument(
        "--dataset-name", "--dataset", required=True, help="CIFAR10, CIFAR100, ImageNet, ...; case is ignored"
    )
    child.add_argument(
        "--teacher-model",
        **usual(NO_TEACHER),
        help="name, Hugging Face id, OWNER/MODEL@COMMIT or folder; :cls, :mean, :pooler or :text after it chooses the "
        "output that is used; NAME= before it names it; A+B are several teachers",
    )
    child.add_argument(
        "--recipe",
        **usual("corrected"),
        help="reference (the released code's mathematics), corrected, modern, ...; "
        "RECIPE?SWITCH=VALUE&SWITCH=VALUE sets other values, NAME= before it names it (docs/sweeps.md)",
    )
    child.add_argument("--student", default="base-32", help="the student network: a name, or timm:MODEL@PIXELS")
    setting_option(child, EmbeddingSettings, "dtype")
    setting_option(child, EmbeddingSettings, "precision")
    setting_option(child, EmbeddingSettings, "views")
    setting_option(child, PrototypeSettings, "per_class")
    setting_option(child, PrototypeSettings, "seed")
    repeated = f"{PrototypeSettings.model_fields['templates'].description} May be repeated."
    setting_option(
        child,
        PrototypeSettings,
        "templates",
        action="append",
        type=refusing(checked_template),
        dest="templates",
        default=None,
        help=repeated,
    )
    names_option(child)


def names_option(child: argparse.ArgumentParser) -> None:
    """Add what classes are called."""
    child.add_argument(
        "--class-names",
        type=refusing(class_names.from_option),
        metavar="FILE",
        help="what the classes are called where the dataset has ids or numbers: a YAML or JSON file with a map from "
        "each class to its name, or a list in the order of the classes (or that map or list itself, as JSON)",
    )


def labels_option(child: argparse.ArgumentParser) -> None:
    """Add how many labels are seen."""
    labels: TypeAdapter[Any] = TypeAdapter(Labels)
    described = str(Block.model_fields["labels"].description).replace("`", "")
    child.add_argument(
        Block.flag("labels"), default="all", metavar="N", type=lambda text: parsed(text, labels), help=described
    )


def labels_options(child: argparse.ArgumentParser) -> None:
    """Add how many labels are seen, and the seed that chooses them."""
    labels_option(child)
    child.add_argument("--seed", type=seed, default=0, help="seed of the run whose labelled images are taken")


def form_options(child: argparse.ArgumentParser) -> None:
    """Add what a class prototype is."""
    setting_option(child, PrototypeSettings, "form", type=refusing(form), metavar="FORM")


def refusing(parse: Callable[[str], Parsed]) -> Callable[[str], Parsed]:
    """Return a parser of an option's value whose InputError argparse shows as a refusal of that option."""

    def parsed_or_refused(text: str) -> Parsed:
        try:
            return parse(text)
        except InputError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return parsed_or_refused


def form(text: str) -> str:
    """Return the name of a prototype form."""
    return str(prototype_forms.get(text).name)


def layout_of(options: argparse.Namespace) -> Layout:
    """Return the layout that the options name."""
    if not hasattr(options, "embed_dtype"):
        return Layout(options.data)
    sample = Sample(options.per_class, options.prototype_seed)
    form = getattr(options, "prototype_form", None)
    templates = tuple(options.templates or TEMPLATES)
    named = {datasets.get(options.dataset_name, source_of(options, options.dataset_name)).name: options.class_names}
    rest: dict[str, Any] = {"precision": options.embed_precision, "templates": templates}
    rest["class_names"] = tuple((dataset, given) for dataset, given in named.items() if given)
    return Layout(options.data, options.embed_dtype, sample, form, options.views_per_image, **rest)


def source_of(options: argparse.Namespace, name: str) -> str | None:
    """Return where a dataset is: as the options say; else, where the user's own lies packed.

    Raises:
        InputError: it was packed with settings that only `--dataset-source` can tell.
    """
    if options.dataset_source is not None or name.lower() in map(str.lower, datasets.names()):
        return options.dataset_source
    packed = options.data / "datasets" / name
    if not (packed / MANIFEST).is_file():
        return None
    wanted = datasets.get(name, str(packed)).identity()
    if lines := list(differences(read_manifest(packed)["identity"], wanted)):
        told = "\n  ".join(lines)
        raise InputError(
            f"give --dataset-source as when {packed} was packed, for its settings are not the usual ones:\n  {told}"
        )
    return str(packed)


def dataset_of(options: argparse.Namespace, name: str) -> DatasetSpec:
    """Return a dataset from where the options say it is.

    Raises:
        InputError: there is no such dataset, or it was packed from another folder.
    """
    spec = datasets.get(name, source_of(options, name))
    datasets.refuse_other_source(spec, Layout(options.data).dataset(spec), options.dataset_source)
    return spec


def cell_of(options: argparse.Namespace, train_type: str) -> Cell:
    """Return the cell that the options name, every name checked."""
    method = methods.get(train_type)
    if method.signal != "nothing" and options.teacher_model == NO_TEACHER:
        # Only `train` has the option --train-type.
        who = f"train type '{method.name}'" if hasattr(options, "train_type") else f"clipkd {options.verb}"
        raise InputError(f"{who} needs --teacher-model (known: {', '.join(teachers.names())})")
    spec = None if method.signal == "nothing" else teachers.get(options.teacher_model)
    if spec is not None and spec.available:
        raise InputError(spec.available)
    form = getattr(options, "prototype_form", None)
    if (
        form
        and spec is not None
        and method.signal == "prototypes"
        and not all(one.is_per_class for one in spec.members)
    ):
        prototype_forms.refuse_too_few(form, options.per_class)
    dataset = dataset_of(options, options.dataset_name).name
    cell = Cell(
        recipe=recipes.spelled(options.recipe),
        dataset=dataset,
        student=students.spelled(options.student),
        teacher=NO_TEACHER if spec is None else teachers.spelled(teacher_of(options, options.teacher_model, dataset)),
        train_type=method.name,
        seed=getattr(options, "seed", 0),
        teacher_source=getattr(options, "teacher_source", "cached"),
        epochs=getattr(options, "epochs", 1),
        source=source_of(options, options.dataset_name),
        labels=getattr(options, "labels", "all"),
    )
    return checked(cell, options.data)


def teacher_of(options: argparse.Namespace, name: str, dataset: str) -> str:
    """Return a teacher's name with the dataset that the workflow trains it on, whose place the options name."""
    return trained_on(name, dataset, lambda on: source_of(options, on) if on == dataset else None)


def expect_embeddings(store: Embeddings, options: argparse.Namespace, views: Literal["full", "sample"]) -> None:
    """Raise InputError where embeddings have yet to be made; gives the command that makes them."""
    if not is_current(store.folder, store.dataset, layout_of(options).dataset(store.dataset)):
        others = (store.folder / MANIFEST).exists()
        what = (
            f"{store.folder} is of another content of {store.dataset.title}"
            if others
            else f"no embeddings at {store.folder}"
        )
        raise InputError(f"{what}; extract them first: {extraction(options, views)}")


def extraction(options: argparse.Namespace, views: str) -> str:
    """Return the `clipkd extract` command that goes with the options of another verb on stored embeddings."""
    usual = argparse.ArgumentParser(add_help=False)
    data_options(usual)
    store_options(usual)
    words = ["clipkd", "extract"]
    for name, default in vars(usual.parse_args(["--dataset-name", ""])).items():
        value = getattr(options, name)
        if value == default or name == "verify":
            continue
        if name == "templates":
            words += [word for one in value for word in ("--template", one)]
        else:
            words += [f"--{name.replace('_', '-')}", as_given(value) if name == "class_names" else str(value)]
    return shlex.join([*words, "--views", views])


def as_given(named: ClassNames) -> str:
    """Return class names as an option takes them: the file, or JSON."""
    if named.where != "--class-names":
        return named.where
    return json.dumps(named.names if named.classes is None else dict(zip(named.classes, named.names, strict=True)))


def device_of(options: argparse.Namespace) -> Any:
    """Return the torch device, after setting the threads and, of several GPUs, choosing a free one."""
    import torch

    from clipkd.core import device, gpu_lease

    gpu_lease.lease(options.device)

    if options.threads:
        torch.set_num_threads(options.threads)
    return device.choose(options.device)


def results_options(child: argparse.ArgumentParser) -> None:
    """Add what tables and figures are made from; where datasets come from is in the config."""
    folder_options(child)
    child.add_argument(
        "--config", type=Path, default=Path("results/config.json"), help="the resolved config whose grid is shown"
    )
    child.add_argument("--results", type=Path, default=Path("results"), help="folder that holds runs/")
    child.add_argument("--partial", action="store_true", help="accept missing runs, and mark what they touch")


def folder_to_write(path: Path, option: str = "--output") -> Path:
    """Return the folder of an option; InputError where it, or a folder above it, is a file."""
    file = next((part for part in (path, *path.parents) if part.exists() and not part.is_dir()), None)
    if file is not None:
        raise InputError(f"{option} {path}: {file} is a file, not a folder; name another folder")
    return path


def is_stream(path: Path) -> bool:
    """Return whether a path is a device, a pipe or a process's open file: a file can't be renamed to it."""
    is_special = path.exists() and not path.is_file() and not path.is_dir()
    # /dev/stdout leads to whatever standard output is, a file too; but /dev/shm holds files like any other folder.
    return is_special or (path.is_symlink() and path.absolute().parts[1] in {"dev", "proc"})


def file_to_write(path: Path, option: str = "--output", example: str = "report.html") -> Path:
    """Return the file of an option; InputError where it is a folder or a stream, or a folder above it is a file."""
    if path.is_dir():
        raise InputError(f"{option} {path}: this is a folder; name a file in it, for example {path / example}")
    if is_stream(path):
        raise InputError(f"{option} {path}: this is a device or a pipe; name a file, for example {example}")
    folder_to_write(path.parent, option)
    return path
