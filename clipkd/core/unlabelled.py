"""The class number of an image whose class is not known, or that a run must not see. No torch here."""

UNLABELLED = -1
