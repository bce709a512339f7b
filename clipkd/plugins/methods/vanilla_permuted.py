"""Control of regular KD: each image is taught the class scores of another training image of any class."""

from clipkd.plugins.methods.vanilla import Vanilla

SPEC = Vanilla(
    name="vanilla-permuted",
    title="scores permuted",
    signal="scores",
    control_of="vanilla",
    target_of="another image",
)
