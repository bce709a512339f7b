"""`modern` at full strength, for students of millions of parameters in long runs."""

from dataclasses import replace

from clipkd.plugins.recipes.modern import SPEC as modern

SPEC = replace(modern, name="modern-full", augment="full")
