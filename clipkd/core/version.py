"""The version of clipkd."""

__version__ = "0.1.0"
