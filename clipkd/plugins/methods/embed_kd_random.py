"""Control of CLIP-Embed-KD: random vectors in place of the class means."""

from clipkd.plugins.methods.embed_kd import EmbedKD


class RandomPrototypes(EmbedKD):
    """Gaussian directions, drawn by the run's seed, with each class mean's own length."""

    def prepare(self, prototypes, seed):
        import torch

        generator = torch.Generator().manual_seed(seed)
        drawn = torch.randn(prototypes.shape, generator=generator, dtype=prototypes.dtype)
        lengths = prototypes.norm(dim=-1, keepdim=True)
        return drawn / drawn.norm(dim=-1, keepdim=True) * lengths


SPEC = RandomPrototypes(name="embed-KD-random", title="random prototypes", signal="prototypes", control_of="embed-KD")
