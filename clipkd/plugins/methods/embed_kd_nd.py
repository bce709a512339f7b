"""Class means as directions: the embedding gets the direction of its class's mean, and at least its length (KD++)."""

from clipkd.plugins.methods import Method

WEIGHT = 2.0
"""Of the term; the authors take 1 to 4."""


class EmbedKDNormDirection(Method):
    """CE(s, y) + w * 2 * mean_i [1 - <z_i, m> / max(|z_i|, |M_y|)] with m = M_y / |M_y|, M_y the mean of i's class:
    Y. Wang et al., https://arxiv.org/abs/2305.17007, the ND loss (KD++). The length there is that of the teacher's
    embedding of the image, here of its class's mean, so that no embedding of an image is needed. Of several vectors a
    class, the mean over these."""

    def loss(self, student, outputs, labels, signal, recipe):
        from torch.nn.functional import normalize

        from clipkd.plugins.methods import _losses as losses

        flat = signal.reshape(-1, signal.shape[-1])
        embedding, targets = losses.projected(student, outputs.embedding, flat, recipe)
        along = embedding @ normalize(targets, dim=1).T
        longer = embedding.norm(dim=1)[:, None].maximum(targets.norm(dim=1))
        each = (1 - along / longer).view(len(labels), len(signal), -1).mean(dim=2)
        return losses.total(
            outputs, labels, recipe, direction=WEIGHT * losses.of_class(each, labels).mean() * losses.over_known(labels)
        )


SPEC = EmbedKDNormDirection(
    name="embed-KD-nd", title="CLIP-Embed-KD, norm and direction", signal="prototypes", compared_with=("embed-KD",)
)
