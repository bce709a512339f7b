"""Feature regression by squares: the projected embedding approaches the teacher's, in length too."""

from clipkd.plugins.methods import Method


class FeatureMSE(Method):
    """CE(s, y) + w * mean over images and dimensions of (z - e)^2: A. Romero et al., FitNets
    (https://arxiv.org/abs/1412.6550), eq. 3, over the last embedding. Its size depends on that of the teacher's
    vectors."""

    def loss(self, student, outputs, labels, signal, recipe):
        from torch.nn.functional import mse_loss

        from clipkd.plugins.methods import _losses as losses

        feature = mse_loss(*losses.projected(student, outputs.embedding, signal, recipe))
        return losses.total(outputs, labels, recipe, feature=feature)


SPEC = FeatureMSE(name="feature-KD-mse", title="Feature KD, MSE", signal="embeddings", compared_with=("feature-KD",))
