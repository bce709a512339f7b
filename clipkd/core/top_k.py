"""Top-k accuracy."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def top_k(scores: Tensor, labels: Tensor, *ks: int) -> list[Tensor]:
    """Return, for each k, how many rows of scores [B, C] have their label [B] among the k highest; on the device.

    Without `ks`: of the best and of the best five. Fewer than k classes count as all of them.
    """
    ks = ks or (1, 5)
    best = scores.topk(min(max(ks), scores.shape[1]), dim=1).indices
    hits = best == labels[:, None]
    return [hits[:, :k].sum() for k in ks]
