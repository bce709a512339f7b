"""`modern` with flips only: every view of a teacher can be stored."""

from dataclasses import replace

from clipkd.plugins.recipes.modern import SPEC as modern

SPEC = replace(modern, name="modern-flip", augment="flip")
