"""The subject of an evaluation: a trained student, the images that it is shown, and what it makes of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from clipkd.core.progress import progress
from clipkd.data.dataset import Dataset, SplitName
from clipkd.data.labelled import Labelled, labelled_rows
from clipkd.export.model import Model
from clipkd.runs.evaluation import EVALUATION_BATCH
from clipkd.runs.forward import forward


class Views(NamedTuple):
    """What a student makes of N images, prepared as its test images."""

    logits: np.ndarray
    """Class scores before any softmax, float32 [N, C]."""
    embeddings: np.ndarray
    """What the classifier sees, float32 [N, W]."""
    labels: np.ndarray
    """Class numbers, int64 [N]."""

    @property
    def probabilities(self) -> np.ndarray:
        """The softmax of the class scores, float64 [N, C]."""
        from scipy.special import softmax

        found: np.ndarray = softmax(self.logits.astype(np.float64), axis=1)
        return found


@dataclass(frozen=True)
class Subject:
    """A trained student and a labelled dataset: of its classes, or of others, where only its embeddings count."""

    model: Model
    dataset: Dataset
    data: Path
    """The folder of datasets, teachers and embeddings."""

    @property
    def run(self) -> dict[str, Any]:
        """What made the run; of an export its own identity, and what it says of the run is in `Model.trained`."""
        identity: dict[str, Any] = self.model.manifest["identity"]
        return identity

    @property
    def few(self) -> dict[str, Any] | None:
        """How many of the dataset's labels the run saw, and the seed that chose them; None: all may be seen."""
        if self.model.trained["dataset"] != self.dataset.spec.name:
            return None
        return self.run.get("few_labels") or self.model.trained.get("few_labels")

    @property
    def as_trained(self) -> bool:
        """Whether these are the run's own images, which it read from no thumbnails; of an export that is not known."""
        content = self.run.get("dataset", {}).get("content")
        return content == self.dataset.content and not self.run.get("thumbnails")

    @property
    def has_its_classes(self) -> bool:
        """Whether the student tells the dataset's classes apart."""
        return self.model.classes == self.dataset.classes

    @cached_property
    def labelled(self) -> Labelled:
        """The training and validation rows whose labels the run may see."""
        few = self.few
        return labelled_rows(self.dataset, few["labels"], few["seed"]) if few else labelled_rows(self.dataset)

    @cached_property
    def test(self) -> Views:
        """Of the test split."""
        return self.views("test", np.arange(len(self.dataset.test_labels)), "test images")

    @cached_property
    def training(self) -> Views:
        """Of the labelled training rows that are not held out."""
        return self.views("train", self.labelled.training, "training images")

    @cached_property
    def validation(self) -> Views:
        """Of the labelled rows that are held out."""
        return self.views("train", self.labelled.validation, "validation images")

    def images(self, split: SplitName, rows: np.ndarray) -> np.ndarray:
        """Return images at the student's size, as its test images are prepared, uint8 [B, S, S, 3]."""
        return self.model.preprocessing.packed(self.dataset, split, rows, self.as_trained)

    def batches(self, rows: np.ndarray, size: int = EVALUATION_BATCH) -> Iterator[np.ndarray]:
        """Yield the rows, some at a time."""
        for start in range(0, len(rows), size):
            yield rows[start : start + size]

    @torch.inference_mode()
    def views(self, split: SplitName, rows: np.ndarray, what: str) -> Views:
        """Return what the student makes of rows of a split."""
        logits, embeddings = [], []
        count = -(-len(rows) // EVALUATION_BATCH)
        for batch in progress(self.batches(rows), count, f"running the student on the {what}"):
            images = self.images(split, batch)
            outputs = forward(self.model.student, self.model.preprocessing.inputs(list(images), self.model.device))
            logits.append(outputs.logits.float().cpu().numpy())
            embeddings.append(outputs.embedding.float().cpu().numpy())
        return Views(np.concatenate(logits), np.concatenate(embeddings), self.dataset.labels(split)[rows])
