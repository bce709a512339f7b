"""The released code's student on 64 px images."""

from clipkd.plugins.students import StudentSpec

SPEC = StudentSpec(name="base-64", image_size=64, patch_size=4, width=256, layers=6, heads=8)
