"""Recipes: the switches in which the released code and the corrected mathematics differ.

One file is one recipe. An ablation is one more file with one line: a `dataclasses.replace` of an
existing recipe under a new name.
"""

from __future__ import annotations

from dataclasses import MISSING, asdict, dataclass, fields, replace
from typing import Any, Literal

from clipkd.core.registry import find, specs

Strength = Literal["flip", "crop", "randaugment", "full"]
STRENGTHS: tuple[Strength, ...] = ("flip", "crop", "randaugment", "full")
"""Augmentations, each with all that those before it do."""


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

    augment: Strength | Literal["auto"] = "flip"
    """What is done to training images. `crop`: RandomResizedCrop of 80 to 100 % of the area. `randaugment`: two of 15
    operations. `full`: random erasing, mixup or cutmix, label smoothing and drop path too. `auto`: by the
    student's size and the images that it sees (clipkd/runs/strength.py)."""
    warmup_start: float = 0.0
    """Share of the learning rate at which its linear rise begins."""
    floor: float = 0.0
    """Share of the learning rate at which the cosine ends."""
    cooldown_fraction: float = 0.0
    """Share of all steps, at the end, at that lowest learning rate."""
    standardised: bool = False
    """Teachers' embeddings get mean 0 and deviation 1 in each dimension, over the store; class scores, teacher's and
    student's, over the classes of an image (S. Sun et al., https://arxiv.org/abs/2403.01427)."""
    scores_weight: float | None = None
    """Of `vanilla`'s term; None: w."""
    feature_weight: float | None = None
    """Of `feature-KD`'s term; None: w."""
    adds_feature: bool = False
    """`teacher-KD`: with `feature-KD`'s term too."""

    def weight(self, term: str) -> float:
        """Return the weight of a term of a loss, by its name."""
        own = {"distillation": self.scores_weight, "feature": self.feature_weight}.get(term)
        return self.distillation_weight if own is None else own

    def draws_views(self, crops: bool) -> bool:
        """Return whether students see more than flips and, where `crops` says that it has any, the dataset's own crops.

        Such views are drawn and made by clipkd/data/augmentation.py, at the student's size for its teacher too.
        """
        return self.augment not in ({"flip", "crop"} if crops else {"flip"})

    def of_strength(self, strength: Strength) -> Recipe:
        """Return the recipe at a strength of augmentation; drop path belongs to the full one."""
        return replace(self, augment=strength, drop_path=self.drop_path if strength == "full" else 0.0)

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
