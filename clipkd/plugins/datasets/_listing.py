"""Listing a folder of images, split by split: which files are images, of which class, and what is left out.

The folder is walked by device and inode, so that a link that leads back into it is not an endless loop and a folder
that is reached twice is noticed. No image is decoded here; a file whose name doesn't tell is opened for its header.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from clipkd.core.accents import composed, written_otherwise
from clipkd.core.errors import MOST_NAMED, DataError, InputError, all_at_once
from clipkd.core.files import printable
from clipkd.core.unlabelled import UNLABELLED
from clipkd.core.words import counted
from clipkd.plugins.datasets._labels_file import LABELS, classes_in, first_lines, has_labels_file, read_labels

NOT_DATA = {"__MACOSX", "Thumbs.db", "desktop.ini"}
"""What file managers leave behind, beside everything whose name begins with a dot."""
VALIDATION = ("val", "valid", "validation")
"""What the folder is called that is tested on or, beside `test`, chooses among epochs."""
UNLABELLED_FOLDERS = ("unlabeled", "unlabelled")
"""What the folder is called, beside those of the classes of `train`, whose images have no label."""
LOOP = ""
"""Owner of the folders above a dataset: a link to one of them is only a loop."""


@dataclass
class Listing:
    """The images of one split, in the order in which they are packed."""

    folder: Path
    classes: list[str] = field(default_factory=list)
    paths: list[Path] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    """Class numbers, one a path; UNLABELLED without a label."""
    lines: dict[str, int] = field(default_factory=dict)
    """Class -> the first line of the file of labels that names it; empty where folders name the classes."""

    def add(self, images: Sequence[Path], label: int) -> None:
        """Add images, all with one label."""
        self.paths += images
        self.labels += [label] * len(images)

    def named(self, name: str) -> str:
        """Return a class with the place that names it."""
        where = f" ({self.folder / LABELS}, line {self.lines[name]})" if name in self.lines else ""
        return printable(name) + where


@dataclass(frozen=True)
class Splits:
    """The folders of the splits of a dataset, by the names that they have."""

    train: str
    test: str
    validation: str | None
    """None: images of `train` are held out."""
    unused: tuple[str, ...]
    """What else lies beside them."""


def is_hidden(name: str) -> bool:
    """Return whether a file or folder is never data."""
    return name.startswith(".") or name in NOT_DATA


def folders_in(folder: Path) -> list[str]:
    """Return the names of what may be data among the folders in a folder, sorted; raise OSError where it can't."""
    with os.scandir(folder) as found:
        return sorted(entry.name for entry in found if os.path.isdir(entry.path) and not is_hidden(entry.name))


def class_folders(folder: Path) -> list[str]:
    """Return the names of the classes that a split's folder holds, in their order; raise OSError where it can't."""
    if has_labels_file(folder):
        return sorted(set(read_labels(folder / LABELS)[0].values()))
    return sorted(set(map(composed, folders_in(folder))) - set(UNLABELLED_FOLDERS))


def classes_of(folder: Path) -> Listing:
    """Return a split's classes, no image looked at.

    Raises:
        InputError: the file of labels is wrong, or names one class; names its lines.
        DataError: there are fewer than two class folders.
    """
    if has_labels_file(folder):
        labels, lines = read_labels(folder / LABELS)
        return Listing(folder, classes_in(folder, labels), lines=first_lines(labels, lines))
    found = {composed(name): folder / name for name in folders_in(folder) if name not in UNLABELLED_FOLDERS}
    refuse_few_classes(folder, found)
    return Listing(folder, sorted(found))


def unlabelled_folder(folder: Path) -> Path | None:
    """Return the folder of a dataset whose images have no labels at all, itself or its `train/`; None of another one.

    It holds images, or `unlabeled/`, and neither folders of classes nor a file of labels; nothing is there to test on.
    """
    from clipkd.core.images import is_image

    if not folder.is_dir():
        return None
    there = set(folders_in(folder))
    if there & {"test", *VALIDATION}:
        return None
    root = folder / "train" if "train" in there else folder
    inside = set(folders_in(root))
    has_any = bool(inside) or any(entry.is_file() and is_image(Path(entry.path)) for entry in os.scandir(root))
    return root if has_any and inside <= set(UNLABELLED_FOLDERS) and not has_labels_file(root) else None


def splits_of(folder: Path) -> Splits:
    """Return which folder is which split.

    Raises:
        InputError: there is no such folder, no train/ or no val/ or test/ in it, or two that are called alike.
    """
    if folder.is_file():
        raise InputError(f"{folder} is a file: name the folder that holds the images' train/ and val/")
    if not folder.is_dir():
        raise InputError(f"image folder {folder} does not exist{written_otherwise(folder)}")
    try:
        there = sorted(entry.name for entry in os.scandir(folder) if not is_hidden(entry.name))
    except OSError as error:
        raise InputError(f"image folder {folder} can't be listed ({error.strerror})") from None
    folders = [name for name in there if (folder / name).is_dir()]
    found = [name for name in VALIDATION if name in folders]
    has = f"; it has {', '.join(printable(name) + '/' for name in folders[:MOST_NAMED])}" if folders else ""
    if len(found) > 1:
        raise InputError(f"image folder {folder} has {' and '.join(f'{name}/' for name in found)}: keep one of them")
    missing = ["no train/"] if "train" not in folders else []
    missing += ["no val/ (nor valid/, validation/ or test/)"] if not found and "test" not in folders else []
    if missing:
        below = next((folder / name for name in folders if (folder / name / "train").is_dir()), None)
        meant = f": did you mean {printable(below)}?" if below else ""
        raise InputError(f"image folder {folder} has {' and '.join(missing)}{has}{meant}")
    used = {"train", "test", *found}
    unused = tuple(name for name in there if name not in used)
    if "test" not in folders:
        return Splits("train", found[0], None, unused)
    return Splits("train", "test", found[0] if found else None, unused)


class Walk:
    """One reading of a dataset's folder; it remembers every folder that was listed, over all splits."""

    def __init__(self, root: Path) -> None:
        self.seen: dict[tuple[int, int], tuple[str, Path]] = {}
        """Device and inode of each folder -> the class or split it was listed for, and its path."""
        self.problems: list[str] = []
        self.skipped: Counter[str] = Counter()
        """Files and folders that were left out: why -> how many."""
        for above in (root.resolve(), *root.resolve().parents):
            self.enter(above, LOOP)

    def split(self, folder: Path) -> Listing:
        """Return a split's images: `<class>/**/*`, classes and files in the order of their names, unlabelled ones last.

        With `labels.csv` in the folder that file says which image is of which class, and folders say nothing.

        Raises:
            InputError: the file of labels is wrong; names its lines.
            DataError: a folder can't be listed, is in two classes or splits, or its name isn't text; there are fewer
                than two classes. All problems are named at once, 20 at most.
        """
        if has_labels_file(folder):
            return self.by_file(folder)
        listing = Listing(folder)
        folders: dict[str, Path] = {}
        unlabelled: list[Path] = []
        if not self.enter(folder, str(folder)):
            self.refuse_problems()
            raise DataError(f"{printable(folder)} is a link to a folder above it")
        for entry in self.entries(folder):
            if is_hidden(entry.name):
                self.skipped["hidden, or made by a file manager"] += 1
            elif not os.path.isdir(entry.path):
                self.skipped["beside the class folders"] += 1
            elif entry.name in UNLABELLED_FOLDERS:
                unlabelled.append(Path(entry.path))
            elif name := self.class_name(Path(entry.path), folders):
                folders[name] = Path(entry.path)
        for number, (name, path) in enumerate(sorted(folders.items())):
            listing.classes.append(name)
            listing.add(self.images(path), number)
        for path in unlabelled:
            listing.add(self.images(path), UNLABELLED)
        self.refuse_problems()
        refuse_few_classes(folder, folders)
        return listing

    def without_labels(self, folder: Path) -> Listing:
        """Return all images in and below a folder, in the order of their names, none with a label."""
        paths = self.images(folder)
        self.refuse_problems()
        if not paths:
            raise DataError(f"{folder} holds no images")
        return Listing(folder, [], paths, [UNLABELLED] * len(paths))

    def by_file(self, folder: Path) -> Listing:
        """Return a split's images, in the order of their names, with the labels that its file gives."""
        labels, lines = read_labels(folder / LABELS)
        paths = self.images(folder)
        self.skipped[f"not an image that PIL reads: {Path(LABELS).suffix}"] -= 1
        self.skipped += Counter()  # without what is 0 now
        files: dict[str, Path] = {}
        for path in paths:
            other = files.setdefault(composed(path.relative_to(folder).as_posix()), path)
            if other != path:
                self.problems.append(
                    f"{LABELS} can't tell apart {str(other)!a} and {str(path)!a}, which look the same, one with "
                    "composed and one with decomposed accents; rename one"
                )
        self.refuse_problems()
        unknown = [f"line {lines[name]}: there is no image '{name}'" for name in labels if name not in files]
        if unknown:
            what = f"{folder / LABELS} does not match the images beside it (files are relative to {folder}, with '/')"
            raise InputError(all_at_once(what, unknown))
        classes = classes_in(folder, labels)
        numbers = [classes.index(labels[name]) if name in labels else UNLABELLED for name in files]
        return Listing(folder, classes, list(files.values()), numbers, first_lines(labels, lines))

    def class_name(self, path: Path, folders: dict[str, Path]) -> str | None:
        """Return a class folder's name, its accents composed; None where it can't be one (noted as a problem)."""
        try:
            path.name.encode()
        except UnicodeEncodeError:
            self.problems.append(f"{printable(path)}: the name of this class folder isn't UTF-8; rename it")
            return None
        name = composed(path.name)
        if name in folders:
            self.problems.append(
                f"{path.parent}: two class folders are called '{name}', one with composed and one with decomposed "
                "accents; merge them"
            )
            return None
        return name

    def images(self, folder: Path) -> list[Path]:
        """Return the images in and below the folder of a class or split, in the order of their names."""
        return sorted(self.below(folder, str(folder)), key=lambda image: (str(image.parent), image.name))

    def below(self, folder: Path, owner: str) -> Iterator[Path]:
        """Yield the images in and below a folder of a class, its owner; count what is left out."""
        from clipkd.core.images import is_image

        if not self.enter(folder, owner):
            self.skipped["a link to a folder that was listed already"] += 1
            return
        for entry in self.entries(folder):
            path = Path(entry.path)
            if is_hidden(entry.name):
                self.skipped["hidden, or made by a file manager"] += 1
            elif not os.path.exists(path):  # also of a link to itself, which `entry.is_dir` would stop at
                self.problems.append(f"{printable(path)}: a link that leads to no file")
            elif entry.is_dir():
                yield from self.below(path, owner)
            elif not path.is_file():
                self.skipped["not a regular file"] += 1
            elif is_image(path):
                yield path
            else:
                suffix = printable(path.suffix.lower()) or "no extension"
                self.skipped[f"not an image that PIL reads: {suffix}"] += 1

    def enter(self, folder: Path, owner: str) -> bool:
        """Note that a folder is listed for a class or split; False where it was listed before, so a link led to it.

        A folder that two classes or two splits would share is a problem; a link to a folder above is only a loop.
        """
        try:
            status = folder.stat()
        except OSError as error:
            self.problems.append(f"{printable(folder)}: can't be listed ({error.strerror})")
            return False
        key = (status.st_dev, status.st_ino)
        if key not in self.seen:
            self.seen[key] = (owner, folder)
            return True
        owner_before, before = self.seen[key]
        if owner_before not in {owner, LOOP} and not folder.is_relative_to(before):
            self.problems.append(
                f"{printable(before)} and {printable(folder)} are the same folder (a link): its images would be in both"
            )
        return False

    def entries(self, folder: Path) -> list[os.DirEntry[str]]:
        """Return what a folder holds, sorted by name; nothing where it can't be listed (noted as a problem)."""
        try:
            with os.scandir(folder) as found:
                return sorted(found, key=lambda entry: entry.name)
        except OSError as error:
            self.problems.append(f"{printable(folder)}: can't be listed ({error.strerror})")
            return []

    def left_out(self) -> dict[str, dict[str, int]]:
        """Return what was left out, as facts of the dataset."""
        return {"skipped": dict(sorted(self.skipped.items()))} if self.skipped else {}

    def refuse_problems(self) -> None:
        """Raise DataError where there are problems."""
        if self.problems:
            raise DataError(all_at_once("the folder of images can't be read as it is", self.problems))


def names_some_only(folder: Path) -> bool:
    """Return whether a split's file of labels names fewer images than lie in and below its folder."""
    return len(read_labels(folder / LABELS)[0]) < len(Walk(folder.parent).images(folder))


def overridden(folder: Path) -> list[str]:
    """Return the folders of a split that would be its classes, were there no file of labels beside them."""
    if not has_labels_file(folder):
        return []
    names = set(folders_in(folder))
    classes = names - set(UNLABELLED_FOLDERS)
    # A single folder is one of images, unless another one beside it is for those without a label.
    return sorted(map(printable, classes)) if len(classes) > 1 or classes < names else []


def labels_note(split: str, folders: Sequence[str]) -> str:
    """Return what to say of a split whose file of labels overrides folders."""
    named = ", ".join(folders[:MOST_NAMED]) + (", ..." if len(folders) > MOST_NAMED else "")
    return f"{split}/{LABELS} gives the labels, so the names of folders in {split}/ are ignored: {named}"


def refuse_few_classes(folder: Path, classes: dict[str, Path]) -> None:
    """Raise DataError where a split has fewer than two classes; says where they may be."""
    if len(classes) < 2 and folder.name in {"train", "test", *VALIDATION} and has_labels_file(folder.parent):
        raise DataError(
            f"{folder} has {counted(len(classes), 'class folder')}, and {folder.parent} a {LABELS}, which is not read "
            f"there: it belongs in {folder}, and names files relative to it"
        )
    if not classes:
        raise DataError(f"{folder} has no class folders: images belong into {folder}/<class>/")
    if len(classes) > 1:
        return
    ((name, path),) = classes.items()
    below = folders_in(path)
    if len(below) > 1:
        raise DataError(
            f"{folder} has one class folder, '{name}', which holds the folders {', '.join(below[:MOST_NAMED])}: if "
            f"these are the classes, move them from {path} to {folder}"
        )
    raise DataError(f"{folder} has one class folder, '{name}'; a dataset has at least two classes")
