"""The head: class scores from embeddings, for teachers without a classifier of the dataset's classes.

A linear probe on the stored embeddings; or, where the checkpoint was fine-tuned on the dataset, its
own last layer. The layer is what is kept; class scores are made from stored vectors where they are needed.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from clipkd.core.artifacts import MANIFEST, building, open_artifact
from clipkd.core.errors import DataError, InputError
from clipkd.core.progress import say
from clipkd.core.top_k import top_k
from clipkd.data.dataset import SPLITS, Dataset
from clipkd.data.labelled import labelled_rows
from clipkd.embeddings.own_head import OwnHead, passed_over, rows
from clipkd.embeddings.teacher import Teacher
from clipkd.embeddings.vectors import Vectors
from clipkd.embeddings.weights_sha256 import as_fact, weights_of
from clipkd.spec.few_labels import FewLabels
from clipkd.spec.layout import Embeddings

STRENGTHS = (1e-2, 1e-3, 1e-4, 1e-5)
"""L2 penalties that the validation split chooses from."""
FEW_STRENGTHS = (1.0, 1e-1, *STRENGTHS)
"""With few labels: with fewer of them than dimensions, the best penalty is larger."""
ITERATIONS = 200
SCORES = 1 << 26
"""Class scores, images times classes, that are in memory at once."""
HISTORY, REMEMBERED = 100, 1 << 29
"""Steps that L-BFGS remembers, as torch has it, and how many numbers in all: a step is two for each of the layer's."""


def fit_probe(vectors: Tensor, labels: Tensor, classes: int, strength: float) -> tuple[Tensor, Tensor]:
    """Return weight [C, D] and bias [C] of the multinomial logistic regression on vectors [N, D].

    Minimises mean cross-entropy + strength / 2 * |W|^2 on standardised dimensions by L-BFGS; the
    standardisation is folded into the returned layer. Where images times classes are many, the gradient is summed over
    some images at a time; where the layer is large, fewer steps are remembered. Memory is then bounded.
    """
    mean, std = vectors.mean(dim=0), vectors.std(dim=0).clamp(min=1e-6)
    standard = (vectors - mean) / std
    weight = torch.zeros(classes, vectors.shape[1], device=vectors.device, requires_grad=True)
    bias = torch.zeros(classes, device=vectors.device, requires_grad=True)
    history = max(1, min(HISTORY, REMEMBERED // (2 * weight.numel())))
    optimiser = torch.optim.LBFGS(
        [weight, bias], max_iter=ITERATIONS, history_size=history, line_search_fn="strong_wolfe"
    )
    parts = list(zip(*(one.split(rows_at_once(classes)) for one in (standard, labels)), strict=True))

    def objective() -> Tensor:
        optimiser.zero_grad()
        total = torch.zeros((), device=vectors.device)
        for number, (some, theirs) in enumerate(parts):
            loss = F.cross_entropy(F.linear(some, weight, bias), theirs) * (len(some) / len(standard))
            if number == 0:
                loss = loss + strength / 2 * weight.square().sum()
            loss.backward()
            total += loss.detach()
        return total

    optimiser.step(objective)
    with torch.no_grad():
        folded = weight / std
        return folded.detach(), (bias - folded @ mean).detach()


def rows_at_once(classes: int) -> int:
    """Return of how many images the class scores are in memory at once."""
    return max(1, SCORES // classes)


def accuracies(vectors: Tensor, weight: Tensor, bias: Tensor, labels: Tensor) -> tuple[float, float]:
    """Return the shares of vectors [N, D] whose label is the layer's likeliest class, and one of its likeliest five."""
    size, counts = rows_at_once(len(weight)), torch.zeros(2, device=vectors.device)
    for some, theirs in zip(vectors.split(size), labels.split(size), strict=True):
        counts += torch.stack(top_k(F.linear(some, weight, bias), theirs))
    top1, top5 = (counts / max(1, len(labels))).tolist()
    return top1, top5


def accuracy(logits: Tensor, labels: Tensor, top: int = 1) -> float:
    """Return the share of rows [N, C] whose label is among the `top` highest scores."""
    (right,) = top_k(logits, labels, top)
    return (right.float() / len(labels)).item()


def write_head(
    store: Embeddings,
    dataset: Dataset,
    teacher: Teacher | None,
    device: torch.device,
    own: OwnHead | None,
    few: FewLabels | None,
) -> None:
    """Make the head artefact: the layer and its accuracy.

    Args:
        store: full embeddings.
        dataset: for labels and the validation split.
        teacher: only needed where the checkpoint's own head is used.
        device: where the probe is fitted.
        own: the checkpoint's classifier, as far as it is known.
        few: whose labels may be seen; None: all.
    """
    folder, identity = store.head(few)
    embeddings = open_artifact(store.folder, "embeddings", store.identity)
    if embeddings.facts["dataset_content"] != dataset.content:
        raise DataError(
            f"{store.folder} was made from another content of {dataset.spec.title} than {dataset.artifact.path} "
            "holds now: run `clipkd extract` again, then this command"
        )
    # Embeddings that somebody else computed may be of the training images only.
    splits = [split for split in SPLITS if f"{split}.npy" in embeddings.manifest["files"]]
    stored = {split: Vectors(embeddings, split) for split in splits}
    labels = {split: torch.from_numpy(dataset.labels(split).copy()) for split in splits}
    is_own = store.teacher.brings_head(store.dataset.name)
    known = labelled_rows(dataset, few.count, few.seed) if few and not is_own else labelled_rows(dataset)
    parts = {"train": known.training, "validation": known.validation}
    unflipped = {part: torch.from_numpy(stored["train"][index, 0]).to(device) for part, index in parts.items()}
    targets = {part: labels["train"][index].to(device) for part, index in parts.items()}
    if "test" in stored:
        unflipped["test"] = torch.from_numpy(stored["test"][:]).to(device)
        targets["test"] = labels["test"].to(device)

    facts: dict
    if is_own:
        weight, bias, facts = own_head(own, store, teacher, dataset.classes)
    else:
        strengths = STRENGTHS if few is None else FEW_STRENGTHS
        strength, weight, bias = best_probe(unflipped, targets, len(dataset.classes), strengths)
        facts = {"head": "linear probe", "l2": strength}
        if own is not None:
            say(passed_over(own, store.teacher, store.dataset.name, dataset.classes, store.class_names))
            facts["unused_classifier"] = {"classes": own.classes}
    weight, bias = weight.to(device), bias.to(device)
    found = {part: accuracies(vectors, weight, bias, targets[part]) for part, vectors in unflipped.items()}
    facts["accuracy"] = {part: top1 for part, (top1, _) in found.items()}
    facts["top5"] = {"test": found["test"][1]} if "test" in stored else {}
    facts |= {"dataset_content": dataset.content} | as_fact(weights_of(embeddings))
    facts |= {"labels": {part: len(rows) for part, rows in parts.items()}} if few else {}

    with building(folder, "head", identity, replace=(folder / MANIFEST).exists()) as draft:
        draft.facts |= facts
        np.save(draft.path / "weight.npy", weight.cpu().numpy())
        np.save(draft.path / "bias.npy", bias.cpu().numpy())
    reached = ", ".join(f"{value:.1%} {part}" for part, value in facts["accuracy"].items())
    said = f" by {few.count} labels, seed {few.seed}" if few and not is_own else ""
    say(f"{facts['head']} of {store.teacher.title}{said}, accuracy: {reached}")


def best_probe(
    vectors: dict[str, Tensor], targets: dict[str, Tensor], classes: int, strengths: Sequence[float] = STRENGTHS
) -> tuple[float, Tensor, Tensor]:
    """Return the penalty with the best validation accuracy (the stronger, if equal) and its layer."""
    best: tuple[float, float, Tensor, Tensor] | None = None
    for strength in strengths:
        weight, bias = fit_probe(vectors["train"], targets["train"], classes, strength)
        right, _ = accuracies(vectors["validation"], weight, bias, targets["validation"])
        if best is None or right > best[0]:
            best = (right, strength, weight, bias)
    assert best is not None
    return best[1:]


def own_head(
    own: OwnHead | None, store: Embeddings, teacher: Teacher | None, classes: list[str]
) -> tuple[Tensor, Tensor, dict]:
    """Return weight and bias of the checkpoint's classifier, its classes in the dataset's order, and facts about it.

    Raises:
        InputError: it has none, or one of other classes.
    """
    order = rows(own, store.teacher, store.dataset.name, classes, store.class_names)
    assert own is not None
    if teacher is None or teacher.head is None:
        raise InputError(f"teacher '{store.teacher.name}': its checkpoint has no classifier of its embeddings")
    moved, unused = sum(place != row for row, place in enumerate(order)), own.classes - len(order)
    if moved or unused:
        say(
            f"{store.teacher.title}: its classifier's classes are matched with those of {store.dataset.title} by name: "
            f"{moved} of {len(order)} have another number there, {unused} more are unused"
        )
    facts = {"head": "checkpoint", "l2": None, "classes_moved": moved, "classes_unused": unused}
    return teacher.head.weight.detach().float()[order], teacher.head.bias.detach().float()[order], facts
