"""CLIP-Teacher-KD with SigLIP's loss: each pair of an image and a teacher embedding is right or wrong by itself."""

from clipkd.plugins.methods import Method


class SigmoidKD(Method):
    """CE(s, y) - w * (1 / B) sum_ij log sigmoid(l_ij (t cos(z_i, e_j) + b)), l_ij = 1 where i = j, else -1: X. Zhai et
    al., https://arxiv.org/abs/2303.15343, section 3.2. b is learned from -10; t is the recipe's logit scale."""

    def loss(self, student, outputs, labels, signal, recipe):
        from torch.nn.functional import logsigmoid

        from clipkd.plugins.methods import _losses as losses

        similarity = losses.similarity(student, outputs.embedding, signal, recipe) + student.logit_bias
        sign = 2.0 * losses.positives(labels, recipe) - 1
        contrastive = -logsigmoid(sign * similarity).sum(dim=1).mean()
        return losses.total(outputs, labels, recipe, contrastive=contrastive)


SPEC = SigmoidKD(
    name="sigmoid-KD",
    title="CLIP-Teacher-KD, sigmoid",
    signal="embeddings",
    compared_with=("teacher-KD",),
    learns_bias=True,
)
