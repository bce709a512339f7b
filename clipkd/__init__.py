"""clipkd: knowledge distillation that never runs the teacher twice (CLIP-Embed-KD, arXiv 2404.06170).

A trained student in two lines, its preprocessing included:

    student = clipkd.load("results/runs/corrected/digits/tiny-32/none/supervised/seed0")
    student.predict(["scan.png"])
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clipkd.export.model import load

from clipkd.core.version import __version__

__all__ = ["__version__", "load"]


def __getattr__(name: str) -> Any:
    """Load what needs torch only when it is asked for: the Snakefile imports this package in every job."""
    if name == "load":
        from clipkd.export.model import load

        return load
    raise AttributeError(f"module 'clipkd' has no attribute '{name}'")
