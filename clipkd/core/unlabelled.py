"""Images whose class is not known, or that a run must not see. No torch here."""

UNLABELLED = -1
"""Their class number."""
FEW_HELD_OUT = 0.2
"""The share of the labelled images that is held out where others have no label."""


def few_held_out(labels: int) -> int:
    """Return how many of so many labelled images are for validation, where the dataset's own split has as many."""
    return round(FEW_HELD_OUT * labels)
