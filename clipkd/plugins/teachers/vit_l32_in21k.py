"""ViT-L/32, ImageNet-21k."""

from clipkd.plugins.teachers import HubTeacher

SPEC = HubTeacher(
    name="vit-l32-in21k",
    title="ViT-L/32",
    image_size=224,
    patch_size=32,
    hidden_size=1024,
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
    hub_id="google/vit-large-patch32-224-in21k",
    revision="1170e42b7c584b04363ac5ad6b246001e8ba9113",  # refs/pr/1: main has no safetensors
    weights_sha256="305888200ef5f4be58ab84ce2295f94188e035d720fb2faea1b0418fee848225",
)
