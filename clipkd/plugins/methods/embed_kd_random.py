"""Control of CLIP-Embed-KD: random vectors with the angles of the class means, in another order of the classes."""

from clipkd.plugins.methods.embed_kd import EmbedKD


class RandomPrototypes(EmbedKD):
    """The class means, turned by one random rotation of the teacher's space and handed round a random cycle.

    A rotation alone keeps every angle and length, so a linear projection would undo it and nothing would be random.
    Directions drawn one by one would keep nothing: they are orthogonal where class means are nearly parallel, which
    changes how hard the contrastive term is, whatever the means say of their classes. So the vectors have the means'
    own Gram matrix, and only which class is near which is drawn.
    """

    def prepare(self, prototypes, seed):
        from clipkd.plugins.methods._exchange import class_cycle_and_rotation

        cycle, rotation = class_cycle_and_rotation(len(prototypes), prototypes.shape[-1], seed)
        turned = prototypes.double() @ rotation.to(prototypes.device)
        return turned[cycle.to(turned.device)].to(prototypes.dtype)


SPEC = RandomPrototypes(
    name="embed-KD-random", title="random prototypes", signal="prototypes", control_of="embed-KD", protocol=2
)
