"""CLIP-Teacher-KD: each image's own teacher embedding is its positive, the batch's others negatives."""

from clipkd.plugins.methods import Method


class TeacherKD(Method):
    """CE(s, y) + w * CE(cos(z, E), arange(B)) (docs/method.md, "Train types")."""

    def loss(self, student, outputs, labels, signal, recipe):
        from clipkd.plugins.methods import _losses as losses

        similarity = losses.similarity(student, outputs.embedding, signal, recipe)
        terms = {"contrastive": losses.cross_entropy(similarity, losses.batch_targets(labels, recipe))}
        if recipe.adds_feature:
            terms["feature"] = losses.cosine_distance(student, outputs.embedding, signal, recipe)
        return losses.total(outputs, labels, recipe, **terms)


SPEC = TeacherKD(name="teacher-KD", title="CLIP-Teacher-KD", signal="embeddings")
