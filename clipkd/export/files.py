"""Files of an export, and the kind in its manifest."""

EXPORT = "export"
CARD, CONFIG, WEIGHTS = "README.md", "config.json", "model.safetensors"
