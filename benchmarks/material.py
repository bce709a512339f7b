"""What the benchmarks run on: CIFAR-shaped images and a teacher of base size, made on the spot.

Contents are random: the time of a step does not depend on them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from clipkd.core import registry
from clipkd.core.fingerprint import Identity
from clipkd.plugins.datasets import CLIP_MEAN, CLIP_STD, DatasetSpec, Reading, Split

NAME = "cifar-shaped"
CLASSES = 10
TEACHERS = {
    "vit-b16": {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072},
    "toy": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64},
}
"""Shapes of teachers: `vit-b16` is that of google/vit-base-patch16-224-in21k; `toy` is for tests."""


@dataclass(frozen=True)
class Shaped(DatasetSpec):
    """Random images of CIFAR's shape."""

    train: int = 0
    test: int = 0

    def source_identity(self) -> Identity:
        return {"random": [self.train, self.test]}

    def read(self, source: str | None, downloads: Path) -> Reading:
        generator = np.random.default_rng(0)

        def split(count: int) -> Split:
            labels = np.arange(count, dtype=np.int64) % CLASSES
            return Split(labels, generator.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8))

        return Reading([str(number) for number in range(CLASSES)], split(self.train), split(self.test))


def add_dataset(train: int, test: int | None = None) -> str:
    """Make a dataset with so many images known by name, in this process only; return its name."""
    spec = Shaped(
        name=f"{NAME}-{train}",
        title=f"CIFAR-shaped, {train} images",
        image_size=32,
        classes=CLASSES,
        mean=CLIP_MEAN,
        std=CLIP_STD,
        augmentation="flip",
        validation_fraction=0.1,
        train=train,
        test=test or max(CLASSES, train // 8),
    )
    registry.specs("clipkd.plugins.datasets")[spec.name] = spec
    return spec.name


def save_teacher(name: str, folder: Path) -> None:
    """Save a Hugging Face ViT of the shape `name` with random weights."""
    from clipkd.core.vision import torchvision  # noqa: F401  (transformers imports it: it must work first)

    import transformers  # isort: skip

    torch.manual_seed(0)
    config = transformers.ViTConfig(**TEACHERS[name], image_size=224, patch_size=16)  # type: ignore[arg-type]
    transformers.ViTModel(config, add_pooling_layer=False).save_pretrained(folder)
    half = [0.5, 0.5, 0.5]
    processor = {"image_mean": half, "image_std": half, "size": {"height": 224, "width": 224}}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor), encoding="utf-8")


@dataclass
class Material:
    """Datasets and teachers of one benchmark, below one folder."""

    folder: Path
    teacher: str = "vit-b16"
    datasets: dict[int, str] = field(default_factory=dict)

    def dataset(self, train: int) -> str:
        """Return the name of the dataset with so many training images."""
        if train not in self.datasets:
            self.datasets[train] = add_dataset(train)
        return self.datasets[train]

    @property
    def teacher_folder(self) -> str:
        """The teacher's checkpoint, made at first use."""
        folder = self.folder / self.teacher
        if not folder.exists():
            save_teacher(self.teacher, folder)
        return str(folder)
