"""Recipes: the switches in which the released code and the corrected mathematics differ.

One file is one recipe. Any recipe with other switches, or hyperparameters of its own, is a recipe too, without a file:
`[NAME=]BASE?SWITCH=VALUE&SWITCH=VALUE`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import MISSING, asdict, fields, replace
from functools import cache
from typing import Annotated, Any, Literal, TypeAlias, get_args, get_type_hints

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from clipkd.core.errors import InputError, nearest
from clipkd.core.refusals import reason
from clipkd.core.registry import find, specs

Epochs: TypeAlias = Annotated[int, Field(ge=1, le=100_000)]
BatchSize: TypeAlias = Annotated[int, Field(ge=2, le=1_000_000)]
LearningRate: TypeAlias = Annotated[float, Field(gt=0, le=10)]
WeightDecay: TypeAlias = Annotated[float, Field(ge=0, le=10)]
FINITE = ConfigDict(allow_inf_nan=False)
HYPERPARAMETERS = ("epochs", "batch_size", "learning_rate", "weight_decay")
"""Numbers of a run that a recipe may set itself."""
Share: TypeAlias = Annotated[float, Field(ge=0, le=1)]
Weight: TypeAlias = Annotated[float, Field(ge=0, le=1000)]
Strength = Literal["flip", "crop", "randaugment", "full"]
STRENGTHS: tuple[Strength, ...] = ("flip", "crop", "randaugment", "full")
"""Augmentations, each with all that those before it do."""


@dataclass(frozen=True, config=FINITE | ConfigDict(strict=True, use_attribute_docstrings=True))
class Recipe:
    """Each switch is one row of the table "where the released code differs" (docs/method.md)."""

    name: str
    student_output: Literal["probabilities", "logits"]
    """What the student's forward pass ends with; the released code applies a softmax."""
    distillation: Literal["soft-cross-entropy", "hinton"]
    """`vanilla`: cross-entropy with the teacher's probabilities, or KL at a temperature, times T^2."""
    temperature: Annotated[float, Field(gt=0, le=1000)]
    """T of Hinton's distillation (https://arxiv.org/abs/1503.02531), DKD and DIST; unused by soft-cross-entropy."""
    distillation_weight: Weight
    """w, the weight of the distillation or contrastive term (`clip_loss_weight`)."""
    logit_scale: Literal["none", "learnable"]
    """CLIP's temperature on the cosines: none, or learnable from 1/0.07, clamped at 100 after each step."""
    projection: Literal["teacher", "student"]
    """Which side the linear `cluster_projection` stands on."""
    prototype_form: Annotated[str, Field(max_length=40, pattern="^[a-z0-9-]+$")]
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
    warmup_fraction: Share
    """Share of all steps in which the learning rate rises linearly from 0 (cosine only)."""
    weight_decay_on: Literal["all", "matrices"]
    """Everything, or only weight matrices: no biases, normalisations, embeddings, scale."""
    drop_last: bool
    """Leave out the incomplete last batch of an epoch."""
    selection: Literal["test", "validation"]
    """Which split chooses the best epoch. With `validation` that split is held out of training."""
    protocol: int
    """Bumped by hand when a numerical change to this recipe must run its students again."""
    drop_path: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of images for which a residual branch is left out in training: in the last block; from 0 in the first."""

    augment: Literal[Strength, "auto"] = "flip"
    """What is done to training images. `crop`: RandomResizedCrop of 80 to 100 % of the area. `randaugment`: two of 15
    operations. `full`: random erasing, mixup or cutmix, label smoothing and drop path too. `auto`: by the
    student's size and the images that it sees (clipkd/spec/strength.py)."""
    warmup_start: Share = 0.0
    """Share of the learning rate at which its linear rise begins."""
    floor: Share = 0.0
    """Share of the learning rate at which the cosine ends."""
    cooldown_fraction: Share = 0.0
    """Share of all steps, at the end, at that lowest learning rate."""
    standardised: bool = False
    """Teachers' embeddings get mean 0 and deviation 1 in each dimension, over the store; class scores, teacher's and
    student's, over the classes of an image, if there are more than two (S. Sun et al.,
    https://arxiv.org/abs/2403.01427)."""
    scores_weight: Weight | None = None
    """Of `vanilla`'s term; None: w."""
    feature_weight: Weight | None = None
    """Of the term of `feature-KD` and of `feature-KD-mse`; None: w."""
    adds_feature: bool = False
    """`teacher-KD`: with `feature-KD`'s term too."""
    classification_weight: Weight = 1.0
    """Of the cross-entropy with the labels, beside the teacher's terms; unused by `supervised`, which has no others."""
    labelled_share: Annotated[float, Field(ge=0, le=0.9)] = 1 / 8
    """Where not all images are labelled: the least share of labelled ones in a batch. They are repeated within an epoch
    until they are so many. By default as in FixMatch (K. Sohn et al., https://arxiv.org/abs/2001.07685), seven
    unlabelled images for each labelled one."""
    epochs: Epochs | None = None
    """Epochs of its runs, in place of `training.epochs`."""
    batch_size: BatchSize | None = None
    """Images per training step, in place of `training.batch_size`."""
    learning_rate: LearningRate | None = None
    """AdamW's learning rate, in place of `training.learning_rate`."""
    weight_decay: WeightDecay | None = None
    """AdamW's weight decay, in place of `training.weight_decay`."""
    float32_by_default: bool = False
    """`training.precision: auto` is fp32 on every machine."""

    def weight(self, term: str) -> float:
        """Return the weight of a term of a loss, by its name."""
        own = {
            "classification": self.classification_weight,
            "distillation": self.scores_weight,
            "feature": self.feature_weight,
        }.get(term)
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
        Hyperparameters, and so the precision, are written beside them, with those that no recipe sets.
        """
        later = {field.name: field.default for field in fields(self) if field.default is not MISSING}
        beside = (*HYPERPARAMETERS, "float32_by_default")
        values = {name: value for name, value in asdict(self).items() if name not in beside}
        return {name: value for name, value in values.items() if name not in later or value != later[name]}

    def hyperparameters(self) -> dict[str, Any]:
        """Return the hyperparameters that the recipe sets itself."""
        return {name: value for name in HYPERPARAMETERS if (value := getattr(self, name)) is not None}


FIXED = ("name", "protocol", "float32_by_default")
"""What a recipe without a file can't set."""
KINDS: dict[str, Any] = {
    name: get_args(hint)[0] if type(None) in get_args(hint) else hint
    for name, hint in get_type_hints(Recipe, include_extras=True).items()
    if name not in FIXED and not name.startswith("__")
}
"""Switch or hyperparameter -> its type and range."""
DESCRIPTIONS: dict[str, str] = {
    name: field.description or ""
    for name, field in Recipe.__pydantic_fields__.items()  # type: ignore[attr-defined]
}
"""Switch or hyperparameter -> what it is."""
NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,149}")
"""Of a recipe without a file: it is a part of paths."""
OF_COSINE = ("warmup_fraction", "warmup_start", "floor", "cooldown_fraction")


SPEC_CLASS = Recipe
"""Of what other distributions add (clipkd/core/registry.py)."""


def names() -> list[str]:
    """Return the names of the recipes that have a file of their own."""
    return list(specs(__name__))


@cache
def get(name: str) -> Recipe:
    """Return the recipe that `[NAME=]BASE[?SWITCH=VALUE&...]` names, case of BASE ignored.

    Raises:
        InputError: a part is unknown, or a value is not one; names the nearest known one.
    """
    given_name, base, values = parsed(name)
    found: Recipe = find(__name__, "recipe", base)
    if not given_name and not values:
        return found
    own = given_name or setting_name(found.name, values)
    if not NAME.fullmatch(own):
        raise InputError(f"recipe name '{own}': use lowercase letters, digits, '-', '_' and '.', 150 at most")
    if own in names():
        raise InputError(f"recipe '{name}': '{own}' is the name of a built-in recipe; choose another name")
    recipe = replace(found, name=own, **values)
    refuse_idle(recipe, values)
    return recipe


@cache
def of_strength(name: str, strength: Strength | None) -> Recipe:
    """Return the recipe `name`; where it leaves its strength open and one is given, at that strength."""
    recipe = get(name)
    return recipe.of_strength(strength) if strength and recipe.augment == "auto" else recipe


def fixed(name: str, strength: Strength) -> str:
    """Return a recipe as the command line takes it, `augment: auto` replaced by a strength."""
    given_name, base, values = parsed(spelled(name))
    if strength != "full":
        values.pop("drop_path", None)  # has no effect below it, and is refused
    return text(given_name, base, values | {"augment": strength})


def name_in(spelling: str) -> str:
    """Return the name in folders and tables of a recipe as cells hold it; it need not be known here."""
    given_name, base, values = parsed(spelling)
    return given_name or setting_name(base, values)


def parsed(name: str) -> tuple[str, str, dict[str, Any]]:
    """Return NAME ("": none), BASE and the values of `[NAME=]BASE[?SWITCH=VALUE&...]`."""
    head, mark, rest = name.partition("?")
    given_name, names, base = head.rpartition("=")
    values: dict[str, Any] = {}
    for pair in rest.split("&") if mark else ():
        switch, equals, text = pair.partition("=")
        if not equals:
            raise InputError(f"recipe '{name}': write ?SWITCH=VALUE&SWITCH=VALUE after its base, not '{pair}'")
        if switch not in KINDS:
            raise InputError(f"recipe '{name}': unknown switch '{switch}'{nearest(switch, KINDS)}")
        if switch in values:
            raise InputError(f"recipe '{name}': '{switch}' is given twice")
        try:
            values[switch] = TypeAdapter(KINDS[switch], config=FINITE).validate_strings(text)
        except ValidationError as error:
            raise InputError(f"recipe '{name}': {switch}: {reason(error.errors(include_url=False)[0])}") from None
    if names and not given_name:
        raise InputError(f"recipe '{name}': a name stands before the =, as in mine={base}")
    return given_name, base, values


def refuse_idle(recipe: Recipe, values: Mapping[str, Any]) -> None:
    """Raise InputError where a value would change nothing, or two can't be used together."""
    idle = [name for name in OF_COSINE if name in values and recipe.schedule == "constant"]
    if idle:
        raise InputError(f"recipe '{recipe.name}': {' and '.join(idle)} would have no effect with schedule 'constant'")
    if values.get("warmup_start") and not recipe.warmup_fraction:
        raise InputError(f"recipe '{recipe.name}': warmup_start has no effect without warmup_fraction")
    if values.get("drop_path") and recipe.augment not in {"auto", "full"}:
        raise InputError(
            f"recipe '{recipe.name}': drop_path belongs to augment 'full' (or 'auto') and has no effect with augment "
            f"'{recipe.augment}'"
        )
    if recipe.warmup_fraction + recipe.cooldown_fraction > 1:
        raise InputError(f"recipe '{recipe.name}': warmup_fraction and cooldown_fraction are more than 1 together")


def spelled(name: str) -> str:
    """Return what stands for a recipe in cells: its key or, without a file of its own, its one spelling."""
    given_name, base, values = parsed(name)
    return text(given_name, get(base).name, values)


def text(name: str, base: str, values: Mapping[str, Any]) -> str:
    """Return a recipe as the command line takes it; `name` "": none of its own."""
    options = "&".join(f"{switch}={written(values[switch])}" for switch in KINDS if switch in values)
    return "".join([name, "=" if name else "", base, "?" if options else "", options])


def setting_name(name: str, values: Mapping[str, Any]) -> str:
    """Return the name of a recipe with some switches set: `NAME.SWITCH-VALUE`, switches in a fixed order."""
    return ".".join([name, *(f"{switch}-{written(values[switch])}" for switch in KINDS if switch in values)])


def written(value: Any) -> str:
    """Return a value in its one spelling: 2.0 as 2, 6e-4 as 0.0006."""
    return str(value).lower() if isinstance(value, bool) else str(value).removesuffix(".0")
