"""ViT-B/32, ImageNet-21k."""

from clipkd.plugins.teachers import HubTeacher

SPEC = HubTeacher(
    name="vit-b32-in21k",
    title="ViT-B/32",
    image_size=224,
    patch_size=32,
    hidden_size=768,
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
    hub_id="google/vit-base-patch32-224-in21k",
    revision=None,  # not known when this was written: `clipkd pin` asks the hub and locks the answer
)
