"""The demo's smaller teacher: a ViT that the workflow trains on the digits."""

from clipkd.plugins.teachers import TrainedTeacher

SPEC = TrainedTeacher(
    name="digits-vit-xs",
    title="Digits ViT-XS",
    image_size=48,
    patch_size=12,
    hidden_size=64,
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
    dataset="digits",
    layers=2,
    heads=4,
    epochs=40,
)
