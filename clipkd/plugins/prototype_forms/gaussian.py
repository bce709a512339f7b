"""A class's mean and the deviation of each dimension: in training, a vector is drawn for each class in each step."""

from clipkd.plugins.prototype_forms import Form


class Gaussian(Form):
    def make(self, vectors):
        return {"prototypes": vectors.mean(axis=0), "deviation": vectors.std(axis=0)}


SPEC = Gaussian(name="gaussian", title="normal distribution")
