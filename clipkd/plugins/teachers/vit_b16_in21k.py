"""ViT-B/16, ImageNet-21k."""

from clipkd.plugins.teachers import HubTeacher

SPEC = HubTeacher(
    name="vit-b16-in21k",
    title="ViT-B/16",
    image_size=224,
    patch_size=16,
    hidden_size=768,
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
    hub_id="google/vit-base-patch16-224-in21k",
    revision="b4569560a39a0f1af58e3ddaf17facf20ab919b0",
    weights_sha256="fd4e1169c7aa6c2dbfa8a6448be13b35abc0ee256190857c90009d12c094619b",
)
