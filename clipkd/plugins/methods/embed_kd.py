"""CLIP-Embed-KD: the teacher's mean embedding of an image's class is its positive."""

from clipkd.plugins.methods import Method


class EmbedKD(Method):
    """CE(s, y) + w * CE(cos(z, M), y) (docs/method.md, "Train types")."""

    def loss(self, student, outputs, labels, signal, recipe):
        from clipkd.plugins.methods import _losses as losses

        similarity = losses.class_similarity(student, outputs.embedding, signal, recipe)
        return losses.total(outputs, labels, recipe, contrastive=losses.cross_entropy(similarity, labels))


SPEC = EmbedKD(name="embed-KD", title="CLIP-Embed-KD", signal="prototypes", compared_with=("teacher-KD", "vanilla"))
