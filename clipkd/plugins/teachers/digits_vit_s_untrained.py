"""A negative control: the demo's larger teacher with random weights. Its class means must not be found to matter."""

from dataclasses import replace

from clipkd.plugins.teachers import digits_vit_s

SPEC = replace(digits_vit_s.SPEC, name="digits-vit-s-untrained", title="Digits ViT-S, untrained", epochs=0)
