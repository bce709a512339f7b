"""Regular knowledge distillation: the teacher's class scores as soft targets."""

from clipkd.plugins.methods import Method


class Vanilla(Method):
    """CE(s, y) + w * distillation(s, teacher's scores) (docs/method.md, "Train types")."""

    def loss(self, student, outputs, labels, signal, recipe):
        from clipkd.plugins.methods import _losses as losses

        classification = losses.classification(outputs.logits, labels, recipe)
        distillation = losses.distillation(outputs.logits, signal, recipe)
        loss = classification + recipe.distillation_weight * distillation
        return {"loss": loss, "classification": classification, "distillation": distillation}


SPEC = Vanilla(name="vanilla", title="Regular KD", signal="scores")
