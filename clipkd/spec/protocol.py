"""The protocol number of the training loop: a part of every run's identity."""

PROTOCOL = 5
"""Bumped when a numerical change to the training loop must run all students again."""
