"""Files of an export, and the kind in its manifest."""

EXPORT = "export"
CARD, CONFIG, WEIGHTS = "README.md", "config.json", "model.safetensors"
DISTILLATION = "distillation.safetensors"
"""The projection and logit scale of a student whose other weights are in timm's model.safetensors."""
