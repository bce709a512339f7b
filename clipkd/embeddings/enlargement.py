"""Images that were packed smaller than a teacher looks at them."""

from __future__ import annotations

from clipkd.core.progress import say
from clipkd.data.dataset import Dataset
from clipkd.embeddings.teacher import Teacher


def say_enlarged(dataset: Dataset, teacher: Teacher) -> None:
    """Say so where images were packed smaller than the teacher looks at them: it then sees them enlarged."""
    limit = getattr(dataset.spec, "pack_size", None)
    if limit is None or dataset.spec.image_size is not None or teacher.image_size <= limit:
        return
    reduced = int((dataset.sizes("train").min(axis=1) == limit).sum())
    if reduced:
        say(
            f"warning: {dataset.spec.title}: {reduced:,} images were packed with a short side of {limit} pixels "
            f"and teacher '{teacher.spec.name}' looks at {teacher.image_size}: they are enlarged for it; to pack them "
            f"larger, add ?pack={teacher.image_size} to the source and delete {dataset.artifact.path}"
        )
