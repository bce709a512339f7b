"""Control of CLIP-Embed-KD: one-hot vectors in place of the class means, no teacher content at all."""

from clipkd.plugins.methods.embed_kd import EmbedKD


class OneHotPrototypes(EmbedKD):
    """Row c is the c-th unit vector of the teacher's space (of a space of C dimensions where D < C)."""

    def prepare(self, prototypes, seed):
        import torch

        classes, dimensions = len(prototypes), prototypes.shape[-1]
        return torch.eye(classes, max(classes, dimensions), dtype=prototypes.dtype, device=prototypes.device)


SPEC = OneHotPrototypes(
    name="embed-KD-onehot",
    title="one-hot prototypes",
    signal="prototypes",
    control_of="embed-KD",
    in_teachers_space=False,
)
