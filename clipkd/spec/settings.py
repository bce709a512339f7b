"""Every key of a config: one field is its name, type, range, default, help text and command-line flag. No torch here.

The JSON schema (workflow/schemas/config.schema.yaml), the table in config/README.md, the options of `clipkd` and the
flags that the workflow's rules pass are all made from these fields. A new key is a new field here, and its use.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, TypeAlias, get_args

from pydantic import AfterValidator, BeforeValidator, Field, PlainValidator, PrivateAttr, WithJsonSchema

from clipkd.plugins import teachers
from clipkd.plugins.recipes import BatchSize, Epochs, LearningRate, Recipe, WeightDecay
from clipkd.spec.class_names import Given
from clipkd.spec.fields import Settings, distinct, setting
from clipkd.spec.own_recipes import OwnRecipe, named
from clipkd.spec.prompts import TEMPLATES

TeacherSource = Literal["cached", "live", "lazy", "replayed"]
"""`cached`: stored before training. `live`: the teacher in every step. `lazy`: the teacher when a view comes up for
the first time, kept from then on. `replayed`: only views that were stored, where there are endlessly many."""
StudentPrecision = Literal["auto", "fp32", "tf32", "bf16"]
TeacherPrecision = Literal["float32", "tf32", "bfloat16", "float16"]
"""In which a teacher multiplies matrices; the reduced ones change what it says, and so are another store."""
StoreDtype = Literal["int16", "float16", "float32"]
Device = Literal["auto", "cpu", "cuda"]
MeasureName = Literal["agreement", "calibration", "classes", "corruptions", "knn", "probe", "speed"]
"""Files in clipkd/export/measures/."""


def all_measures(value: Any) -> Any:
    """Return a list of measures, where `all` stands for every one."""
    return list(get_args(MeasureName)) if value in ("all", ["all"]) else value


def per_class(value: Any) -> int | Literal["all"]:
    """Return a number of images per class, or `all`."""
    if value != "all" and (isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 100_000):
        raise ValueError("is not a whole number from 1 to 100000, or 'all'")
    return value


def labels(value: Any) -> int | Literal["all", "none"]:
    """Return a number of labelled images, `all` or `none`."""
    is_word = value in ("all", "none")
    if not is_word and (isinstance(value, bool) or not isinstance(value, int) or not 3 <= value <= 10**9):
        raise ValueError("is not a whole number from 3 to 1000000000, 'all' or 'none'")
    return value


def class_names(value: Any) -> Given:
    """Return class names as a config gives them; what they are is checked where they are read."""
    texts = list(value) if isinstance(value, dict | list) else [value]
    texts += list(value.values()) if isinstance(value, dict) else []
    if not texts or not all(isinstance(text, str) and 0 < len(text) <= 1000 for text in texts):
        raise ValueError("is not a file, a map from classes to names, or a list of names")
    return value


def own_head(value: str) -> str:
    """Return where a teacher's class scores come from."""
    if not teachers.HEADS.fullmatch(value):
        raise ValueError("is not 'own' or 'own@DATASET'; leave it out for a linear probe")
    return value


Seed: TypeAlias = Annotated[int, Field(ge=0, le=2**32 - 1)]
"""What both torch and numpy take."""
Name: TypeAlias = Annotated[str, Field(min_length=1, max_length=1000)]
Names: TypeAlias = Annotated[list[Name], Field(min_length=1), AfterValidator(distinct)]
Template: TypeAlias = Annotated[str, Field(min_length=3, max_length=300, pattern=r"^[^{}]*\{\}[^{}]*$")]
Key: TypeAlias = Annotated[str, Field(pattern="^[a-z0-9][a-z0-9-]{0,62}$")]
PerClass: TypeAlias = Annotated[
    int | Literal["all"],
    PlainValidator(per_class),
    WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 1, "maximum": 100_000}, {"const": "all"}]}),
]
Labels: TypeAlias = Annotated[
    int | Literal["all", "none"],
    PlainValidator(labels),
    WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 3, "maximum": 1_000_000_000}, {"enum": ["all", "none"]}]}),
]
ClassNamesGiven: TypeAlias = Annotated[
    str | dict[str, str] | list[str],
    PlainValidator(class_names),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string"},
                {"type": "object", "additionalProperties": {"type": "string"}},
                {"type": "array", "items": {"type": "string"}},
            ]
        }
    ),
]


class Block(Settings):
    """A block of the grid."""

    name: str = setting(..., "What the block is for; used in messages only.", pattern="^[A-Za-z0-9 _-]{1,60}$")
    datasets: Names = setting(
        ..., "Names of datasets (clipkd/plugins/datasets/), or of image folders given under `sources`."
    )
    teachers: Annotated[list[Name], AfterValidator(distinct)] = setting(
        list,
        "Names of teachers (clipkd/plugins/teachers/, or keys of `teachers`), `owner/model@commit` on the Hugging Face "
        "hub, folders, or `timm:MODEL?pretrained=FILE`. A suffix says which output is used: `:cls`, `:mean`, "
        "`:pooler`, `:text`, `:pooled` or `:logits`. `A+B`: several teachers at once; "
        "`A+B?weights=2,1&standardise=true`: with these weights of their losses, each dimension of their embeddings at "
        "mean 0 and deviation 1. May be left out where no train type has a teacher.",
    )
    students: Names = setting(
        ...,
        "Names of students (clipkd/plugins/students/), or `timm:MODEL@PIXELS` for any timm model; `?pretrained=` after "
        "it names its initial weights: a safetensors file, or `owner/model@commit`.",
    )
    train_types: Names = setting(..., "Names of train types (clipkd/plugins/methods/).")
    recipes: Names = setting(
        ...,
        "Names of recipes (clipkd/plugins/recipes/, or keys of `recipes`), or `RECIPE?SWITCH=VALUE&SWITCH=VALUE`.",
    )
    seeds: Annotated[list[Seed], Field(min_length=1), AfterValidator(distinct)] = setting(
        ..., "One student is trained per seed; tables show mean, standard deviation and n."
    )
    labels: Annotated[list[Labels], Field(min_length=1), AfterValidator(distinct)] = setting(
        lambda: ["all"],
        "Labelled images: `all`, or so many of a dataset's training images, evenly over the classes and chosen by the "
        "run's seed. A fifth of them is for validation. The other training images are shown without their labels, to "
        "train types whose teacher is asked about images. `none`: no label at all, for train types that compare "
        "embeddings; also for folders of images without any (docs/few-labels.md).",
        "--labels",
    )
    teacher_source: TeacherSource = setting(
        "cached",
        "Where the teacher's signal comes from. `cached`: the stored embeddings. `live`: the teacher runs on every "
        "batch, to measure what that costs. `lazy`: it runs once per view, during training. Runs with `live` and "
        "`lazy` have a folder of their own (`<train type>-live`) and are listed in the cost tables only. `replayed`: "
        "the student sees nothing but the `embeddings.views` random views per image whose embeddings are stored; for "
        "recipes that augment more than by flips, where `cached` means the same, and for datasets with random crops. "
        "With `replayed`, train types that need no embeddings of views (`supervised`, `embed-KD` and its controls) are "
        "trained on the same views.",
        "--teacher-source",
    )
    epochs: Epochs | None = setting(None, "Epochs of this block's runs, in place of `training.epochs`.")


class Hyperparameters(Settings):
    """The numbers of a run (the paper's: docs/method.md)."""

    epochs: Epochs = setting(200, "Passes over the training images.", "--epochs")
    batch_size: BatchSize = setting(64, "Images per training step.", "--batch-size")
    learning_rate: LearningRate = setting(1e-4, "AdamW's learning rate.", "--learning-rate")
    weight_decay: WeightDecay = setting(0.1, "AdamW's weight decay.", "--weight-decay")
    precision: StudentPrecision = setting(
        "auto",
        "Number format of the students' matrix products: `fp32`; `bf16` (autocast; normalisation, softmax, losses "
        "and weights stay fp32); `tf32`, for GPUs; or `auto`: bf16 on a GPU that has it; on a CPU that is measured "
        "to be faster in it, for students of clipkd's own (timm's may be slower in it); else fp32. Always fp32 for "
        "recipe `reference` and those based on it, which keep the released code's numbers. On a GPU, products that "
        "`bf16` leaves in float32 (losses, evaluation) are in TF32. A run folder that holds a run in some format is "
        "continued, or complete, in that one. The format that `auto` chose is part of a run's identity: for one grid"
        " on machines that differ, name one.",
        "--precision",
    )

    def of_recipe(self, recipe: Recipe) -> Hyperparameters:
        """Return the numbers of the recipe's runs: its own in place of these."""
        return self.model_copy(update=recipe.hyperparameters() | {"precision": self.precision_of(recipe)})

    def precision_of(self, recipe: Recipe) -> StudentPrecision:
        """Return the precision of the recipe's runs; `auto` where the machine that trains chooses."""
        return "fp32" if self.precision == "auto" and recipe.float32_by_default else self.precision


class Training(Hyperparameters):
    """How students are trained; the paper's values are in config/config.yaml."""

    device: Device = setting("auto", "`auto` (a GPU where there is one), `cpu` or `cuda`.", "--device")
    stack: int = setting(
        8,
        "Students of one dataset, recipe and shape that a job of the workflow trains, whatever their train types, "
        "teachers and seeds: on a GPU computed at once, on a CPU each in a process of its own. 1: a job each.",
        ge=1,
        le=1000,
    )
    scratch: str | None = setting(
        None,
        "A folder on the disk of the machine that trains, as `/local/$USER` or `$TMPDIR` (variables are those of the "
        "job). Trainings copy the images and embeddings that they read into it, once per machine, and read the copies; "
        "results stay the same. Without it, or without room there, they are read where they lie.",
        min_length=1,
        max_length=1000,
    )


class EmbeddingSettings(Settings):
    """How teacher embeddings are extracted and stored."""

    dtype: StoreDtype = setting(
        "int16",
        "Number format of stored embeddings. `int16`: codes on a grid per dimension, 2 bytes a number and finer than "
        "`float16`; `float32`: exact, 4 bytes.",
        "--embed-dtype",
    )
    precision: TeacherPrecision = setting(
        "float32",
        "Number format of the teachers' matrix products, stored and live; normalisation and softmax stay in float32."
        " `tf32`, `bfloat16` and `float16` are meant for GPUs. They change embeddings (`bfloat16` in the third "
        "digit), and so have stores of their own.",
        "--embed-precision",
    )
    views: int = setting(
        10,
        "K: views of each training image that `teacher_source: replayed` stores and trains on.",
        "--views-per-image",
        ge=1,
        le=1000,
    )
    shards: int = setting(
        1,
        "Jobs that `snakemake extract_shards` divides each extraction into, for a cluster to run side by side; the "
        "store is the same for any number.",
        ge=1,
        le=10_000,
    )
    batch_size: int = setting(64, "Images per teacher pass.", "--embed-batch-size", ge=1, le=100_000)


class PrototypeSettings(Settings):
    """How class prototypes are made."""

    per_class: PerClass = setting(
        100,
        "Training images per class that prototypes are made of, at most (the paper uses 100), or `all`. A class with "
        "fewer gives all of its images.",
        "--per-class",
    )
    form: str | None = setting(
        None,
        "What a class prototype is, in place of the recipe's own form: `mean`, `unit-mean`, `kmeans-K` (K vectors per "
        "class) or `gaussian`.",
        "--prototype-form",
        max_length=40,
    )
    templates: Annotated[list[Template], Field(min_length=1, max_length=1000), AfterValidator(distinct)] = setting(
        lambda: list(TEMPLATES),
        "Sentences that class names are put into for a text tower, `{}` in place of the name.",
        "--template",
    )
    seed: Seed = setting(0, "Seed of the images and flips that prototypes are made of.", "--prototype-seed")


class OwnTeacher(Settings):
    """A teacher of the user's own. Text in its place is its model."""

    model: Annotated[str, Field(min_length=1, max_length=500)] = setting(
        ..., "The teacher: `owner/model@commit`, a folder, ... (docs/own.md)."
    )
    head: Annotated[str, AfterValidator(own_head)] | None = setting(
        None,
        "Where its class scores (`vanilla`) come from. Without it: a linear probe on its embeddings. `own`: the "
        "checkpoint's own classifier, its classes matched with the dataset's by name, in whatever order; classes that "
        "do not match are refused. `own@DATASET`: on that dataset only.",
    )

    @property
    def name(self) -> str:
        """The teacher as the command line takes it."""
        return self.model if self.head is None else f"{self.model}{'&' if '?' in self.model else '?'}head={self.head}"


def model_of(value: Any) -> Any:
    """Return what a key of `teachers` holds as a map."""
    return {"model": value} if isinstance(value, str) else value


TeacherGiven: TypeAlias = Annotated[OwnTeacher, BeforeValidator(model_of, json_schema_input_type=str | OwnTeacher)]


class Config(Settings):
    """Every key of config/config.yaml. Unknown keys are errors."""

    grid: Annotated[list[Block], Field(min_length=1)] = setting(
        ...,
        "The students to train: a list of blocks. A block means every combination of its axes; a run that two blocks "
        "ask for is trained once. A config file that has this key replaces the whole list of the file before it.",
    )
    training: Training = setting(Training, "How students are trained; the paper's values are in config/config.yaml.")
    embeddings: EmbeddingSettings = setting(EmbeddingSettings, "How teacher embeddings are extracted and stored.")
    prototypes: PrototypeSettings = setting(PrototypeSettings, "How class prototypes are made.")
    teachers: dict[Key, TeacherGiven] = setting(
        dict,
        "Short names for your own teachers: `owner/model@commit` or a folder, with a suffix for the output (`:cls`, "
        "`:mean`, `:pooler`; `:text`, the text tower of a CLIP or SigLIP, which reads class names); or "
        "`embeddings:FOLDER-or-FILE`, vectors that somebody else computed; or a map with `model`, the same text, and "
        "more keys (below).",
    )
    recipes: dict[Key, OwnRecipe] = setting(
        dict,
        "Your own recipes: `base`, and the switches and hyperparameters that differ. A list of values makes the recipe "
        "a sweep: a name of it in a grid means one run for each combination of its lists (docs/sweeps.md).",
    )
    evaluation: Annotated[list[MeasureName], BeforeValidator(all_measures), AfterValidator(distinct)] = setting(
        list,
        "Measures of every trained student beside its accuracy (docs/evaluation.md), for a table, the report and "
        "runs.csv: `agreement`, `calibration`, `classes`, `corruptions`, `knn`, `probe`, `speed`; or `all`.",
    )
    sources: dict[Key, Annotated[str, Field(min_length=1)]] = setting(
        dict,
        "Where a dataset's data are, if not at the official place: a base URL or an archive for CIFAR; a folder with "
        "train/ and val/ for ImageNet and for any folder of images (its key is then a dataset's name); "
        "`torchvision:NAME` or `hub:OWNER/NAME@COMMIT` (docs/own.md).",
    )
    class_names: dict[Key, ClassNamesGiven] = setting(
        dict,
        "What the classes of a dataset are called, where its own names are ids or numbers: a map from each class (of "
        "images in folders, the folder's name) to its name, a list in the order of the classes, or a YAML or JSON file "
        "with one of these, beside this config file. For text towers, predictions and figures.",
    )

    _lines: tuple[str, ...] = PrivateAttr(())
    """File and line of each block of the grid, where it was read from a file that people write."""

    def __eq__(self, other: object) -> bool:
        """Return whether the settings are equal, wherever they were read."""
        return isinstance(other, Config) and self.__dict__ == other.__dict__

    def with_lines(self, lines: Sequence[str]) -> Config:
        """Return the config with the file and line of each block of its grid, for errors."""
        found = self.model_copy()
        found._lines = tuple(lines)
        return found

    def place(self, number: int) -> str:
        """Return where a block of the grid is, for errors: file and line where they are known, key and name."""
        line = f"{self._lines[number]}: " if self._lines else ""
        return f"{line}grid[{number}] ('{self.grid[number].name}')"

    def resolved(self, teacher: str) -> str:
        """Return a teacher as the command line takes it: a key of `teachers` becomes NAME=WHERE."""
        return teachers.resolved(teacher, {key: own.name for key, own in self.teachers.items()})

    def named_recipes(self, name: str) -> list[str]:
        """Return the recipes that a name in the grid stands for, as the command line takes them."""
        return named(name, self.recipes)

    def recipes_of(self, block: Block) -> list[str]:
        """Return the recipes of a block of the grid, as the command line takes them."""
        return [recipe for name in block.recipes for recipe in self.named_recipes(name)]

    def hyperparameters(self, epochs: int) -> Hyperparameters:
        """Return the numbers of a run of so many epochs; `precision` as it is given, which may be `auto`."""
        given = {name: getattr(self.training, name) for name in Hyperparameters.model_fields}
        return Hyperparameters(**given | {"epochs": epochs})

    def source(self, dataset: str) -> str | None:
        """Return where a dataset's data are; None: at the official place."""
        return self.sources.get(dataset.lower())
