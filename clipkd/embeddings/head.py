"""The head: class scores from embeddings, for teachers without a classifier of the dataset's classes.

A linear probe on the stored embeddings; or, where the checkpoint was fine-tuned on the dataset, its
own last layer. Either way the scores are a pure function of the store.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from clipkd.core.artifacts import building, open_artifact, write_array
from clipkd.core.errors import DataError, InputError
from clipkd.core.progress import say
from clipkd.core.top_k import top_k
from clipkd.data.dataset import Dataset
from clipkd.embeddings.own_head import OwnHead, check_order, passed_over
from clipkd.embeddings.teacher import Teacher
from clipkd.embeddings.vectors import Vectors
from clipkd.spec.layout import Embeddings

STRENGTHS = (1e-2, 1e-3, 1e-4, 1e-5)
"""L2 penalties that the validation split chooses from."""
ITERATIONS = 200
ROWS = 8192
"""Images per piece when scores are written, so that memory does not grow with the dataset."""


def fit_probe(vectors: Tensor, labels: Tensor, classes: int, strength: float) -> tuple[Tensor, Tensor]:
    """Return weight [C, D] and bias [C] of the multinomial logistic regression on vectors [N, D].

    Minimises mean cross-entropy + strength / 2 * |W|^2 on standardised dimensions by L-BFGS; the
    standardisation is folded into the returned layer.
    """
    mean, std = vectors.mean(dim=0), vectors.std(dim=0).clamp(min=1e-6)
    standard = (vectors - mean) / std
    weight = torch.zeros(classes, vectors.shape[1], device=vectors.device, requires_grad=True)
    bias = torch.zeros(classes, device=vectors.device, requires_grad=True)
    optimiser = torch.optim.LBFGS([weight, bias], max_iter=ITERATIONS, line_search_fn="strong_wolfe")

    def objective() -> Tensor:
        optimiser.zero_grad()
        loss = F.cross_entropy(F.linear(standard, weight, bias), labels) + strength / 2 * weight.square().sum()
        loss.backward()
        return loss

    optimiser.step(objective)
    with torch.no_grad():
        folded = weight / std
        return folded.detach(), (bias - folded @ mean).detach()


def accuracy(logits: Tensor, labels: Tensor, top: int = 1) -> float:
    """Return the share of rows [N, C] whose label is among the `top` highest scores."""
    (right,) = top_k(logits, labels, top)
    return (right.float() / len(labels)).item()


def write_head(
    store: Embeddings, dataset: Dataset, teacher: Teacher | None, device: torch.device, own: OwnHead | None = None
) -> None:
    """Make the head artefact: the layer, the class scores of every stored view, and its accuracy.

    Args:
        store: full embeddings.
        dataset: for labels and the validation split.
        teacher: only needed where the checkpoint's own head is used.
        device: where the probe is fitted.
        own: the checkpoint's classifier, as far as it is known.
    """
    embeddings = open_artifact(store.folder, "embeddings", store.identity)
    if embeddings.facts["dataset_content"] != dataset.content:
        raise DataError(
            f"{store.folder} was made from another content of {dataset.spec.title} than {dataset.artifact.path} "
            "holds now; remove it to make it again"
        )
    train, test = Vectors(embeddings, "train"), Vectors(embeddings, "test")
    labels = {
        "train": torch.from_numpy(dataset.train_labels.copy()),
        "test": torch.from_numpy(dataset.test_labels.copy()),
    }
    rows = {"train": dataset.training, "validation": dataset.validation}
    unflipped = {part: torch.from_numpy(train[index, 0]).to(device) for part, index in rows.items()}
    unflipped["test"] = torch.from_numpy(test[:]).to(device)
    targets = {part: labels["train"][index].to(device) for part, index in rows.items()}
    targets["test"] = labels["test"].to(device)

    if store.teacher.head_for == store.dataset.name:
        check_order(own, store.teacher, store.dataset.name, dataset.classes)
        weight, bias = own_head(teacher, len(dataset.classes))
        facts: dict = {"head": "checkpoint", "l2": None}
    else:
        strength, weight, bias = best_probe(unflipped, targets, len(dataset.classes))
        facts = {"head": "linear probe", "l2": strength}
        if own is not None:
            say(passed_over(own, store.teacher, store.dataset.name, dataset.classes))
            facts["unused_classifier"] = {"classes": own.classes, "order": own.order(dataset.classes)}
    weight, bias = weight.to(device), bias.to(device)
    logits = {part: F.linear(vectors, weight, bias) for part, vectors in unflipped.items()}
    facts["accuracy"] = {part: accuracy(logits[part], targets[part]) for part in logits}
    facts["top5"] = {"test": accuracy(logits["test"], targets["test"], top=5)}
    facts["dataset_content"] = dataset.content

    folder, identity = store.head()
    with building(folder, "head", identity) as draft:
        draft.facts |= facts
        np.save(draft.path / "weight.npy", weight.cpu().numpy())
        np.save(draft.path / "bias.npy", bias.cpu().numpy())
        for split, vectors in (("train", train), ("test", test)):
            shape = (*vectors.shape[:-1], len(dataset.classes))
            scores = scores_of(vectors, weight, bias, device)
            write_array(draft.path / f"scores-{split}.npy", shape, np.float32, scores)
    reached = ", ".join(f"{value:.1%} {part}" for part, value in facts["accuracy"].items())
    say(f"{facts['head']} of {store.teacher.title}, accuracy: {reached}")


def scores_of(vectors: Vectors, weight: Tensor, bias: Tensor, device: torch.device) -> Iterator[np.ndarray]:
    """Yield the class scores of stored vectors, some rows at a time."""
    for start in range(0, len(vectors), ROWS):
        yield F.linear(torch.from_numpy(vectors[start : start + ROWS]).to(device), weight, bias).cpu().numpy()


def best_probe(vectors: dict[str, Tensor], targets: dict[str, Tensor], classes: int) -> tuple[float, Tensor, Tensor]:
    """Return the penalty with the best validation accuracy (the stronger, if equal) and its layer."""
    best: tuple[float, float, Tensor, Tensor] | None = None
    for strength in STRENGTHS:
        weight, bias = fit_probe(vectors["train"], targets["train"], classes, strength)
        right = accuracy(F.linear(vectors["validation"], weight, bias), targets["validation"])
        if best is None or right > best[0]:
            best = (right, strength, weight, bias)
    assert best is not None
    return best[1:]


def own_head(teacher: Teacher | None, classes: int) -> tuple[Tensor, Tensor]:
    """Return weight and bias of the checkpoint's classifier; InputError where it has other classes."""
    if teacher is None or teacher.head is None:
        raise InputError("the teacher's file says head_for, but its checkpoint has no classifier")
    if teacher.head.out_features != classes:
        raise InputError(
            f"the classifier of '{teacher.spec.name}' has {teacher.head.out_features} classes, the dataset {classes}"
        )
    return teacher.head.weight.detach().float(), teacher.head.bias.detach().float()
