"""A student between tiny and base, for experiments that a laptop finishes: 0.83 M parameters."""

from clipkd.plugins.students import StudentSpec

SPEC = StudentSpec(name="small-32", image_size=32, patch_size=8, width=128, layers=4, heads=4)
