"""Top-k accuracy."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def hits(scores: Tensor, labels: Tensor, k: int = 5) -> Tensor:
    """Return where rows of scores [B, C] have their label [B], best first: bool [B, k], [B, C] with fewer classes."""
    best = scores.topk(min(k, scores.shape[1]), dim=1).indices
    return best == labels[:, None]


def top_k(scores: Tensor, labels: Tensor, *ks: int) -> list[Tensor]:
    """Return, for each k, how many rows of scores [B, C] have their label [B] among the k highest; on the device.

    Without `ks`: of the best and of the best five. Fewer than k classes count as all of them.
    """
    ks = ks or (1, 5)
    found = hits(scores, labels, max(ks))
    return [found[:, :k].sum() for k in ks]
