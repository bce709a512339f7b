"""The released code's student and losses, written plainly from the published formulas.

Nothing here uses clipkd: it is what clipkd is compared with. Slow, float64, one term a line.
"""

from __future__ import annotations

from collections import OrderedDict
from itertools import permutations

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


def norm(x: Tensor) -> Tensor:
    return (x * x).sum().sqrt()


def feature_cosine(ours: Tensor, theirs: Tensor) -> Tensor:
    """FitNets with the cosine distance: mean over images of 1 - cos."""
    return torch.stack([1 - (x @ y) / norm(x) / norm(y) for x, y in zip(ours, theirs, strict=True)]).mean()


def feature_squares(ours: Tensor, theirs: Tensor) -> Tensor:
    """FitNets: mean over images and dimensions of the squared difference."""
    return torch.stack([(a - b) ** 2 for a, b in zip(ours.flatten(), theirs.flatten(), strict=True)]).mean()


def norm_and_direction(ours: Tensor, prototypes: Tensor, labels: Tensor) -> Tensor:
    """KD++: mean over images of 1 - <z, m / |m|> / max(|z|, |m|), m the mean of the image's class."""
    each = []
    for z, label in zip(ours, labels, strict=True):
        m = prototypes[label]
        each.append(1 - z @ (m / norm(m)) / max(norm(z), norm(m)))
    return torch.stack(each).mean()


def decoupled(student: Tensor, teacher: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """DKD, eq. 7 with alpha = 1, beta = 8: T^2 (KL of (p_y, 1 - p_y) + 8 KL of the others, scaled to a sum of 1)."""
    each = []
    for s, t, label in zip(student, teacher, labels, strict=True):
        ps, pt = torch.softmax(s / temperature, dim=0), torch.softmax(t / temperature, dim=0)
        target = pt[label] * torch.log(pt[label] / ps[label])
        target = target + (1 - pt[label]) * torch.log((1 - pt[label]) / (1 - ps[label]))
        others = 0.0
        for c in range(len(s)):
            if c != label:
                qs, qt = ps[c] / (1 - ps[label]), pt[c] / (1 - pt[label])
                others = others + qt * torch.log(qt / qs)
        each.append(temperature**2 * (target + 8 * others))
    return torch.stack(each).mean()


def pearson(x: Tensor, y: Tensor) -> Tensor:
    """Pearson's correlation of two lists of numbers."""
    x, y = x - x.mean(), y - y.mean()
    return (x * y).mean() / ((x * x).mean() * (y * y).mean()).sqrt()


def stronger_teacher(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """DIST, eq. 8 to 10 with beta = gamma = 2, times T^2: 1 - correlation of each row and of each column."""
    ps, pt = torch.softmax(student / temperature, dim=1), torch.softmax(teacher / temperature, dim=1)
    inter = torch.stack([1 - pearson(a, b) for a, b in zip(ps, pt, strict=True)]).mean()
    intra = torch.stack([1 - pearson(a, b) for a, b in zip(ps.T, pt.T, strict=True)]).mean()
    return temperature**2 * (2 * inter + 2 * intra)


def huber(x: Tensor) -> Tensor:
    """RKD, eq. 6."""
    return 0.5 * x * x if abs(x) <= 1 else abs(x) - 0.5


def relational(student: Tensor, teacher: Tensor) -> Tensor:
    """RKD, eq. 5 to 9: 25 times the Huber loss of distances over their mean, 50 times that of cosines of angles."""
    pairs, triples = list(permutations(range(len(student)), 2)), list(permutations(range(len(student)), 3))

    def distances(v: Tensor) -> list[Tensor]:
        found = [norm(v[i] - v[j]) for i, j in pairs]
        return [one / (sum(found) / len(found)) for one in found]

    def angles(v: Tensor) -> list[Tensor]:
        return [(v[i] - v[j]) @ (v[k] - v[j]) / norm(v[i] - v[j]) / norm(v[k] - v[j]) for i, j, k in triples]

    distance = sum(huber(a - b) for a, b in zip(distances(student), distances(teacher), strict=True)) / len(pairs)
    angle = sum(huber(a - b) for a, b in zip(angles(student), angles(teacher), strict=True)) / len(triples)
    return 25 * distance + 50 * angle


def sigmoid_pairs(similarities: Tensor, bias: Tensor) -> Tensor:
    """SigLIP, section 3.2: -(1 / B) times the sum over i, j of log sigmoid(+-(similarity + b)), + where i = j."""
    total = 0.0
    for i in range(len(similarities)):
        for j in range(len(similarities)):
            sign = 1 if i == j else -1
            total = total + torch.log(1 + torch.exp(-sign * (similarities[i, j] + bias)))
    return total / len(similarities)


def standardised(scores: Tensor) -> Tensor:
    """Logit standardisation: each row minus its mean, over its sample deviation + 1e-7."""
    each = [(row - row.mean()) / (((row - row.mean()) ** 2).sum() / (len(row) - 1)).sqrt().add(1e-7) for row in scores]
    return torch.stack(each)
