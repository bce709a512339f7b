"""DIST: the teacher's class scores up to shift and scale, for each image and for each class over the batch."""

from clipkd.plugins.methods import Method

INTER, INTRA = 2.0, 2.0
"""Beta and gamma, as published."""
EPSILON = 1e-8


class Dist(Method):
    """CE(s, y) + w * T^2 (beta mean_i d(p_s[i], p_t[i]) + gamma mean_c d(p_s[:, c], p_t[:, c])), p = softmax(. / T) and
    d = 1 - Pearson's correlation: T. Huang et al., https://arxiv.org/abs/2205.10536, eq. 7 to 10; the factor T^2 is
    that of the authors' code."""

    def loss(self, student, outputs, labels, signal, recipe):
        from torch.nn.functional import cosine_similarity

        from clipkd.plugins.methods import _losses as losses

        scores, temperature = losses.scores(outputs.logits, recipe), recipe.temperature
        ours, theirs = ((one / temperature).softmax(dim=1) for one in (scores, signal))

        def distance(dim: int):
            a, b = (one - one.mean(dim=dim, keepdim=True) for one in (ours, theirs))
            return temperature**2 * (1 - cosine_similarity(a, b, dim=dim, eps=EPSILON)).mean()

        terms = {"inter": INTER * distance(1), "intra": INTRA * distance(0)}
        return losses.total(outputs, labels, recipe, **terms) | losses.accuracy(signal, labels)


SPEC = Dist(name="DIST", title="DIST", signal="scores", compared_with=("vanilla",))
