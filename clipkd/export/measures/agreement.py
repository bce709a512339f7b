"""Agreement: how far a student does as its teacher does, on the test split."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clipkd.export.measures import Measure, Measured, NotMeasured
from clipkd.plugins import methods

if TYPE_CHECKING:
    import numpy as np

    from clipkd.export.subject import Subject
    from clipkd.export.teacher_store import TeacherStore


class Agreement(Measure):
    """Against the stored teacher, on the test split, three means over images: how often both have the same likeliest
    class; KL(teacher || student) of the softmax of the class scores, in nats, without a temperature; and the cosine of
    the embeddings in the space in which the recipe compares them.
    """

    def measure(self, subject: Subject) -> Measured:
        from clipkd.export.teacher_store import NoStore, find_store

        try:
            store = find_store(subject)
        except NoStore as reason:
            raise NotMeasured(str(reason)) from None
        numbers: dict[str, float] = {}
        missing: dict[str, str] = {}
        if store.head is None:
            missing["top1_agreement, kl"] = store.without_head
        else:
            numbers |= of_scores(subject.test.logits, store.scores())
        method = methods.get(subject.model.trained["train_type"])
        if method.signal == "scores":  # its projection, if it has one, is that of its first weights
            missing["cosine"] = f"{method.name} compares no embeddings: the student's projection is untrained"
        elif not method.in_teachers_space:
            missing["cosine"] = f"{method.name} brings the student's embeddings into no space of the teacher's vectors"
        else:
            numbers["cosine"] = cosine(subject, store)
        if not numbers:
            raise NotMeasured("; ".join(missing.values()))
        return Measured(numbers, {"embeddings": store.embeddings.path.name, "not_measured": missing})


def of_scores(student: np.ndarray, teacher: np.ndarray) -> dict[str, float]:
    """Return the agreement of class scores [M, C] with those of the teacher [M, C]."""
    import numpy as np
    from scipy.special import log_softmax

    student, teacher = (log_softmax(np.asarray(scores, np.float64), axis=1) for scores in (student, teacher))
    same = student.argmax(axis=1) == teacher.argmax(axis=1)
    divergence = (np.exp(teacher) * (teacher - student)).sum(axis=1)
    return {"top1_agreement": float(same.mean()), "kl": float(divergence.mean())}


def cosine(subject: Subject, store: TeacherStore) -> float:
    """Return the mean cosine of the student's embeddings with their teacher's vectors, one of them projected."""
    import torch
    from torch.nn import functional as F

    from clipkd.embeddings.vectors import Vectors
    from clipkd.plugins import recipes
    from clipkd.plugins.methods._losses import projected

    recipe = recipes.get(subject.model.trained["recipe"])
    vectors = Vectors(store.embeddings, "test")[:]
    if store.standardised is not None:
        vectors = store.standardised(vectors)
    here, student = subject.model.device, subject.model.student
    embeddings, targets = torch.from_numpy(subject.test.embeddings).to(here), torch.from_numpy(vectors).to(here)
    with torch.inference_mode():
        found = F.cosine_similarity(*projected(student, embeddings, targets, recipe))  # type: ignore[arg-type]
    return float(found.double().mean())


SPEC = Agreement(name="agreement", title="agreement with the teacher", protocol=2)
