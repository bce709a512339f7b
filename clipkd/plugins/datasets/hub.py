"""Datasets of the Hugging Face hub, by id and commit: parquet files of images and labels; no code of theirs is run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from clipkd.core.errors import InputError
from clipkd.core.fingerprint import Identity
from clipkd.core.hub import COMMIT, HUB_ID
from clipkd.plugins.datasets import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    DatasetSpec,
    Reading,
    options_of,
    size_options,
)

OPTIONS = {"config": "", "image": "image", "label": "label", "train": "train", "test": "test", "size": ""}
"""What may stand behind the `?`, and what holds without it."""


@dataclass(frozen=True, kw_only=True)
class HubDataset(DatasetSpec):
    """A repository of parquet files at a commit."""

    kind: ClassVar[str] = "dataset"
    thing: ClassVar[str] = "dataset"
    verb: ClassVar[str] = "download"
    hub_id: str
    revision: str
    config: str
    """The part of the repository that is read, where it has several; "": its only one."""
    image: str
    label: str
    """Columns."""
    train: str
    test: str
    """Splits."""
    needs_source: bool = True
    pack_size: int = 256
    """Images whose short side is longer are packed with this short side, in pixels."""

    @property
    def source(self) -> str:
        """What `--dataset-source` takes: `hub:OWNER/NAME@COMMIT?option=value&...`."""
        given = {name: getattr(self, name) for name in OPTIONS if name != "size"}
        given["size"] = str(self.image_size or "")
        options = "&".join(f"{name}={value}" for name, value in given.items() if value != OPTIONS[name])
        return f"hub:{self.hub_id}@{self.revision}{'?' if options else ''}{options}"

    def source_identity(self) -> Identity:
        read = {name: getattr(self, name) for name in ("config", "image", "label", "train", "test", "pack_size")}
        return {"hub_dataset": self.hub_id, "revision": self.revision, "size": self.image_size} | read

    def read(self, source: str | None, downloads: Path) -> Reading:
        from clipkd.plugins.datasets._hub import read

        return read(self)


def from_source(name: str, where: str) -> HubDataset:
    """Return the dataset that `OWNER/NAME@COMMIT?option=value&...` describes.

    Raises:
        InputError: it has no full commit hash, or an unknown option.
    """
    place, options = options_of(name, where, OPTIONS)
    hub_id, _, revision = place.partition("@")
    if not HUB_ID.fullmatch(hub_id) or not COMMIT.fullmatch(revision):
        raise InputError(
            f"dataset '{name}': write hub:OWNER/NAME@<40 hex digits of a commit>, not 'hub:{place}'; a branch can move"
        )
    more: dict[str, Any] = size_options(name, options.pop("size")) | options
    return HubDataset(
        name=name, title=name, classes=None, mean=IMAGENET_MEAN, std=IMAGENET_STD, hub_id=hub_id, revision=revision,
        **more,
    )  # fmt: skip
