"""Several vectors per class: the centres of k-means on its embeddings (S. Lloyd, 1982; k-means++ start)."""

import numpy as np

from clipkd.core.errors import InputError
from clipkd.plugins.prototype_forms import Form, unit_length

SEED, STARTS = 0, 4


class KMeans(Form):
    """Centres of unit vectors, brought to length 1, in the order of their first dimension."""

    def make(self, vectors):
        from sklearn.cluster import KMeans as Clusters

        assert self.centres is not None
        if len(vectors) < self.centres:
            needed = f"prototype form '{self.name}' needs {self.centres} images per class"
            raise InputError(f"{needed}, one has {len(vectors)}: take kmeans-{len(vectors)} or another form")
        units = unit_length(vectors)
        if np.isnan(units).any():  # scikit-learn would refuse them in words of its own
            return {"prototypes": np.full((self.centres, vectors.shape[1]), np.nan)}
        # One thread: the order of sums is then the same on every machine.
        from threadpoolctl import threadpool_limits

        with threadpool_limits(limits=1):
            found = Clusters(self.centres, n_init=STARTS, random_state=SEED).fit(units).cluster_centers_
        return {"prototypes": unit_length(found[found[:, 0].argsort(kind="stable")])}


SPEC = KMeans(name="kmeans", title="k-means centres", centres=0)
