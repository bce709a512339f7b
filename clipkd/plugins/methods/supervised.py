"""No teacher: the baseline that the paper lacks."""

from clipkd.plugins.methods import Method


class Supervised(Method):
    """CE(s, y)."""

    def loss(self, student, outputs, labels, signal, recipe):
        from clipkd.plugins.methods import _losses as losses

        classification = losses.classification(outputs.logits, labels, recipe)
        return {"loss": classification, "classification": classification}


SPEC = Supervised(name="supervised", title="Supervised", signal="nothing")
