"""Relational KD: distances and angles among the batch's images, as among the teacher's embeddings of them."""

from clipkd.plugins.methods import Method

DISTANCE, ANGLE = 25.0, 50.0
"""Weights of the two terms, as published for CIFAR-100."""


class RelationalKD(Method):
    """CE(s, y) + w * (25 L_D + 50 L_A): W. Park et al., https://arxiv.org/abs/1904.05068, eq. 5 to 9.

    L_D: Huber loss of the distances |z_i - z_j|, each over the batch's mean distance; L_A: of the cosines of the angles
    at j of all triples (i, j, k), B^3 numbers. Nothing is projected: relations are compared, not vectors."""

    def loss(self, student, outputs, labels, signal, recipe):
        import torch

        from clipkd.plugins.methods import _losses as losses

        pairs = ~torch.eye(len(signal), dtype=torch.bool, device=signal.device)
        triples = pairs[:, :, None] & pairs[:, None, :] & pairs
        each = zip(relations(outputs.embedding, pairs), relations(signal, pairs), (pairs, triples), strict=True)
        distance, angle = (
            (torch.nn.functional.huber_loss(ours, theirs, reduction="none") * among).sum() / among.sum().clamp(min=1)
            for ours, theirs, among in each
        )
        return losses.total(outputs, labels, recipe, distance=DISTANCE * distance, angle=ANGLE * angle)


def relations(vectors, pairs):
    """Return distances [B, B] of vectors [B, D] over the mean of pairs, and the cosines [j, i, k] of angles at j.

    By the law of cosines from the distances alone: B^3 numbers, where the differences' products take B^3 D.
    The distances are those of the differences themselves, so that two equal images are exactly 0 apart.
    """
    import torch

    far = torch.cdist(vectors, vectors, compute_mode="donot_use_mm_for_euclid_dist")
    mean = (far * pairs).sum() / pairs.sum().clamp(min=1)
    square, sides = far.square(), far.clamp(min=1e-6)
    cosines = (square[:, :, None] + square[:, None, :] - square) / (2 * sides[:, :, None] * sides[:, None, :])
    return far / mean.clamp(min=1e-12), cosines


SPEC = RelationalKD(
    name="RKD",
    title="Relational KD",
    signal="embeddings",
    compared_with=("teacher-KD",),
    in_teachers_space=False,
    protocol=2,  # cosines by the law of cosines: other last digits
)
