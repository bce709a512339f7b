"""No teacher: the baseline that the paper lacks."""

from clipkd.plugins.methods import Method


class Supervised(Method):
    """CE(s, y)."""

    def loss(self, student, outputs, labels, signal, recipe):
        from clipkd.plugins.methods import _losses as losses

        return losses.total(outputs, labels, recipe)


SPEC = Supervised(name="supervised", title="Supervised", signal="nothing")
