"""clipkd: knowledge distillation that never runs the teacher twice (CLIP-Embed-KD, arXiv 2404.06170).

A trained student in two lines, its preprocessing included:

    student = clipkd.load("results/runs/corrected/digits/tiny-32/none/supervised/seed0")
    student.predict(["scan.png"])

All results of a grid as one pandas frame, a row per run and choice of its epoch:

    clipkd.results("results").groupby(["train_type", "epoch"]).top1.mean()

A teacher's stored embeddings as float32 arrays, with their labels:

    stored = clipkd.load_embeddings("digits", "digits-vit-s", recipe="corrected")
    stored.train[:, 0], stored.labels["train"]
"""

from clipkd.core.version import __version__

TYPE_CHECKING = False  # typing takes longer to import than all else that comes before Ctrl-C is one line (__main__)
if TYPE_CHECKING:
    from clipkd.embeddings.stored import load_embeddings
    from clipkd.export.model import load
    from clipkd.tables.results import results

__all__ = ["__version__", "load", "load_embeddings", "results"]


def __getattr__(name: str) -> object:
    """Load what needs torch or pandas only when it is asked for: the Snakefile imports this package in every job."""
    if name == "load_embeddings":
        from clipkd.embeddings.stored import load_embeddings

        return load_embeddings
    if name == "load":
        from clipkd.export.model import load

        return load
    if name == "results":
        from clipkd.tables.results import results

        return results
    raise AttributeError(f"module 'clipkd' has no attribute '{name}'")
