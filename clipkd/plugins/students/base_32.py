"""The released code's student: 4.8 M parameters."""

from clipkd.plugins.students import StudentSpec

SPEC = StudentSpec(name="base-32", image_size=32, patch_size=4, width=256, layers=6, heads=8)
