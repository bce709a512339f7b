"""Models of timm that the workflow trains as teachers: `trained:MODEL@PIXELS`, on the images that the student learns.

`trained:MODEL@PIXELS?on=DATASET&seed=N&epochs=N`. In a grid `on` is the dataset of each cell where it is left out; what
lies in a place of the user's own is told by `data`, the fingerprint of what the config says of it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from clipkd.core.errors import InputError
from clipkd.core.fingerprint import Identity, fingerprint
from clipkd.plugins.teachers._names import TRAINED
from clipkd.plugins.teachers._spec import OWN, Output, TeacherSpec, slug

PIXELS = 64
"""Input side of a model that names none: images of 32 pixels are enlarged, so that a stem made for large images leaves
16 x 16 positions of them."""
FORM = re.compile(r"trained:([a-z0-9]\w*)(?:@([1-9][0-9]{0,3}))?(?:\?(.+))?", re.ASCII)
OPTIONS = {
    "on": r"[a-z0-9][a-z0-9-]{0,62}",
    "data": r"[0-9a-f]{16}",
    "seed": r"0|[1-9][0-9]{0,8}",
    "epochs": r"[1-9][0-9]{0,3}",
}
"""Option -> what its value looks like."""


@dataclass(frozen=True)
class TrainedCNN(TeacherSpec):
    """A model of timm that the workflow trains on a dataset, and keeps with its classifier."""

    dataset: str = ""
    """"": that of the cell, which is not known yet."""
    data: str = ""
    """Fingerprint of the dataset's identity, where the user says where it lies."""
    model: str = ""
    """timm's name of the architecture."""
    epochs: int = 30
    batch_size: int = 128
    learning_rate: float = 3e-3
    """Peak of AdamW's one-cycle schedule."""
    weight_decay: float = 0.05
    label_smoothing: float = 0.1
    shift: int = 8
    """Random shift, at most one in so many pixels of the side; images are mirrored where the dataset's may be."""
    seed: int = 0
    protocol: int = 1

    @property
    def files(self) -> tuple[str, ...]:
        return ("config.json", "model.safetensors")

    def identity(self) -> Identity:
        from clipkd.plugins import datasets

        named = ("model", "epochs", "batch_size", "learning_rate", "weight_decay", "label_smoothing", "shift")
        training = {name: getattr(self, name) for name in (*named, "image_size", "seed", "protocol")}
        if not self.dataset:
            raise InputError(
                f"teacher '{self.name}' is trained on a dataset: add on=DATASET to the options behind its '?'"
            )
        data = self.data or fingerprint(datasets.get(self.dataset).identity())
        return {"trained_on": {self.dataset: data}, "timm": training}


def trained_cnn(where: str, output: Output | None) -> TeacherSpec | None:
    """Return the teacher that `trained:MODEL@PIXELS` names; None where `where` has another form."""
    if not where.startswith(TRAINED):
        return None
    found = FORM.fullmatch(where)
    if found is None:
        raise InputError(f"teacher '{where}': write trained:MODEL@PIXELS, MODEL as timm calls it: trained:resnet18d@64")
    options = options_of(where, found[3] or "")
    on = options.get("on", "")
    model, size = found[1].lower(), int(found[2] or PIXELS)
    seed, epochs = int(options.get("seed", 0)), int(options.get("epochs", TrainedCNN.epochs))
    marks = [f"seed{seed}"] * (seed > 0) + [f"epochs{epochs}"] * (epochs != TrainedCNN.epochs)
    name = slug("-".join([model, str(size), *marks]))
    return TrainedCNN(
        name=name,
        title=f"{model} at {size} px" + (f", {', '.join(marks)}" if marks else ""),
        image_size=size,
        head=f"{OWN}@{on}" if on else "",
        output="pooled",
        checkpoint=f"{name}-{on}" if on else "",
        dataset=on,
        data=options.get("data", ""),
        model=model,
        epochs=epochs,
        seed=seed,
    )


def options_of(where: str, text: str) -> dict[str, str]:
    """Return the options behind a `?`; InputError where one is unknown, given twice or not of its form."""
    found: dict[str, str] = {}
    for option in text.split("&") if text else ():
        name, _, value = option.partition("=")
        if name not in OPTIONS or name in found or not re.fullmatch(OPTIONS[name], value):
            raise InputError(
                f"teacher '{where}': unknown or invalid option '{option}' (known: on=DATASET, seed=N, epochs=N)"
            )
        found[name] = value
    return found


def on_dataset(name: str, dataset: str, data: str) -> str:
    """Return one teacher's name with the dataset that it is trained on, where it is `trained:`.

    Args:
        name: `[NAME=]WHERE`, as the command line takes it.
        dataset: the name of the dataset, where the teacher's name holds none.
        data: fingerprint of its identity, where the user says where it lies; "": not needed.
    """
    alias, mark, rest = name.rpartition(TRAINED)
    if not mark or (alias and not alias.endswith("=")):
        return name
    model, _, options = rest.partition("?")
    others = [one for one in options.split("&") if one and not one.startswith(("on=", "data="))]
    given = [f"on={dataset}", *([f"data={data}"] if data else []), *others]
    return f"{alias}{mark}{model}?{'&'.join(given)}"
