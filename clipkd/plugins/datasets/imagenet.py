"""ImageNet-1k, from the folder that the user has (`train/`, `val/`)."""

from clipkd.plugins.datasets.image_folder import ImageFolder

SPEC = ImageFolder(name="imagenet", title="ImageNet", classes=1000)
