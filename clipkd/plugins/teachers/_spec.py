"""What is known of every teacher."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from clipkd.core.errors import InputError
from clipkd.core.fingerprint import Identity

PROCESSOR, NESTED_PROCESSOR = "preprocessor_config.json", "processor_config.json"
"""Where an image processor's settings are; transformers 5 writes them into the second, where there is a tokenizer."""
FILES = ("config.json", PROCESSOR, "model.safetensors")
"""All that is ever read of a vision encoder's checkpoint; NESTED_PROCESSOR where there is no PROCESSOR."""
TEXT_FILES = ("config.json", "tokenizer.json", "model.safetensors")
"""All that is ever read of a text tower's checkpoint."""
Output = Literal["cls", "mean", "pooler", "text", "pooled", "logits"]
OUTPUTS = get_args(Output)
OWN = "own"
"""The value of `head` that takes the checkpoint's own classifier."""


@dataclass(frozen=True)
class TeacherSpec:
    """What is known of a teacher before its weights are there; None: only the checkpoint tells."""

    name: str
    title: str
    image_size: int | None = None
    patch_size: int | None = None
    hidden_size: int | None = None
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    """The normalisation that the teacher was trained with, in units of [0, 1]."""
    head_for: str | None = None
    """The dataset whose classes the checkpoint's own classifier has, in this order where it does not name them; None:
    use a linear probe, unless `head` says otherwise."""
    head: str = ""
    """`own`: the checkpoint's own classifier gives the class scores, its classes matched by name; `own@DATASET`: on
    that dataset only."""
    output: Output = "cls"
    """What is taken of the checkpoint: of an image its class token, the mean of its patch tokens, the pooler's vector,
    what its classifier sees (`pooled`) or says (`logits`); `text`: of class names what the text tower says."""
    checkpoint: str = ""
    """The name that the checkpoint's folder has; "": the teacher's own."""

    @property
    def members(self) -> tuple[TeacherSpec, ...]:
        """The teachers that this one consists of: itself, unless it is several."""
        return (self,)

    @property
    def any_output(self) -> Output:
        """An output that every such checkpoint has, where the name says none: others share it, and its folder."""
        return "mean" if self.output in ("cls", "pooled") else self.output

    @property
    def reads_names(self) -> bool:
        """True where the teacher is shown class names, not images."""
        return self.output == "text"

    def brings_head(self, dataset: str) -> bool:
        """Return whether the checkpoint's own classifier gives the class scores on a dataset."""
        return self.head_for == dataset or self.matches_names(dataset)

    def matches_names(self, dataset: str) -> bool:
        """Return whether the classes of the checkpoint's own classifier are matched with a dataset's by name."""
        return self.head in {OWN, f"{OWN}@{dataset}"}

    @property
    def is_imported(self) -> bool:
        """True where there are only embeddings that somebody else computed, and no model to run."""
        return False

    @property
    def is_per_class(self) -> bool:
        """True where it gives vectors of classes only, not of images."""
        return self.reads_names

    @property
    def has_mirrored(self) -> bool:
        """True where there are vectors of mirrored images too; a model can be shown any image."""
        return not self.is_imported

    @property
    def files(self) -> tuple[str, ...]:
        """Return the files that are read of the checkpoint."""
        return TEXT_FILES if self.reads_names else FILES

    def identity(self) -> Identity:
        """Return what makes the teacher's weights."""
        raise NotImplementedError

    @property
    def typed(self) -> str:
        """Return what the command line takes for the teacher's checkpoint."""
        return self.name

    @property
    def available(self) -> str:
        """Return "" or the reason why this teacher can't be used yet, with what to do."""
        return ""


@dataclass(frozen=True)
class SeveralTeachers(TeacherSpec):
    """Several teachers at once for one student."""

    several: tuple[TeacherSpec, ...] = ()
    weights: tuple[float, ...] = ()
    """Of their losses; (): the same for each."""
    standardise: bool = False
    """Whether each dimension of each one's embeddings is brought to mean 0 and deviation 1."""

    @property
    def shares(self) -> tuple[float, ...] | None:
        """Return the weights with the sum 1; None where they are the same for each."""
        return tuple(weight / sum(self.weights) for weight in self.weights) or None

    @property
    def members(self) -> tuple[TeacherSpec, ...]:
        return self.several

    @property
    def available(self) -> str:
        return next((member.available for member in self.several if member.available), "")


def giving(spec: TeacherSpec, output: Output) -> TeacherSpec:
    """Return a teacher of which something else than the class token is taken; its checkpoint stays the same."""
    if output == spec.output:
        return spec
    # The files of the two towers differ, so that they are two checkpoints.
    checkpoint = f"{spec.name}-text" if output == "text" else spec.name
    title = f"{spec.title} ({output})"
    given = replace(spec, name=f"{spec.name}-{output}", title=title, output=output, checkpoint=checkpoint)
    # Its own classifier is one of what it usually gives, or has given the scores themselves.
    return given if output == "logits" else replace(given, head="", head_for=None)


def is_timm(config: Any) -> bool:
    """Return whether a config.json is one of timm, which names an `architecture`; transformers names a `model_type`."""
    return isinstance(config, dict) and "architecture" in config and "model_type" not in config


def refuse_nameless(config: Any, where: str) -> None:
    """Raise InputError where a config.json is one of timm by its `pretrained_cfg`, and names no architecture.

    Args:
        config: its content.
        where: the file, for the message.
    """
    names = {"architecture", "model_type", "torchvision", "clipkd"}
    if isinstance(config, dict) and "pretrained_cfg" in config and not names & config.keys():
        raise InputError(
            f"{where}: the key 'architecture' is missing: it holds timm's name of the model, for example "
            '"architecture": "resnet18"'
        )


def slug(text: str) -> str:
    """Return `text` as a name that may stand in a path."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:80].rstrip("-") or "teacher"
