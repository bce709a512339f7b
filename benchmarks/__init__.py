"""Benchmarks: ratios against a fair peer, measured side by side in one process (`make bench`)."""
