"""The demo's larger teacher: a ViT that the workflow trains on the digits."""

from clipkd.plugins.teachers import TrainedTeacher

SPEC = TrainedTeacher(
    name="digits-vit-s",
    title="Digits ViT-S",
    image_size=64,
    patch_size=16,
    hidden_size=96,
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
    dataset="digits",
    layers=3,
    heads=4,
    epochs=40,
    max_shift=1,
)
