"""ViT-L/16, ImageNet-21k: the paper's first teacher."""

from clipkd.plugins.teachers import HubTeacher

SPEC = HubTeacher(
    name="vit-l16-in21k",
    title="ViT-L/16",
    image_size=224,
    patch_size=16,
    hidden_size=1024,
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
    hub_id="google/vit-large-patch16-224-in21k",
    revision="6074eaf2211423e928c93b93ef773d5da618aa7e",
)
