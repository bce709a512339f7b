"""clipkd: knowledge distillation that never runs the teacher twice (CLIP-Embed-KD, arXiv 2404.06170).

A trained student in two lines, its preprocessing included:

    student = clipkd.load("results/runs/corrected/digits/tiny-32/none/supervised/seed0")
    student.predict(["scan.png"])

All results of a grid as one pandas frame, a row per run and choice of its epoch:

    clipkd.results("results").groupby(["train_type", "epoch"]).top1.mean()
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clipkd.export.model import load
    from clipkd.tables.results import results

from clipkd.core.version import __version__

__all__ = ["__version__", "load", "results"]


def __getattr__(name: str) -> Any:
    """Load what needs torch or pandas only when it is asked for: the Snakefile imports this package in every job."""
    if name == "load":
        from clipkd.export.model import load

        return load
    if name == "results":
        from clipkd.tables.results import results

        return results
    raise AttributeError(f"module 'clipkd' has no attribute '{name}'")
