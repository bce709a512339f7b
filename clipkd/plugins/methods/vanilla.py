"""Regular knowledge distillation: the teacher's class scores as soft targets."""

from clipkd.plugins.methods import TEACHER_TOP1, Method


class Vanilla(Method):
    """CE(s, y) + w * distillation(s, teacher's scores) (docs/method.md, "Train types")."""

    def loss(self, student, outputs, labels, signal, recipe):
        from clipkd.plugins.methods import _losses as losses

        classification = losses.classification(outputs.logits, labels, recipe)
        distillation = losses.distillation(outputs.logits, signal, recipe)
        loss = classification + recipe.distillation_weight * distillation
        # On the views that are taught: mirrored or cropped, they are harder than the images that a probe is scored on.
        right = (signal.argmax(dim=1) == labels).float().mean()
        return {"loss": loss, "classification": classification, "distillation": distillation, TEACHER_TOP1: right}


SPEC = Vanilla(name="vanilla", title="Regular KD", signal="scores")
