"""Train types: one file is one method. Each is a loss and the teacher signal that it asks for.

Every method with a teacher also has controls, which need no file: the same loss with the targets of other images or
classes (`controls`). The metadata here imports no torch; `loss` imports what it needs when it is first called.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, get_args

from clipkd.core.errors import InputError
from clipkd.core.registry import among, origin, specs

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from clipkd.plugins.recipes import Recipe
    from clipkd.plugins.students._heads import Outputs, ProjectionHead

Signal = Literal["nothing", "prototypes", "embeddings", "scores"]
"""What a method asks of the teacher: class prototypes [C, D] or [C, P, D], the batch's embeddings [B, D], or the
batch's class scores [B, C] (logits)."""

TargetOf = Literal["image", "another image", "another image of the class", "another class"]
"""Whose targets an image is taught: its own and its class's or, in a control, those of another image or class."""

Losses = dict[str, Any]
"""`loss`, the tensor to minimise, its named parts, and what else is recorded: means over the batch's images."""
TEACHER_TOP1 = "teacher_top1"
"""Name of the accuracy of the class scores that are taught, among the losses: there, over all images of a batch."""
LABELLED = "labelled"
"""Name of the share of images with a label, by which that is divided at the end of an epoch."""


@dataclass(frozen=True)
class Method:
    """A train type."""

    name: str
    title: str
    signal: Signal
    control_of: str | None = None
    """The method whose teacher content this one takes away, everything else being equal."""
    decides: bool = False
    """Of a control: whether the teacher's content is found to matter only where its method is better than this one.

    For a control that keeps the targets as they are and only gives them to the wrong classes or images, without harm
    that any method would escape. Comparisons with other controls are shown beside it."""
    compared_with: tuple[str, ...] = ()
    """Other methods that the tables compare this one with, beside training without a teacher."""
    target_of: TargetOf = "image"
    """Another image's embeddings or scores are looked up, so they must be stored."""
    needs_labels: bool = False
    """Whether the teacher's terms need an image's class, although the teacher is asked about the image."""
    in_teachers_space: bool = True
    """Of a method that is given embeddings or prototypes: whether the student's embeddings, projected, come to lie
    among the teacher's vectors, so that the cosine of the two says how near they are."""
    learns_bias: bool = False
    """Whether the projection head has a `logit_bias`, beside the recipe's logit scale."""
    protocol: int = 1
    """Bumped by hand when a numerical change to this train type must run its students again."""

    def __post_init__(self) -> None:
        if self.signal not in get_args(Signal):
            raise ValueError(f"signal '{self.signal}' of {self.name} is none of {', '.join(get_args(Signal))}")

    @property
    def is_per_image(self) -> bool:
        """Whether the teacher is asked about each view of each image, or never or once per class."""
        return self.signal in {"embeddings", "scores"}

    @property
    def sees_unlabelled(self) -> bool:
        """Whether something is learnt from an image without a label."""
        return self.is_per_image and not self.needs_labels

    def loss(
        self, student: ProjectionHead, outputs: Outputs, labels: Tensor, signal: Tensor | None, recipe: Recipe
    ) -> Losses:
        """Return the loss of one batch and its parts; a pure function of what it is given.

        On a GPU it is traced and replayed, and computed for several students at once (clipkd/runs/objective.py): it may
        keep nothing, and draw numbers with torch only.

        Args:
            student: the projection head for the teacher: projection and logit scale.
            outputs: what the student made of the batch.
            labels: class numbers, int64 [B], or of mixed images shares of the classes [B, C]; UNLABELLED, or no share,
                where not known, if `sees_unlabelled`.
            signal: the teacher's, as `self.signal` says.
            recipe: the switches.
        """
        raise NotImplementedError

    def prepare(self, prototypes: Tensor, seed: int) -> Tensor:
        """Return the prototypes [C, D] or [C, P, D] that this method trains with (a control may replace them).

        Where a prototype is drawn in each step, each draw is prepared: equal seeds must do the same to each.
        """
        return prototypes

    def class_targets(self, prototypes: Tensor, seed: int) -> Tensor:
        """Return the prepared prototypes; in a control, handed round one random cycle of all classes."""
        prepared = self.prepare(prototypes, seed)
        if self.target_of != "another class":
            return prepared
        import torch

        from clipkd.plugins.methods._exchange import class_cycle

        return prepared[class_cycle(len(prepared), torch.Generator().manual_seed(seed)).to(prepared.device)]

    def target_rows(self, labels: np.ndarray, rows: np.ndarray, seed: int) -> np.ndarray | None:
        """Return for each training image [N] the one whose embedding or scores it is taught; None: its own.

        Args:
            labels: class numbers of all training images [N].
            rows: those that the run trains on; only they are exchanged.
            seed: the run's.
        """
        if self.target_of in {"image", "another class"}:
            return None
        from clipkd.plugins.methods._exchange import exchanged_rows

        return exchanged_rows(rows, labels if self.target_of == "another image of the class" else None, seed)


SPEC_CLASS = Method
"""Of what other distributions add (clipkd/core/registry.py)."""


def controls(method: Method) -> list[Method]:
    """Return the controls of a method that need no file: everything as in the method, but for whose targets are taught.

    Named `-permuted` and `-within-class`. The one that decides keeps what the label says already: targets of another
    image of the class, or other prototypes at the same angles.
    """
    if method.signal == "nothing" or method.control_of:
        return []

    def control(ending: str, title: str, target_of: TargetOf, decides: bool, protocol: int) -> Method:
        return replace(
            method,
            name=f"{method.name}-{ending}",
            title=title,
            control_of=method.name,
            decides=decides,
            compared_with=(),
            target_of=target_of,
            protocol=protocol,
        )

    first, second = method.protocol, method.protocol + 1
    if method.signal == "prototypes":
        # Its second protocol: at first some classes kept their own prototype.
        return [control("permuted", "class-permuted prototypes", "another class", True, second)]
    within = f"{method.signal} permuted within classes"
    return [
        control("permuted", f"{method.signal} permuted", "another image", False, first),
        control("within-class", within, "another image of the class", True, first),
    ]


@cache
def known() -> dict[str, Method]:
    """Return all train types by name: those with a file, and the controls of these that have none of their own."""
    files: dict[str, Method] = specs(__name__)
    made = {control.name: control for method in files.values() for control in controls(method)}
    for name in made.keys() & files.keys():
        if owner := origin(__name__, name):
            raise InputError(f"plug-in of {owner}: '{name}' is the name of a control of '{made[name].control_of}'")
    return dict(sorted((made | files).items()))


def names() -> list[str]:
    """Return the names of all train types."""
    return list(known())


def get(name: str) -> Method:
    """Return the train type `name`, case ignored; InputError names the nearest known one."""
    return among(known(), "train type", name)


def deciding(method: str, is_partly_labelled: bool) -> list[str]:
    """Return the controls that a method must be better than for its teacher's content to matter.

    Where some images have no label, those of one class are not known: targets of any other image then decide, and on
    images without a label they contradict none.
    """
    controls = [spec for spec in known().values() if spec.control_of == method]
    if is_partly_labelled:
        controls = [spec for spec in controls if spec.target_of != "another image of the class"]
    return [spec.name for spec in controls if spec.decides] or [spec.name for spec in controls]
