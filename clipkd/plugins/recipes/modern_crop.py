"""`modern` with crops of 80 to 100 % of the area, and flips."""

from dataclasses import replace

from clipkd.plugins.recipes.modern import SPEC as modern

SPEC = replace(modern, name="modern-crop", augment="crop")
