"""What CIFAR-10 and CIFAR-100 share: 32x32 records in a binary archive without any pickle."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from clipkd.core.fingerprint import Identity
from clipkd.plugins.datasets import CLIP_MEAN, CLIP_STD, DatasetSpec, Reading

BASE_URL = "https://www.cs.toronto.edu/~kriz"


@dataclass(frozen=True, kw_only=True)
class Cifar(DatasetSpec):
    """A CIFAR archive: its checksum, its members, and the length of a record's label."""

    image_size: int | None = 32
    mean: tuple[float, float, float] = CLIP_MEAN
    std: tuple[float, float, float] = CLIP_STD
    augmentation: str = "flip"  # type: ignore[assignment]
    validation_fraction: float = 0.1
    archive: str
    md5: str
    """As published beside the archive."""
    train_members: tuple[str, ...]
    test_member: str
    names_member: str
    label_bytes: int
    train_records: int = 50_000
    test_records: int = 10_000

    def source_identity(self) -> Identity:
        return {"archive": self.archive, "md5": self.md5}

    def read(self, source: str | None, downloads: Path) -> Reading:
        from clipkd.plugins.datasets._cifar import read

        return read(self, source or BASE_URL, downloads)
