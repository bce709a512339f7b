"""Control of CLIP-Embed-KD: every class gets another class's mean."""

from clipkd.plugins.methods.embed_kd import EmbedKD


class PermutedPrototypes(EmbedKD):
    """The class means, handed round one random cycle of all classes: none keeps its own."""

    def prepare(self, prototypes, seed):
        import torch

        from clipkd.plugins.methods._exchange import class_cycle

        cycle = class_cycle(len(prototypes), torch.Generator().manual_seed(seed))
        return prototypes[cycle.to(prototypes.device)]


SPEC = PermutedPrototypes(
    name="embed-KD-permuted",
    title="class-permuted prototypes",
    signal="prototypes",
    control_of="embed-KD",
    decides=True,
    protocol=2,
)
