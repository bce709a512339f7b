"""Each embedding brought to length 1, averaged, and the average brought to length 1."""

from clipkd.plugins.prototype_forms import Form, unit_length


class UnitMean(Form):
    def make(self, vectors):
        return {"prototypes": unit_length(unit_length(vectors).mean(axis=0))}


SPEC = UnitMean(name="unit-mean", title="mean of unit vectors")
