"""Recipes: the switches in which the released code and the corrected mathematics differ.

One file is one recipe. An ablation is one more file with one line: a `dataclasses.replace` of an
existing recipe under a new name.
"""

from __future__ import annotations

from dataclasses import MISSING, asdict, dataclass, fields
from typing import Any, Literal

from clipkd.core.registry import find, specs


@dataclass(frozen=True)
class Recipe:
    """Each switch is one row of the table "where the released code differs" (docs/method.md)."""

    name: str
    student_output: Literal["probabilities", "logits"]
    """What the student's forward pass ends with; the released code applies a softmax."""
    distillation: Literal["soft-cross-entropy", "hinton"]
    """`vanilla`: cross-entropy with the teacher's probabilities, or KL at a temperature, times T^2."""
    temperature: float
    """T of Hinton's distillation (https://arxiv.org/abs/1503.02531), DKD and DIST; unused by soft-cross-entropy."""
    distillation_weight: float
    """w, the weight of the distillation or contrastive term (`clip_loss_weight`)."""
    logit_scale: Literal["none", "learnable"]
    """CLIP's temperature on the cosines: none, or learnable from 1/0.07, clamped at 100 after each step."""
    projection: Literal["teacher", "student"]
    """Which side the linear `cluster_projection` stands on."""
    prototype_form: str
    """Form of the class prototypes (clipkd/plugins/prototype_forms/): `mean` of the raw embeddings, or `unit-mean`."""
    prototype_resize: Literal["image", "tensor"]
    """The prototypes' views: resize the 8-bit image, then flip; or flip, normalise, resize the tensor."""
    teacher_normalisation: Literal["student", "teacher"]
    """Whose mean and standard deviation the teacher's input gets."""
    teacher_view: Literal["student-input", "native"]
    """What is enlarged for the teacher: the student's input, or the image itself."""
    same_class_targets: bool
    """`teacher-KD`: spread the target over all images of the same class in the batch."""
    schedule: Literal["constant", "cosine"]
    """Learning rate over all steps."""
    warmup_fraction: float
    """Share of all steps in which the learning rate rises linearly from 0 (cosine only)."""
    weight_decay_on: Literal["all", "matrices"]
    """Everything, or only weight matrices: no biases, normalisations, embeddings, scale."""
    drop_last: bool
    """Leave out the incomplete last batch of an epoch."""
    selection: Literal["test", "validation"]
    """Which split chooses the best epoch. With `validation` that split is held out of training."""
    protocol: int
    """Bumped by hand when a numerical change to this recipe must run its students again."""
    drop_path: float = 0.0
    """Share of images for which a residual branch is left out in training: in the last block; from 0 in the first."""

    def switches(self) -> dict[str, Any]:
        """Return every switch, as it is written to a run's config.yaml.

        Switches with a default were added later: they are left out at it, so that earlier runs keep their identity.
        """
        later = {field.name: field.default for field in fields(self) if field.default is not MISSING}
        return {name: value for name, value in asdict(self).items() if name not in later or value != later[name]}


def names() -> list[str]:
    """Return the names of all recipes."""
    return list(specs(__name__))


def get(name: str) -> Recipe:
    """Return the recipe `name`, case ignored; InputError names the nearest known one."""
    return find(__name__, "recipe", name)
