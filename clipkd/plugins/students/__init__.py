"""Students: one file is one student, a name for a network, its size and its input size.

Any model of timm is a student too, without a file: `timm:MODEL` or `timm:MODEL@PIXELS`, with `?pretrained=WHERE` behind
it where it does not begin with fresh weights.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from os.path import expanduser
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipkd.core.errors import DataError, InputError
from clipkd.core.files import sha256_once
from clipkd.core.hub import COMMIT, HUB_ID
from clipkd.core.registry import find, specs

if TYPE_CHECKING:
    from clipkd.plugins.students._heads import Heads, Widths

TIMM = re.compile(
    r"timm:([a-z0-9]\w*(?:\.\w+)?)(?:@([1-9][0-9]{0,3}))?(?:\?pretrained=(.+))?", re.IGNORECASE | re.ASCII
)
PROJECTION_HEAD = ("cluster_projection", "logit_scale", "logit_bias")
"""How the names of a projection head's parameters begin; only distillation uses them."""
TIMM_SIZE = 32
"""Input side of a timm student that names none, in pixels."""


@dataclass(frozen=True)
class NetworkSpec:
    """What is known of every student."""

    name: str
    image_size: int
    """Input side, in pixels."""

    def identity(self) -> dict[str, Any]:
        """Return what makes this student, for a run's fingerprint."""
        return asdict(self)

    def network(self, classes: int, target_width: Widths, projection: str, learnable_scale: bool) -> Heads:
        """Return the network with fresh weights (see `clipkd.plugins.students._heads.Heads`); imports torch."""
        raise NotImplementedError

    def parameters(self) -> int:
        """Return the number of parameters, without a projection and for two classes; may import torch."""
        # Not on torch's meta device: some models read numbers while they are built.
        return sum(parameter.numel() for parameter in self.network(2, None, "student", False).parameters())

    def prepare(self, student: Heads) -> None:
        """Give a network of `network` the weights that its training begins with, where they are no fresh ones."""


@dataclass(frozen=True)
class StudentSpec(NetworkSpec):
    """A CLIP-style vision transformer (docs/method.md, "Student"; names of OpenAI CLIP's visual tower)."""

    patch_size: int
    width: int
    layers: int
    heads: int
    attention_dropout: float = 0.1

    def __post_init__(self) -> None:
        if self.image_size % self.patch_size:
            raise InputError(
                f"student {self.name}: patch_size {self.patch_size} does not divide image_size {self.image_size}"
            )
        if self.width % self.heads:
            raise InputError(f"student {self.name}: heads {self.heads} does not divide width {self.width}")

    def network(self, classes: int, target_width: Widths, projection: str, learnable_scale: bool) -> Heads:
        from clipkd.plugins.students._vit import Student

        return Student(self, classes, target_width, projection, learnable_scale)

    def parameters(self) -> int:
        # By formula: plans of grids ask for it, which import no torch.
        block = 12 * self.width**2 + 13 * self.width
        tokens = (self.image_size // self.patch_size) ** 2 + 1
        outside = 3 * self.patch_size**2 + tokens + 7  # filters, positions, class token, two normalisations, classifier
        return self.layers * block + outside * self.width + 2


@dataclass(frozen=True)
class TimmSpec(NetworkSpec):
    """A model of timm (https://huggingface.co/docs/timm), with fresh weights or pretrained ones."""

    model: str
    """timm's own name of it."""
    pretrained: str = ""
    """What its training begins with: `sha256:<digest>` of a file, or `owner/model@<commit>`; "": fresh weights."""
    weights: str = ""
    """The file; where it lies makes no difference to the student."""

    def identity(self) -> dict[str, Any]:
        left_out = {"weights"} if self.pretrained else {"weights", "pretrained"}
        return {name: value for name, value in asdict(self).items() if name not in left_out}

    def network(self, classes: int, target_width: Widths, projection: str, learnable_scale: bool) -> Heads:
        from clipkd.plugins.students._timm import TimmStudent

        return TimmStudent(self, classes, target_width, projection, learnable_scale)

    def prepare(self, student: Heads) -> None:
        if self.pretrained:
            from clipkd.plugins.students._pretrained import load_pretrained

            load_pretrained(student, self)


SPEC_CLASS = NetworkSpec
"""Of what other distributions add (clipkd/core/registry.py)."""


def rebuilt(identity: dict[str, Any]) -> NetworkSpec:
    """Return the student that `identity()` wrote down; a run folder keeps it, so that no name has to be known.

    Raises:
        DataError: it is no identity of a student that this version of clipkd knows.
    """
    known: NetworkSpec | None = specs(__name__).get(str(identity.get("name")))
    if known is not None and known.identity() == identity:  # of a class that only its own distribution knows
        return known
    for kind in (StudentSpec, TimmSpec):
        try:
            return kind(**identity)
        except TypeError:
            continue
    raise DataError(f"no student of this version of clipkd is described by {sorted(identity)}")


def names() -> list[str]:
    """Return the names of the students that have a file of their own."""
    return list(specs(__name__))


def get(name: str) -> NetworkSpec:
    """Return the student `name`, case ignored, or the timm model that `timm:MODEL@PIXELS` names.

    Raises:
        InputError: the name is unknown; names the nearest known one.
    """
    if not name.lower().startswith("timm:"):
        return find(__name__, "student", name)
    found = TIMM.fullmatch(name)
    if found is None:
        raise InputError(
            f"student '{name}': write timm:MODEL or timm:MODEL@PIXELS, for example timm:resnet18@64; "
            "?pretrained=WHERE may follow"
        )
    size = int(found[2] or TIMM_SIZE)
    key = f"timm-{re.sub(r'[^a-z0-9]+', '-', found[1].lower())}-{size}"
    if not found[3]:
        return TimmSpec(name=key, image_size=size, model=found[1])
    pretrained, weights = origin(name, found[3])
    mark = re.split("[@:]", pretrained)[1][:8]
    return TimmSpec(f"{key}-from-{mark}", size, found[1], pretrained, weights)


def origin(name: str, where: str) -> tuple[str, str]:
    """Return what stands for pretrained weights, and their file ("": it comes from the hub).

    Raises:
        InputError: `where` is neither a safetensors file nor a model of the hub with its commit.
    """
    hub_id, _, revision = where.partition("@")
    if HUB_ID.fullmatch(hub_id) and COMMIT.fullmatch(revision):
        return where, ""
    path = Path(expanduser(where))
    if path.suffix == ".safetensors":
        try:
            return f"sha256:{sha256_once(path)}", str(path)
        except OSError as error:
            raise InputError(f"student '{name}': {path}: {error.strerror or error}") from None
    raise InputError(
        f"student '{name}': pretrained={where} is neither a .safetensors file nor owner/model@<40 hex digits of a "
        "commit> on the Hugging Face hub; pickled weights (.pt, .pth, .bin) are never opened, since they can run code"
    )


def spelled(name: str) -> str:
    """Return what stands for a student in cells: its key, or what names a student that has no file."""
    key = get(name).name
    return key if key in names() else name
