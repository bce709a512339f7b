"""The released code's student and losses, written plainly from the published formulas.

Nothing here uses clipkd: it is what clipkd is compared with. Slow, float64, one term a line.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn


class QuickGELU(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x / (1 + torch.exp(-1.702 * x))


class Block(nn.Module):
    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(width, heads, dropout=dropout)
        self.ln_1 = nn.LayerNorm(width, eps=1e-5)
        layers = [("c_fc", nn.Linear(width, 4 * width)), ("gelu", QuickGELU()), ("c_proj", nn.Linear(4 * width, width))]
        self.mlp = nn.Sequential(OrderedDict(layers))
        self.ln_2 = nn.LayerNorm(width, eps=1e-5)

    def forward(self, x: Tensor) -> Tensor:
        normed = self.ln_1(x)
        x = x + self.attn(normed, normed, normed, need_weights=False)[0]
        return x + self.mlp(self.ln_2(x))


class PlainStudent(nn.Module):
    """CLIP's visual tower, sequence first, with `nn.MultiheadAttention`, a classifier and a projection."""

    def __init__(self, size: int, patch: int, width: int, layers: int, heads: int, classes: int, teacher: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, patch, patch, bias=False)
        self.class_embedding = nn.Parameter(torch.randn(width))
        self.positional_embedding = nn.Parameter(torch.randn((size // patch) ** 2 + 1, width))
        self.ln_pre = nn.LayerNorm(width, eps=1e-5)
        self.transformer = nn.Module()
        self.transformer.resblocks = nn.Sequential(*[Block(width, heads, 0.1) for _ in range(layers)])
        self.ln_post = nn.LayerNorm(width, eps=1e-5)
        self.classifier = nn.Linear(width, classes)
        self.cluster_projection = nn.Linear(teacher, width)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        x = self.conv1(images)
        x = x.reshape(x.shape[0], x.shape[1], -1).permute(0, 2, 1)
        token = self.class_embedding.reshape(1, 1, -1).repeat(len(x), 1, 1)
        x = self.ln_pre(torch.cat([token, x], dim=1) + self.positional_embedding)
        x = self.transformer.resblocks(x.permute(1, 0, 2)).permute(1, 0, 2)
        z = self.ln_post(x[:, 0, :])
        return z, torch.softmax(self.classifier(z), dim=1)


def cross_entropy(scores: Tensor, labels: Tensor) -> Tensor:
    """Mean over rows of -log(exp(score of the label) / sum of exp(scores))."""
    exponentials = torch.exp(scores)
    rows = torch.arange(len(scores))
    return -torch.log(exponentials[rows, labels] / exponentials.sum(dim=1)).mean()


def soft_cross_entropy(scores: Tensor, targets: Tensor) -> Tensor:
    """Mean over rows of -sum over classes of target * log softmax(score)."""
    exponentials = torch.exp(scores)
    return -(targets * torch.log(exponentials / exponentials.sum(dim=1, keepdim=True))).sum(dim=1).mean()


def cosines(a: Tensor, b: Tensor) -> Tensor:
    """Every row of a against every row of b."""
    return torch.stack([torch.stack([(x @ y) / (x @ x).sqrt() / (y @ y).sqrt() for y in b]) for x in a])


def kullback_leibler(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T^2 times the mean over rows of sum p log(p / q), p = softmax(teacher / T), q = softmax(student / T)."""
    p, q = torch.softmax(teacher / temperature, dim=1), torch.softmax(student / temperature, dim=1)
    return temperature**2 * (p * torch.log(p / q)).sum(dim=1).mean()
