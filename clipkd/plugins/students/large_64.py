"""The paper's large student, inferred from its published 0.13 GB of parameters, on 64 px images."""

from clipkd.plugins.students import StudentSpec

SPEC = StudentSpec(name="large-64", image_size=64, patch_size=4, width=512, layers=10, heads=8)
