"""Trained students given away: loaded, exported, described, pushed."""
