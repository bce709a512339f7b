"""Teachers that the workflow trains itself."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from clipkd.core.fingerprint import Identity
from clipkd.plugins.teachers._spec import TeacherSpec


@dataclass(frozen=True)
class TrainedTeacher(TeacherSpec):
    """A Hugging Face ViT that the workflow trains on a dataset and saves with `save_pretrained`."""

    dataset: str = ""
    layers: int = 0
    heads: int = 0
    epochs: int = 0
    batch_size: int = 64
    learning_rate: float = 2e-3
    """Peak of the one-cycle schedule."""
    weight_decay: float = 0.05
    max_shift: int = 2
    """Random shift in pixels, the training's only augmentation."""
    seed: int = 0
    protocol: int = 1

    def identity(self) -> Identity:
        from clipkd.plugins import datasets

        # What is taken of a teacher does not make its weights.
        others = {"name", "title", "dataset", "output", "checkpoint", "head"}
        training = {key: value for key, value in asdict(self).items() if key not in others}
        return {"trained_on": datasets.get(self.dataset).identity(), "training": training}
