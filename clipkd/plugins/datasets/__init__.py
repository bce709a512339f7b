"""Datasets: one file is one dataset. The metadata here imports neither torch nor an image library."""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from clipkd.core.artifacts import MANIFEST, read_manifest
from clipkd.core.errors import DataError, InputError
from clipkd.core.fingerprint import Identity
from clipkd.core.registry import find, specs

PROTOCOL = 1
"""Bumped when the packed arrays of an unchanged source change."""
DECODING = 3
"""Bumped when image files become other pixels: in folders, on the hub and in torchvision."""
THUMBNAILS_PROTOCOL = 1
"""Bumped when the thumbnails of an unchanged dataset change."""

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


SCHEMES = {"torchvision": "clipkd.plugins.datasets.torchvision_source", "hub": "clipkd.plugins.datasets.hub"}
"""What a source may begin with, `scheme:where`, and the module that knows it."""


Augmentation = Literal["none", "flip", "crop", "crop+flip"]


@dataclass
class Split:
    """One official split as it is read from its source."""

    labels: np.ndarray
    """Class numbers, int64 [N]."""
    images: Iterable[np.ndarray]
    """N images in the order of `labels`, uint8 [H, W, 3]."""
    names: list[str] | None = None
    """The file of each image, relative to the dataset's folder, with `/`; None: images have no files of their own."""


@dataclass
class Reading:
    """A dataset as it is read from its source, before it is packed."""

    classes: list[str]
    train: Split
    test: Split
    facts: dict[str, Any] = field(default_factory=dict)
    """Anything worth keeping in the manifest."""
    validation: np.ndarray | None = None
    """Rows of `train` that the source holds out to choose epochs, int64; None: a share of each class is drawn."""
    complete: Callable[[], dict[str, Any]] = dict
    """Called when all images were read: returns further facts, or raises DataError, naming all that are damaged."""


@dataclass(frozen=True)
class LocalFiles:
    """Files that a dataset is read from: they may change after it was packed."""

    base: Path
    """A folder."""
    names: tuple[str, ...]
    """What of it is read, if it is there: files, and folders with all below them."""


@dataclass(frozen=True)
class DatasetSpec:
    """What is known of a dataset before it is downloaded."""

    name: str
    title: str
    image_size: int | None
    """Side of every image in pixels; None where the sizes differ."""
    classes: int | None
    """Number of classes; None where only the data tell."""
    mean: tuple[float, float, float]
    """The student's normalisation, in units of [0, 1]."""
    std: tuple[float, float, float]
    augmentation: Augmentation
    """What is done to training images at random: `flip` mirrors half of them, `crop` cuts out a region (torchvision's
    RandomResizedCrop)."""
    validation_fraction: float
    """Share of each class of the training split that is held out to choose epochs and probes."""
    needs_source: bool = False
    """True where the user must say where the data are."""
    validation_least: int = 0
    """More than the fraction is held out, a tenth at most, where that would be fewer images."""
    comes_with: str = ""
    """What the data are a part of, for a dataset that has no other source; "": the user may name one."""

    def __post_init__(self) -> None:
        if self.augmentation not in get_args(Augmentation):
            known = ", ".join(get_args(Augmentation))
            raise InputError(f"dataset '{self.name}': augmentation '{self.augmentation}' is not one of {known}")

    def source_identity(self) -> Identity:
        """Return what the bytes of the source are, as far as it is known before reading them."""
        raise NotImplementedError

    def read(self, source: str | None, downloads: Path) -> Reading:
        """Read the dataset from `source` (a URL, file or folder; None: the official place).

        Args:
            source: where the data are.
            downloads: a folder for files that are fetched.

        Raises:
            InputError, DataError, MachineError: as the source is wrong, damaged or out of reach.
        """
        raise NotImplementedError

    def listing(self, downloads: Path) -> Path | None:
        """Return the file that `fetch` writes; None: only packing the dataset downloads what it needs.

        Args:
            downloads: a folder for files that are fetched.
        """
        return None

    def fetch(self, downloads: Path) -> None:
        """Download what `read` needs, which then needs no internet; only of datasets with a `listing`.

        Raises:
            InputError, DataError, MachineError: as the source is wrong, damaged or out of reach.
        """
        raise NotImplementedError

    def of_source(self, source: str) -> DatasetSpec:
        """Return the dataset with the options that a source has; this one where it has none."""
        return self

    def folder(self, source: str | None) -> Path | None:
        """Return the folder of a source whose content nothing but reading it tells; None: there is no such folder."""
        return None

    def local_files(self, source: str | None) -> LocalFiles | None:
        """Return the files of a source on this machine that nothing pins; None: there are none."""
        return None

    def remarks(self, source: str | None) -> list[str]:
        """Return what a user should know of the source before it is read, one line each."""
        return []

    def check_source(self, source: str | None) -> None:
        """Raise what reading would raise, as far as a look at the source without reading it tells.

        Raises:
            InputError, DataError: as the source is wrong.
        """

    def leaves_unlabelled(self, source: str | None) -> bool:
        """Return whether a look at the source, without reading it, tells that some of its images have no label."""
        return False

    @property
    def counts(self) -> tuple[int, int] | None:
        """How many training images there are and how many of them are held out; None: only packing the data tells."""
        return None

    def has_fewer_images(self, source: str | None, count: int) -> bool:
        """Return whether a look at the source, without reading it, tells that fewer training images are there."""
        return False

    def known_classes(self, source: str | None) -> list[str] | None:
        """Return the class names where they are known before the dataset is read; None: only reading it tells."""
        return None

    def identity(self) -> Identity:
        """Return what makes the packed dataset."""
        return {
            "dataset": self.name,
            "source": self.source_identity(),
            "validation_fraction": self.validation_fraction,
            "protocol": PROTOCOL,
        } | ({"validation_least": self.validation_least} if self.validation_least else {})

    @property
    def mean_colour(self) -> tuple[int, int, int]:
        """The mean as an 8-bit colour: what a rotated or shifted image is filled with."""
        red, green, blue = (min(255, round(255 * mean)) for mean in self.mean)
        return red, green, blue

    @property
    def crops(self) -> bool:
        """Whether students train on random crops, so that no view comes twice."""
        return self.augmentation.startswith("crop")

    @property
    def mirrors(self) -> bool:
        """Whether half of the training images are mirrored."""
        return self.augmentation.endswith("flip")

    @property
    def has_thumbnails(self) -> bool:
        """Whether students are shown thumbnails of the packed images: random crops are cut from these."""
        return self.crops

    def training_identity(self) -> Identity:
        """Return what makes a student of this dataset besides its images: an augmentation that is not the usual one."""
        return {} if self.augmentation == usual_augmentation(self.image_size) else {"augmentation": self.augmentation}

    def thumbnails_identity(self, side: int) -> Identity:
        """Return what makes the thumbnails for students with an input of `side` pixels."""
        return {"dataset": self.identity(), "side": side, "protocol": THUMBNAILS_PROTOCOL}


def usual_augmentation(image_size: int | None) -> Augmentation:
    """Return what is done to training images where nobody says otherwise."""
    return "crop+flip" if image_size is None else "flip"


def is_local(source: str | None) -> bool:
    """Return whether a source is a folder or file of the user's, so that packing it needs no internet."""
    return source is not None and "://" not in source and not source.startswith(tuple(f"{name}:" for name in SCHEMES))


DOWNLOADS = ".downloads"
"""A folder beside the packed datasets: files that are fetched before they are packed."""
SPEC_CLASS = DatasetSpec
"""Of what other distributions add (clipkd/core/registry.py)."""


def names() -> list[str]:
    """Return the names of the datasets that have a file of their own."""
    return list(specs(__name__))


def get(name: str, source: str | None = None) -> DatasetSpec:
    """Return the dataset `name`, case ignored.

    A name without a file of its own is what the user says where it lies: a folder of images, `torchvision:NAME`,
    or `hub:OWNER/NAME@COMMIT`.

    Raises:
        InputError: the name is unknown, the source is none, or the dataset takes none.
    """
    known = {spec.lower() for spec in names()}
    if source is not None and str(name).lower() not in known:
        if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,62}", name):
            raise InputError(f"dataset name '{name}': use small letters, digits and '-', 63 at most")
        scheme, colon, where = source.partition(":")
        module = SCHEMES.get(scheme) if colon else None
        if module is not None:
            return importlib.import_module(module).from_source(name, where)
        from clipkd.plugins.datasets.image_folder import ImageFolder

        return ImageFolder(name=name, title=name).of_source(source)
    try:
        spec = find(__name__, "dataset", name)
    except InputError as error:
        hint = "say where a dataset of your own is: under `sources` in a config, with --dataset-source in a command"
        raise InputError(f"{error}; {hint}") from None
    if source is not None and spec.comes_with and not is_packed(spec, source):
        raise InputError(
            f"dataset '{spec.name}' is part of {spec.comes_with} and takes no source: leave out '{source[:200]}', "
            "or give your own data another name"
        )
    return spec if source is None else spec.of_source(source)


def path_of(source: str) -> str:
    """Return the path that a source names, without its options; a file or folder may have a `?` in its name itself."""
    whole = os.path.expanduser(source)
    ends = [len(whole), *(place for place in reversed(range(len(whole))) if whole[place] == "?")]
    return next((whole[:end] for end in ends if os.path.exists(whole[:end])), whole.partition("?")[0])


def is_packed(spec: DatasetSpec, source: str) -> bool:
    """Return whether a source is the packed dataset itself, which stands for what it was packed from."""
    folder = Path(source)
    return folder.name == spec.name and os.path.isfile(folder / MANIFEST)


def refuse_other_source(spec: DatasetSpec, packed: Path, source: str | None) -> None:
    """Raise InputError if `source` is a different folder than the dataset in `packed` was packed from.

    Only if both exist: packed data can be used without the originals, as after `dvc pull`. A damaged dataset is
    not checked: it is packed again.
    """
    given = spec.folder(source)
    if given is None or not os.path.isdir(given) or not (packed / MANIFEST).exists():
        return
    try:
        fact = read_manifest(packed)["facts"].get("source")  # older manifests have no such fact
    except DataError:
        return
    if fact is None or not os.path.isdir(fact["path"]):
        return
    same = (Path(fact["path"]), packed.resolve() / fact["from_here"], packed)
    if not any(os.path.isdir(path) and path.samefile(given) for path in same):
        raise InputError(
            f"dataset '{spec.name}' was packed from {fact['path']}, not from {given}: delete {packed} to pack it "
            "again, or give the folder another name"
        )
