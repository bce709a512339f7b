"""A student that a laptop trains in seconds: the embedded demo and the tests."""

from clipkd.plugins.students import StudentSpec

SPEC = StudentSpec(name="tiny-32", image_size=32, patch_size=8, width=64, layers=2, heads=4)
