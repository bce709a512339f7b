"""Any folder of images: `train/<class>/*` and `val/<class>/*`, as torchvision's ImageFolder reads it."""

from __future__ import annotations

from dataclasses import dataclass
from os.path import expanduser
from pathlib import Path

from clipkd.core.errors import InputError
from clipkd.core.fingerprint import Identity
from clipkd.plugins.datasets import IMAGENET_MEAN, IMAGENET_STD, DatasetSpec, Reading


@dataclass(frozen=True)
class ImageFolder(DatasetSpec):
    """A folder that the user has; it is never downloaded."""

    image_size: int | None = None
    classes: int | None = None
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    augmentation: str = "random-resized-crop"  # type: ignore[assignment]
    validation_fraction: float = 0.02
    needs_source: bool = True
    pack_size: int = 256
    """Images whose short side is longer are packed with this short side, in pixels."""

    def source_identity(self) -> Identity:
        # The content is only known once it is read: the packed manifest keeps its digest, and
        # whatever is made from the dataset is checked against that.
        return {"image_folder": self.name, "pack_size": self.pack_size}

    def folder(self, source: str | None) -> Path | None:
        return None if source is None else Path(expanduser(source))

    def known_classes(self, source: str | None) -> list[str] | None:
        folder = self.folder(source)
        if folder is None:
            return None
        try:
            return sorted(entry.name for entry in (folder / "train").iterdir() if entry.is_dir())
        except OSError:
            return None  # it is packed already, or `read` says what is wrong

    def read(self, source: str | None, downloads: Path) -> Reading:
        from clipkd.plugins.datasets._image_folder import read

        folder = self.folder(source)
        if folder is None:
            raise InputError(
                f"dataset '{self.name}' is a folder of images that is never downloaded: say where it is, "
                f"with --dataset-source FOLDER or in the config as sources: {{{self.name}: FOLDER}}"
            )
        return read(folder, self.pack_size)
