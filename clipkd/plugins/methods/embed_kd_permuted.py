"""Control of CLIP-Embed-KD: every class gets another class's mean."""

from clipkd.plugins.methods.embed_kd import EmbedKD


class PermutedPrototypes(EmbedKD):
    """The class means, handed round one random cycle of all classes: none keeps its own."""

    def prepare(self, prototypes, seed):
        import torch

        cycle = torch.randperm(len(prototypes), generator=torch.Generator().manual_seed(seed))
        permuted = torch.empty_like(prototypes)
        permuted[cycle] = prototypes[cycle.roll(1)]
        return permuted


SPEC = PermutedPrototypes(
    name="embed-KD-permuted", title="class-permuted prototypes", signal="prototypes", control_of="embed-KD"
)
