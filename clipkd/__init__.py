"""clipkd: knowledge distillation that never runs the teacher twice (CLIP-Embed-KD, arXiv 2404.06170)."""

__version__ = "0.1.0"
