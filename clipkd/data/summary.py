"""What a user should know of a packed dataset: what was left out, changed, and is there twice."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from clipkd.core.errors import MOST_NAMED
from clipkd.core.words import counted
from clipkd.data.image_digests import as_array, digest_of
from clipkd.plugins.datasets import DatasetSpec
from clipkd.plugins.datasets._listing import labels_note

DARK = 64
"""A dataset without a brighter pixel is nearly black, of 255."""
SHOWN = 3
"""So many pairs of equal images are named."""


class Seen:
    """The images of one split as they go by."""

    def __init__(self) -> None:
        self.digests: list[bytes] = []
        self.brightest = 0
        self.sizes: set[tuple[int, ...]] = set()

    def watching(self, images: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Yield the images; remember the digest of each, and the brightest pixel of all."""
        for image in images:
            self.digests.append(digest_of(image))
            self.sizes.add(image.shape[:2])
            self.brightest = max(self.brightest, int(image.max(initial=0)))
            yield image


def pixel_facts(
    seen: Mapping[Any, Seen], labels: np.ndarray, names: Mapping[Any, Sequence[str] | None]
) -> dict[str, Any]:
    """Return what the pixels themselves tell, as facts of the dataset: duplicates, one size, and whether they are dark.

    Args:
        seen: split -> its images.
        labels: of the training images [N]; below 0 where they have none.
        names: split -> the images' files; None where there are none.
    """
    train, test = (as_array(seen[split].digests).view(np.int64)[:, 0] for split in ("train", "test"))  # half is enough
    known = labels >= 0
    found: dict[str, Any] = {
        "duplicates": {
            "train": len(train) - len(np.unique(train)),
            "train_of_other_classes": len(set(zip(train[known], labels[known], strict=True)))
            - len(np.unique(train[known])),
            "test": len(test) - len(np.unique(test)),
            "test_in_train": int(np.isin(test, train).sum()),
        }
    }
    if names["train"] is not None and names["test"] is not None:
        same = equal_files(train, test, labels, names["train"], names["test"])
        found |= {"equal_files": same} if any(same.values()) else {}
    sizes = set().union(*(one.sizes for one in seen.values()))
    if len(sizes) == 1 and len(set(*sizes)) == 1:
        found["side"] = max(*sizes)
    brightest = max(one.brightest for one in seen.values())
    return found | ({"brightest": brightest} if brightest < DARK else {})


def equal_files(
    train: np.ndarray, test: np.ndarray, labels: np.ndarray, train_names: Sequence[str], test_names: Sequence[str]
) -> dict[str, list[str]]:
    """Return examples of files with equal images, those that should not be: of two classes, and of both splits.

    `train`, `test`: a number of each image that equal ones share.
    """
    first: dict[int, int] = {}
    of_two_classes = []
    for row, found in enumerate(train.tolist()):
        other = first.setdefault(found, row)
        if min(labels[row], labels[other]) >= 0 and labels[row] != labels[other]:
            of_two_classes.append(f"{train_names[other]} and {train_names[row]}")
    both = [f"{test_names[row]} and {train_names[first[one]]}" for row, one in enumerate(test.tolist()) if one in first]
    return {"train_of_other_classes": of_two_classes[:SHOWN], "test_in_train": both[:SHOWN]}


def examples(facts: Mapping[str, Any], kind: str) -> str:
    """Return `, for example FILE and FILE` of equal images, to end a line; nothing where files are not known."""
    found = facts.get("equal_files", {}).get(kind, [])
    return f", for example {'; '.join(found)}" if found else ""


def summary(spec: DatasetSpec, facts: Mapping[str, Any]) -> str:
    """Return what was packed, and what a user should know of it, one line each."""
    reading = facts.get("reading", {})
    lines = [
        f"{spec.title}: packed {facts['train']:,} training images ({facts['validation']:,} of them for validation) and "
        f"{facts['test']:,} test images of {len(facts['classes']):,} classes"
    ]
    if not facts["classes"]:
        lines = [f"{spec.title}: packed {counted(facts['train'], 'image')} without any label"]
    elif unlabelled := facts.get("unlabelled"):
        lines.append(f"  {counted(unlabelled, 'training image')} of {facts['train']:,} without a label")
    if lacks := facts.get("validation_lacks"):
        more = f" and {len(lacks) - MOST_NAMED:,} others" if len(lacks) > MOST_NAMED else ""
        named = ", ".join(map(repr, lacks[:MOST_NAMED]))
        lines.append(f"  no validation image of class {named}{more}: epochs are chosen without it")
    lines += [f"  {line}" for line in (*folder_lines(reading), *file_lines(reading), *pixel_lines(spec, facts))]
    return "\n".join(lines)


def folder_lines(reading: Mapping[str, Any]) -> Iterator[str]:
    """Yield which folder is which split, and what was not read."""
    splits = reading.get("splits", {})
    if splits and splits != {"train": "train", "test": "val"}:
        chosen = f"{splits['validation']}/ chooses among epochs" if "validation" in splits else ""
        yield "; ".join(part for part in (chosen, f"{splits['test']}/ is the test split") if part)
    if beside := reading.get("beside_the_splits"):
        yield f"not read, beside the splits: {', '.join(beside)}"
    for split, folders in reading.get("labels_files", {}).items():
        yield labels_note(split, folders)
    for why, count in reading.get("skipped", {}).items():
        yield f"left out: {count:,} ({why})"


def file_lines(reading: Mapping[str, Any]) -> Iterator[str]:
    """Yield what was changed in image files, and what of them was not used."""
    if count := reading.get("turned"):
        done = "turned as it says" if reading["exif"] == "follow" else "not turned (?exif=ignore)"
        yield f"EXIF orientation: {counted(count, 'image')}, {done}"
    if count := reading.get("transparent"):
        drop = reading["alpha"] == "drop"
        done = "dropped (?alpha=drop)" if drop else f"laid on {reading['alpha']}"
        yield f"transparency: {counted(count, 'image')}, {done}"
    if count := reading.get("16_bit_grey"):
        levels = reading["levels"]
        declared = reading.get("16_bit_declared", 0)
        verb = "declares" if declared == 1 else "declare"
        white = f"{levels['white']:,} is white" if levels["white"] else "white is as each file declares"
        white += f" where a file declares none ({declared:,} {verb} one)" if levels["white"] and declared else ""
        yield f"grey images of 16 bits: {count:,}, levels {levels['lowest']:,} to {levels['highest']:,}; {white}"
    if count := reading.get("16_bit_colour"):
        yield f"colour images of 16 bits: {count:,}; PIL reads their upper 8 bits"
    if count := reading.get("more_frames"):
        yield f"several frames or pages: {counted(count, 'image')}, of which the first one is used"


def pixel_lines(spec: DatasetSpec, facts: Mapping[str, Any]) -> Iterator[str]:
    """Yield what the pixels themselves tell."""
    if "brightest" in facts:
        yield f"warning: the images are dark, their brightest pixel is {facts['brightest']} of 255"
    if facts["ragged"] and spec.crops and (side := facts.get("side")):
        yield (
            f"all images are {side} x {side} pixels: without random crops a teacher's embeddings of them are stored "
            f"exactly; write ?size={side}&augment=flip after the source, or augment=none where a mirror image is "
            "another thing"
        )
    twice = facts.get("duplicates", {})
    for split, name in (("train", "training"), ("test", "test")):
        if twice.get(split):
            yield f"duplicates: {counted(twice[split], f'{name} image')}, equal to another one pixel by pixel"
    if other := twice.get("train_of_other_classes"):
        named = examples(facts, "train_of_other_classes")
        yield f"warning: equal training images in different classes: {other:,}{named}"
    if both := twice.get("test_in_train"):
        of_test = "all" if both == facts["test"] else f"{both:,} of the {facts['test']:,}"
        yield (
            f"warning: {of_test} test images are also among the training or validation images, pixel by pixel: the "
            f"accuracy on them says nothing about new images{examples(facts, 'test_in_train')}"
        )
