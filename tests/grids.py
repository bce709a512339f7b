"""Configs as users write them: blocks with the least on every axis, but for what a test is about."""

from __future__ import annotations

LEAST = {
    "datasets": "[digits]",
    "teachers": "[digits-vit-s]",
    "students": "[tiny-32]",
    "train_types": "[supervised]",
    "recipes": "[corrected]",
    "seeds": "[0]",
}
TRAINING = "epochs: 1, batch_size: 256, learning_rate: 1e-3, device: cpu, stack: 1"


def block(name: str = "mini", **axes: str) -> str:
    """Return a block of a grid."""
    lines = "".join(f"    {axis}: {values}\n" for axis, values in (LEAST | axes).items())
    return f"  - name: {name}\n{lines}"


def grid(*blocks: str, training: str = TRAINING) -> str:
    """Return a grid of blocks, and how its students are trained."""
    return f"grid:\n{''.join(blocks)}training: {{{training}}}\n"
