"""The loss terms of the train types (docs/method.md, "Train types"), one function a term."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from clipkd.core.unlabelled import UNLABELLED
from clipkd.plugins.methods import LABELLED, TEACHER_TOP1, Losses
from clipkd.plugins.recipes import Recipe
from clipkd.plugins.students._heads import Outputs, ProjectionHead


def total(outputs: Outputs, labels: Tensor, recipe: Recipe, **terms: Tensor) -> Losses:
    """Return CE(s, y) + w * each of the terms as `loss`, and its parts by their names; without classes, the terms.

    Beside other terms the cross-entropy has the recipe's `classification_weight`, 1 but in recipes of the user's own.

    Labels: class numbers [B], UNLABELLED where not known, or shares of the classes [B, C].
    """
    if not outputs.logits.shape[-1]:
        return {"loss": sum(recipe.weight(name) * term for name, term in terms.items()), **terms}
    parts = {"classification": classification(outputs.logits, labels, recipe), **terms}
    loss = recipe.weight("classification") * parts["classification"] if terms else parts["classification"]
    for name, term in terms.items():
        loss = loss + recipe.weight(name) * term
    return {"loss": loss, **parts}


def classification(logits: Tensor, labels: Tensor, recipe: Recipe) -> Tensor:
    """Return the cross-entropy of class scores [B, C] with labels [B]: the mean over the labelled images.

    0, without a gradient, where no image of the batch has a label. With `student_output: probabilities` a softmax
    comes first, and cross-entropy applies its own log-softmax on top: the released code's form, bounded away from 0.
    """
    return cross_entropy(scores(logits, recipe), labels)


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the mean cross-entropy of scores [B, K] with labels [B], or shares [B, K], over what is known of these."""
    if labels.ndim == 2:
        return F.cross_entropy(logits, labels) * over_known(labels)
    found = F.cross_entropy(logits, labels, ignore_index=UNLABELLED)
    return torch.where((labels >= 0).any(), found, torch.zeros_like(found))


def scores(logits: Tensor, recipe: Recipe) -> Tensor:
    """Return what the recipe's student ends with: probabilities or logits [B, C]."""
    return logits.softmax(dim=1) if recipe.student_output == "probabilities" else logits


def distillation(logits: Tensor, teacher_logits: Tensor, recipe: Recipe) -> Tensor:
    """Return the distance of the student's class scores [B, C] from the teacher's [B, C].

    `soft-cross-entropy`: CE(s, softmax(t)), the released code's. `hinton`: T^2 KL(softmax(t / T) ||
    softmax(s / T)), G. Hinton et al., https://arxiv.org/abs/1503.02531, section 2.
    """
    if recipe.distillation == "soft-cross-entropy":
        return F.cross_entropy(scores(logits, recipe), teacher_logits.softmax(dim=1))
    temperature = recipe.temperature
    if recipe.standardised and logits.shape[1] > 2:  # of two scores only the larger one would be left
        logits, teacher_logits = standardised(logits), standardised(teacher_logits)
    student = F.log_softmax(logits / temperature, dim=1)
    teacher = F.log_softmax(teacher_logits / temperature, dim=1)
    return temperature**2 * divergence(student, teacher)


def divergence(student: Tensor, teacher: Tensor) -> Tensor:
    """Return KL(exp(t) || exp(s)) of log-probabilities [B, C], the mean over the batch.

    Written out, as torch can't compute its own `kl_div` for several students at once (clipkd/runs/objective.py).
    """
    return (teacher.exp() * (teacher - student)).sum() / len(student)


def standardised(logits: Tensor) -> Tensor:
    """Return class scores [B, C] with mean 0 and deviation 1 in each row (S. Sun et al., arXiv 2403.01427, eq. 11)."""
    return (logits - logits.mean(dim=1, keepdim=True)) / (logits.std(dim=1, keepdim=True) + 1e-7)


def cosine_distance(student: ProjectionHead, embedding: Tensor, targets: Tensor, recipe: Recipe) -> Tensor:
    """Return the mean of 1 - cos over a batch's embeddings [B, W] and their teacher vectors [B, D]."""
    return (1 - F.cosine_similarity(*projected(student, embedding, targets, recipe))).mean()


def of_class(values: Tensor, labels: Tensor) -> Tensor:
    """Return of values [B, C] each image's class's one [B]; of shares [B, C], the sum of all times their shares."""
    if labels.ndim == 1:
        return values.gather(1, labels[:, None])[:, 0]
    return (values * labels).sum(dim=1)


def class_numbers(labels: Tensor) -> Tensor:
    """Return class numbers [B]; of shares [B, C], the class with the largest, if at least half of the row is known."""
    if labels.ndim == 1:
        return labels
    return labels.argmax(dim=1).masked_fill(labels.sum(dim=1) < 0.5, UNLABELLED)


def over_known(labels: Tensor) -> Tensor:
    """Return what makes a mean over rows one over what is known of them: B over the sum of all shares [B, C].

    Exactly 1 where all is known, so that rounding changes nothing; of class numbers [B], 1 over the labelled share.
    """
    known = labels.sum(dim=1) if labels.ndim == 2 else (labels >= 0).float()
    factor = len(labels) / known.sum().clamp(min=1e-6)
    return torch.where((known > 1 - 1e-3).all(), torch.ones_like(factor), factor)


def projected(student: ProjectionHead, embedding: Tensor, targets: Tensor, recipe: Recipe) -> tuple[Tensor, Tensor]:
    """Return a batch's embeddings [B, W] and K teacher vectors [K, D] in one space.

    The projection is on the teacher's side (P: D -> W, released code) or on the student's (W -> D, the teacher's
    vectors stay as they are).
    """
    if recipe.projection == "teacher":
        return embedding, student.cluster_projection(targets)
    return student.cluster_projection(embedding), targets


def similarity(student: ProjectionHead, embedding: Tensor, targets: Tensor, recipe: Recipe) -> Tensor:
    """Return the (scaled) cosines [B, K] of a batch's embeddings [B, W] with K teacher vectors [K, D].

    The scale is CLIP's; `clamp_logit_scales` keeps it at 100 or below.
    """
    embedding, targets = projected(student, embedding, targets, recipe)
    cosines = F.normalize(embedding, dim=1) @ F.normalize(targets, dim=1).T
    if recipe.logit_scale == "none":
        return cosines
    return cosines * student.logit_scale.exp()


def class_similarity(student: ProjectionHead, embedding: Tensor, prototypes: Tensor, recipe: Recipe) -> Tensor:
    """Return the (scaled) similarities [B, C] of a batch's embeddings with C classes' prototypes.

    One vector a class, [C, D]: `similarity`. Several, [C, P, D]: log((1 / P) sum over p of exp(s_cp)), the
    score of a class that is an even mixture of its P vectors; equal vectors give what one of them gives.
    """
    classes = len(prototypes)
    similarities = similarity(student, embedding, prototypes.reshape(-1, prototypes.shape[-1]), recipe)
    if prototypes.ndim == 2:
        return similarities
    each = similarities.view(len(embedding), classes, -1)
    return each.logsumexp(dim=2) - math.log(each.shape[2])


def batch_targets(labels: Tensor, recipe: Recipe) -> Tensor:
    """Return each image's positives among the batch's teacher embeddings.

    Its own column, arange(B) (paper); with `same_class_targets` equal shares [B, B] of all columns
    with its label.
    """
    if not recipe.same_class_targets:
        return torch.arange(len(labels), device=labels.device)
    same = positives(labels, recipe).float()
    return same / same.sum(dim=1, keepdim=True)


def positives(labels: Tensor, recipe: Recipe) -> Tensor:
    """Return which of the batch's teacher embeddings are right for which image, bool [B, B].

    Its own; with `same_class_targets` all of its class too, where that is known.
    """
    own = torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    if not recipe.same_class_targets:
        return own
    numbers = class_numbers(labels)
    return own | ((numbers[:, None] == numbers) & (numbers >= 0))


def accuracy(teacher_logits: Tensor, labels: Tensor) -> Losses:
    """Return the shares of a batch's images that the teacher's scores [B, C] classify right, and that have a label.

    The first over the second is its accuracy, once both are means over an epoch: batches may have no label at all. Of
    the views that are taught: mirrored or cropped, they are harder than the images that a probe is scored on. Of
    mixed images, the class with the largest share is right.
    """
    numbers = class_numbers(labels)
    is_right = teacher_logits.argmax(dim=1) == numbers
    return {TEACHER_TOP1: is_right.float().mean(), LABELLED: (numbers >= 0).float().mean()}
