"""Control of regular KD: each image is taught the class scores of another training image of its class."""

from clipkd.plugins.methods.vanilla import Vanilla

SPEC = Vanilla(
    name="vanilla-within-class",
    title="scores permuted within classes",
    signal="scores",
    control_of="vanilla",
    decides=True,
    target_of="another image of the class",
)
