"""Feature regression: the projected embedding turns to the teacher's embedding of the image, no negatives."""

from clipkd.plugins.methods import Method


class FeatureKD(Method):
    """CE(s, y) + w * mean_i (1 - cos(z_i, e_i)): A. Romero et al., FitNets (https://arxiv.org/abs/1412.6550), eq. 3,
    with the cosine distance in place of the squared one, as for CLIP in C. Yang et al., CLIP-KD
    (https://arxiv.org/abs/2307.12732), whose eq. 4 squares it (`feature-KD-mse`)."""

    def loss(self, student, outputs, labels, signal, recipe):
        from clipkd.plugins.methods import _losses as losses

        feature = losses.cosine_distance(student, outputs.embedding, signal, recipe)
        return losses.total(outputs, labels, recipe, feature=feature)


SPEC = FeatureKD(name="feature-KD", title="Feature KD", signal="embeddings", compared_with=("teacher-KD",))
