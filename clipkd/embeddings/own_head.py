"""A checkpoint's own classifier: what it tells apart, and which of its classes are the dataset's."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open

from clipkd.core.errors import InputError, nearest
from clipkd.core.files import read_json
from clipkd.core.hub_client import WEIGHTS
from clipkd.embeddings.families import vision_family
from clipkd.plugins.teachers import HubTeacher, LibraryTeacher, TeacherSpec, TrainedCNN
from clipkd.plugins.teachers._folder import SAVE
from clipkd.spec.class_names import ClassNames, listed

UNNAMED = re.compile(r"LABEL_\d+")
"""What transformers calls classes that nobody named."""
WORDNET = re.compile(r"n\d{8}")
"""What ImageNet's folders are called."""
CLASSIFIERS = ("classifier.weight", "cls_classifier.weight")
UNSAID_CLASSES = 2
"""As many as transformers' models have where config.json has no `id2label`."""
IMAGENET_CLASSES = 1000
PROBE = "leave `head` out for a linear probe"


@dataclass(frozen=True)
class OwnHead:
    """A checkpoint's classifier."""

    classes: int
    names: tuple[str, ...] | None
    """What its classes are called, by number; None: nobody named them."""
    is_linear: bool
    """Whether it is one linear layer on the embedding that is stored, as scores from stored embeddings need it."""


def own_head_of(folder: Path, spec: TeacherSpec) -> OwnHead | None:
    """Return the classifier in a fetched checkpoint's folder; None where it has none."""
    config = read_json(folder / "config.json")
    if isinstance(config.get("clipkd"), dict):
        kept = tuple(config["clipkd"]["classes"])
        return OwnHead(len(kept), kept, spec.output == "pooled") if kept else None
    if "pretrained_cfg" in config:
        return head_of_library(config, spec)
    with safe_open(folder / WEIGHTS, framework="np") as weights:
        found = next((name for name in CLASSIFIERS if name in weights.keys()), None)  # noqa: SIM118  (not a dict)
        if found is None:
            return None
        classes = int(weights.get_slice(found).get_shape()[0])
    return head_of_transformers(config, spec, classes, is_plain=found == CLASSIFIERS[0])


def head_of_transformers(config: dict[str, Any], spec: TeacherSpec, classes: int, is_plain: bool) -> OwnHead:
    """Return the classifier of a config.json of transformers; `is_plain`: it is one layer, not DeiT's two."""
    family = vision_family(str(config.get("model_type")))
    is_linear = is_plain and family is not None and family.has_classifier and spec.output == "cls"
    labels = config.get("id2label")
    names = None
    if isinstance(labels, dict) and set(labels) == {str(number) for number in range(classes)}:
        named = tuple(str(labels[str(number)]) for number in range(classes))
        names = None if all(UNNAMED.fullmatch(name) for name in named) else named
    return OwnHead(classes, names, is_linear)


def check_config(
    config: dict[str, Any], spec: TeacherSpec, dataset: str, classes: list[str] | int | None, given: ClassNames | None
) -> None:
    """Raise InputError where a config.json says, before the weights are there, that no classifier scores a dataset.

    Args:
        config: the checkpoint's config.json.
        spec, dataset, given: as for `rows`.
        classes: the dataset's own names of its classes, or only how many there are; None: nothing is known yet.
    """
    said = config.get("architectures")
    kinds = said if isinstance(said, list) else []
    if "pretrained_cfg" in config:
        head = head_of_library(config, spec)
    elif any("ForImageClassification" in str(kind) for kind in kinds):
        labels = config.get("id2label")
        count = len(labels) if isinstance(labels, dict) else UNSAID_CLASSES
        head = head_of_transformers(config, spec, count, not any("WithTeacher" in str(kind) for kind in kinds))
    elif kinds and all(str(kind).endswith(("Model", "ForPreTraining")) for kind in kinds):
        head = None
    else:
        return  # only the weights tell
    if head is None or not head.is_linear or isinstance(classes, list):
        rows(head, spec, dataset, classes if isinstance(classes, list) else [], given)
    elif classes is not None and (head.classes < classes or (spec.head_for == dataset and head.classes > classes)):
        raise InputError(
            f"teacher '{spec.name}': its own classifier can't score {dataset}: it has {head.classes} classes, the "
            f"dataset {classes}; {PROBE}"
        )


def head_of_library(config: dict[str, Any], spec: TeacherSpec) -> OwnHead | None:
    """Return the classifier of a config.json of timm, or of ours for torchvision; None where it has none."""
    classes, names = int(config.get("num_classes") or 0), config.get("label_names")
    if isinstance(names, dict):
        names = [names.get(str(number)) for number in range(classes)]
    if names is None and classes == IMAGENET_CLASSES and is_published(spec):
        names = imagenet_names()
    is_named = isinstance(names, list) and len(names) == classes and all(isinstance(name, str) for name in names)
    named = tuple(map(str, names)) if names and is_named else None
    return OwnHead(classes, named, spec.output in ("pooled", "logits")) if classes else None


def is_published(spec: TeacherSpec) -> bool:
    """Return whether weights are some that timm or torchvision published: 1,000 classes are ImageNet's then."""
    if isinstance(spec, HubTeacher):
        return spec.hub_id.startswith("timm/")
    return isinstance(spec, LibraryTeacher) and bool(spec.tag)


def imagenet_names() -> list[str]:
    """Return what the 1,000 classes of ImageNet-1k are called, in their order."""
    from clipkd.core.timm import ImageNetInfo

    info = ImageNetInfo()
    return [info.index_to_description(number) for number in range(IMAGENET_CLASSES)]


def simple(name: str) -> str:
    """Return a class name without what differs by habit: capitals, underscores, dashes."""
    return re.sub(r"[\s_-]+", " ", name.lower()).strip()


def called(classes: Sequence[str], given: ClassNames | None = None) -> list[list[str]]:
    """Return the ways in which a dataset's classes are called: its own, the user's, WordNet's for ImageNet's ids."""
    ways = [list(classes)] + ([given.of(classes)] if given else [])
    if all(WORDNET.fullmatch(name) for name in classes):
        from clipkd.core.timm import ImageNetInfo

        ways.append([ImageNetInfo().label_name_to_description(name) or name for name in classes])
    return ways


def places(head: OwnHead, classes: Sequence[str]) -> list[int] | None:
    """Return which class of a classifier each of a dataset's classes is, by name; None where one is not among them."""
    mine, theirs = ([simple(name) for name in names] for names in (head.names or (), classes))
    if mine == theirs:
        return list(range(len(mine)))
    if any(mine.count(name) != 1 for name in theirs) or len(set(theirs)) < len(theirs):
        return None
    return [mine.index(name) for name in theirs]


def rows(
    head: OwnHead | None, spec: TeacherSpec, dataset: str, classes: list[str], given: ClassNames | None
) -> list[int]:
    """Return which class of the checkpoint's classifier each of the dataset's classes is.

    Args:
        head: the classifier; None: the checkpoint has none.
        spec: the teacher, whose `head` or `head_for` says that its classifier is used.
        dataset: the dataset's name.
        classes: the dataset's own names of its classes.
        given: what the user calls them.

    Raises:
        InputError: the classifier can't be used, or its classes are not the dataset's; says which, and what to do.
    """
    start = f"teacher '{spec.name}': its own classifier can't score {dataset}"
    if head is None:
        raise InputError(f"{start}: the checkpoint has none; {PROBE}")
    if not head.is_linear:
        raise not_linear(spec, dataset)
    ways = called(classes, given)
    found = next((found for names in ways if (found := places(head, names)) is not None), None)
    if spec.head_for == dataset and (found is None or len(classes) != head.classes):
        # The teacher's file vouches for the order, unless the names show another.
        if len(classes) != head.classes:
            raise InputError(f"{start}: it has {head.classes} classes, the dataset {len(classes)}; {PROBE}")
        return list(range(len(classes)))
    if found is None:
        raise InputError(f"{start}: {unmatched(head, spec, ways, dataset)}, or {PROBE}")
    return found


def not_linear(spec: TeacherSpec, dataset: str) -> InputError:
    advice = "take another model" if isinstance(spec, TrainedCNN) else PROBE
    return InputError(
        f"teacher '{spec.name}': its own classifier can't score {dataset}: it is not a linear layer on the embedding "
        f"that is stored ({spec.output}); {advice}"
    )


def where_to_name(spec: TeacherSpec) -> str:
    """Return what to do where nobody named the classes of a checkpoint's classifier."""
    if not isinstance(spec, LibraryTeacher):
        return "name them in `id2label` (timm: `label_names`) of the checkpoint's config.json"
    tagged = f"{spec.library}:{spec.model}.TAG?pretrained=..."
    if spec.library == "timm":
        return (
            "a file of weights holds no names: give a folder instead, with the weights as model.safetensors and a "
            f"config.json of timm whose `label_names` lists them ({SAVE} writes both); for weights that timm "
            f"published, write {tagged}"
        )
    return f"a file of weights holds no names; for weights that torchvision published, write {tagged}"


def unmatched(head: OwnHead, spec: TeacherSpec, ways: list[list[str]], dataset: str) -> str:
    """Return why no way of calling a dataset's classes fits a classifier, and what to do."""
    if head.names is None:
        return f"nobody named its {head.classes} classes, so their order is unknown; {where_to_name(spec)}"
    mine = [simple(name) for name in head.names]
    best = max(ways, key=lambda names: sum(simple(name) in mine for name in names))
    missing = [name for name in best if simple(name) not in mine]
    advice = f"call the classes as the checkpoint does under `class_names: {{{dataset}: ...}}`"
    if missing:
        also = f" (nor {len(missing) - 1} others of {len(best)})" if len(missing) > 1 else ""
        close = nearest(missing[0], head.names)
        return f"it has no class '{missing[0]}'{close}{also}; it has {listed(head.names)}; {advice}"
    asked = [simple(name) for name in best]
    twice = next(name for name in best if mine.count(simple(name)) > 1 or asked.count(simple(name)) > 1)
    return f"two of its classes are called '{twice}'; {advice}"


def passed_over(
    head: OwnHead, spec: TeacherSpec, dataset: str, classes: list[str], given: ClassNames | None = None
) -> str:
    """Return the sentence that says that a checkpoint's classifier is not used, why, and how to use it."""
    if not head.is_linear:
        why = "it is not a linear layer on the embedding that is stored"
    elif any(places(head, names) is not None for names in called(classes, given)):
        why = f"it has {dataset}'s classes: `head: own` beside the teacher in the config uses it (docs/own.md)"
    elif head.classes != len(classes):
        why = f"{dataset} has {len(classes)} classes"
    elif head.names is None:
        why = (
            f"it has as many classes as {dataset}, but they are unnamed; `head: own` needs a checkpoint that names "
            "them (a folder with config.json)"
        )
    else:
        why = (
            f"it has as many classes as {dataset}, called {listed(head.names)}: where they are the same, docs/own.md "
            "says how to use it (`head: own`)"
        )
    return (
        f"{spec.title}: the checkpoint's own classifier of {head.classes} classes is not used, class scores come from "
        f"a linear probe; {why}"
    )
