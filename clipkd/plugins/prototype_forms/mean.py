"""The mean of a class's embeddings (the released code's form)."""

from clipkd.plugins.prototype_forms import Form


class Mean(Form):
    def make(self, vectors):
        return {"prototypes": vectors.mean(axis=0)}


SPEC = Mean(name="mean", title="class mean")
