"""A checkpoint's own classifier: what it tells apart, and whether that is the dataset's classes in their order."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from safetensors import safe_open

from clipkd.core.artifacts import read_json
from clipkd.core.errors import InputError
from clipkd.core.hub_client import WEIGHTS
from clipkd.embeddings.families import vision_family
from clipkd.plugins.teachers import TeacherSpec

UNNAMED = re.compile(r"LABEL_\d+")
"""What transformers calls classes that nobody named."""
CLASSIFIERS = ("classifier.weight", "cls_classifier.weight")


@dataclass(frozen=True)
class OwnHead:
    """A checkpoint's classifier."""

    classes: int
    names: tuple[str, ...] | None
    """What its classes are called, by number; None: nobody named them."""
    is_linear: bool
    """Whether it is one linear layer on the class token, as scores from stored embeddings need it."""

    def order(self, classes: list[str]) -> str:
        """Return how its classes compare with a dataset's: `same`, `moved` (another order), `unknown` or `other`."""
        if self.classes != len(classes):
            return "other"
        if self.names is None:
            return "unknown"
        mine, theirs = ([simple(name) for name in names] for names in (self.names, classes))
        if mine == theirs:
            return "same"
        return "moved" if sorted(mine) == sorted(theirs) else "unknown"


def simple(name: str) -> str:
    """Return a class name without what differs by habit: capitals, underscores, dashes."""
    return re.sub(r"[\s_-]+", " ", name.lower()).strip()


def own_head_of(folder: Path, spec: TeacherSpec) -> OwnHead | None:
    """Return the classifier in a fetched checkpoint's folder; None where it has none."""
    config = read_json(folder / "config.json")
    with safe_open(folder / WEIGHTS, framework="np") as weights:
        found = next((name for name in CLASSIFIERS if name in weights.keys()), None)  # noqa: SIM118  (not a dict)
        if found is None:
            return None
        classes = int(weights.get_slice(found).get_shape()[0])
    family = vision_family(str(config.get("model_type")))
    is_linear = found == CLASSIFIERS[0] and family is not None and family.has_classifier and spec.output == "cls"
    labels = config.get("id2label")
    names = None
    if isinstance(labels, dict) and set(labels) == {str(number) for number in range(classes)}:
        named = tuple(str(labels[str(number)]) for number in range(classes))
        names = None if all(UNNAMED.fullmatch(name) for name in named) else named
    return OwnHead(classes, names, is_linear)


def passed_over(head: OwnHead, spec: TeacherSpec, dataset: str, classes: list[str]) -> str:
    """Return the sentence that says that a checkpoint's classifier is not used, why, and how to use it."""
    way = f'`head_for="{dataset}"` in a file of the teacher uses it (CONTRIBUTING.md, "A teacher")'
    why = {
        "same": f"it has {dataset}'s classes in the same order: {way}",
        "unknown": f"it has as many classes as {dataset}: where they are the same in this order, {way}",
        "moved": f"it has {dataset}'s classes, in another order",
        "other": f"{dataset} has {len(classes)} classes",
    }[head.order(classes)]
    if not head.is_linear:
        why = "it is not a linear layer on the embedding that is stored"
    return (
        f"{spec.title}: the checkpoint's own classifier of {head.classes} classes is not used, class scores come from "
        f"a linear probe; {why}"
    )


def check_order(head: OwnHead | None, spec: TeacherSpec, dataset: str, classes: list[str]) -> None:
    """Raise InputError where a classifier that is used has the dataset's classes in another order."""
    if head is not None and head.order(classes) == "moved":
        assert head.names is not None
        pairs = zip(head.names, classes, strict=True)
        place = next(place for place, (mine, name) in enumerate(pairs) if simple(mine) != simple(name))
        raise InputError(
            f"teacher '{spec.name}': its classifier has the classes of {dataset} in another order (class {place} is "
            f"'{head.names[place]}' there, '{classes[place]}' here); remove head_for to fit a linear probe"
        )
