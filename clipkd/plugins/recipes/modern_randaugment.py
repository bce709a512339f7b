"""`modern` with crops, flips and RandAugment."""

from dataclasses import replace

from clipkd.plugins.recipes.modern import SPEC as modern

SPEC = replace(modern, name="modern-randaugment", augment="randaugment")
