"""Models of timm and torchvision with a file of weights: `timm:MODEL?pretrained=FILE`, or `torchvision:`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from os.path import expanduser
from pathlib import Path

from clipkd.core.errors import InputError
from clipkd.core.files import sha256_once
from clipkd.core.fingerprint import Identity
from clipkd.core.hub import HUB_ID
from clipkd.plugins.teachers._names import LIBRARY
from clipkd.plugins.teachers._spec import Output, TeacherSpec, giving, slug

FORM = re.compile(r"(timm|torchvision):([a-z0-9]\w*)(?:\.(\w+))?\?pretrained=(.+)", re.IGNORECASE | re.ASCII)
SUFFIXES = (".safetensors", ".pt", ".pth", ".bin")
"""Pickled files are opened for tensors only (`weights_only`), and kept as safetensors."""
TRANSFORMED = ("googlenet", "inception_v3")
"""Models of torchvision that transform their own input where their weights are published ones."""


@dataclass(frozen=True)
class LibraryTeacher(TeacherSpec):
    """A model of timm or torchvision, its weights in a file that the user has."""

    library: str = ""
    """`timm` or `torchvision`."""
    model: str = ""
    """The library's own name of the architecture."""
    tag: str = ""
    """The library's name of the weights, which decides the preprocessing: `ra_in1k`, `IMAGENET1K_V2`."""
    weights: str = ""
    """The file; where it lies makes no difference to the teacher."""
    sha256: str = ""

    @property
    def full_name(self) -> str:
        """The library's name of the model and its weights."""
        return f"{self.model}.{self.tag}" if self.tag else self.model

    @property
    def any_output(self) -> Output:
        return "logits" if self.library == "torchvision" else super().any_output

    @property
    def files(self) -> tuple[str, ...]:
        return ("config.json", "model.safetensors")

    def identity(self) -> Identity:
        # Before, models that transform their input were built without it.
        built = {"protocol": 2} if self.library == "torchvision" and self.model in TRANSFORMED else {}
        return {self.library: self.model, "tag": self.tag, "weights": self.sha256} | built


def of_library(where: str, output: Output | None) -> TeacherSpec | None:
    """Return the teacher that `timm:MODEL?pretrained=FILE` names; None where `where` has another form."""
    if not LIBRARY.match(where):
        return None
    found = FORM.fullmatch(where)
    if found is None:
        raise InputError(
            f"teacher '{where}': write timm:MODEL?pretrained=FILE or torchvision:MODEL?pretrained=FILE; a timm "
            "model of the hub is timm/MODEL@<commit>"
        )
    library, model, tag, file = found[1].lower(), found[2].lower(), found[3] or "", found[4]
    path = Path(expanduser(file))
    if HUB_ID.fullmatch(file.partition("@")[0]) and "@" in file and not path.exists():
        raise InputError(f"teacher '{where}': as a teacher, a model of the hub is named without '{library}:': '{file}'")
    if path.suffix not in SUFFIXES:
        raise InputError(f"teacher '{where}': {file} is not a file of weights ({', '.join(SUFFIXES)})")
    try:
        path.stat()
    except OSError as error:
        raise InputError(f"teacher '{where}': {file}: {error.strerror or error}") from None
    if not path.is_file():
        raise InputError(f"teacher '{where}': {file} is not a file")
    sha256 = sha256_once(path)
    spec = LibraryTeacher(
        name=f"{slug(f'{model}.{tag}')}-{sha256[:8]}",
        title=f"{model}.{tag}" if tag else model,
        output="pooled",
        library=library,
        model=model,
        tag=tag,
        weights=str(path),
        sha256=sha256,
    )
    return giving(spec, output or "pooled")
