"""Data: what is read once from a source, packed into arrays, and opened from there ever after."""
