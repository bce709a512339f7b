"""The runs stage: one loop trains a student with any method, recipe and teacher signal."""

PROTOCOL = 3
"""Bumped when a numerical change to the training loop must run all students again."""
