"""Regular knowledge distillation: the teacher's class scores as soft targets."""

from clipkd.plugins.methods import Method


class Vanilla(Method):
    """CE(s, y) + w * distillation(s, teacher's scores) (docs/method.md, "Train types")."""

    def loss(self, student, outputs, labels, signal, recipe):
        from clipkd.plugins.methods import _losses as losses

        distillation = losses.distillation(outputs.logits, signal, recipe)
        parts = losses.total(outputs, labels, recipe, distillation=distillation)
        return parts | losses.accuracy(signal, labels)


SPEC = Vanilla(name="vanilla", title="the paper's Regular KD", signal="scores")
