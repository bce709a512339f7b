"""The student: a CLIP-style vision transformer (docs/method.md, "Student").

Parameter names are those of OpenAI CLIP's visual tower plus `classifier` and `cluster_projection`,
so that a checkpoint of the released code loads.

Shapes begin with `...`: nothing for one student; [S] where S students are computed at once, in their
parameters as in their images (clipkd/runs/stack.py). Under `torch.autocast` the matrix products are in
bfloat16; normalisation, softmax, the sums of the residual blocks and what comes out stay float32.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clipkd.core.linear import Linear, linear
from clipkd.plugins.recipes import Recipe
from clipkd.plugins.students import NetworkSpec, StudentSpec
from clipkd.plugins.students._heads import Heads, Outputs, Widths

QUICK = 1.702
NUMBERS, NUMBERS_IN_A_WORD = 2**16, 4


class LayerNorm(nn.LayerNorm):
    """`nn.LayerNorm` of tokens [..., B, T, W] or [..., B, W]."""

    def forward(self, x: Tensor) -> Tensor:
        if self.weight.ndim == 1:
            return super().forward(x)
        shape = (len(self.weight), *[1] * (x.ndim - 2), -1)
        normed = F.layer_norm(x, x.shape[-1:], eps=self.eps)
        return normed * self.weight.view(shape) + self.bias.view(shape)


class MLP(nn.Module):
    """Two linear maps with OpenAI CLIP's QuickGELU, x sigmoid(1.702 x), between them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.c_fc = Linear(width, 4 * width)
        self.c_proj = Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        # QuickGELU(h) = SiLU(1.702 h) / 1.702. The weights take the factors: they are far smaller than h.
        scaled = linear(x, QUICK * self.c_fc.weight, QUICK * self.c_fc.bias)
        return linear(F.silu(scaled), self.c_proj.weight / QUICK, self.c_proj.bias)


class Attention(nn.Module):
    """Multi-head self-attention with the parameter names of `nn.MultiheadAttention`, batch first."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = Linear(width, width)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, x: Tensor, queries: int, masks: Masks | None = None) -> Tensor:
        """Attend among the tokens of each image [..., B, T, W].

        Args:
            x: the tokens.
            queries: how many tokens Q, from the first, gather from all of them.
            masks: of the dropout of attention weights; None: no dropout.

        Returns:
            What the queries gathered [..., B, Q, W].
        """
        *lead, tokens, width = x.shape
        projected = linear(x, self.in_proj_weight, self.in_proj_bias)
        query, key, value = projected.view(-1, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        query = query[:, :, :queries]
        if masks is None or not self.dropout:
            attended = F.scaled_dot_product_attention(query, key, value)
        else:
            # Written out: torch's own function draws from the process's one generator.
            scores = query @ (key * key.shape[-1] ** -0.5).transpose(-2, -1)
            weights = scores.softmax(dim=-1, dtype=torch.promote_types(scores.dtype, torch.float32)).to(value.dtype)
            mask, share = masks.draw(1 - self.dropout, weights.shape)
            attended = torch.where(mask, weights, weights.new_zeros(())) @ value / share
        return self.out_proj(attended.transpose(1, 2).reshape(*lead, queries, width))


class Masks:
    """The dropout masks of one forward pass of S students, drawn in the order of their use.

    Each student's generator (None: the process's) draws all of its own at once, as it would alone: 16 bits for each
    number that is kept or not, a quarter of the time that torch takes for one mask, and one kernel instead of one a
    layer.
    """

    def __init__(self, generators: Sequence[torch.Generator | None], count: int, device: torch.device) -> None:
        """Draw `count` numbers for each student, on the device of its images."""
        words = torch.empty(len(generators), -(-count // NUMBERS_IN_A_WORD), dtype=torch.int64, device=device)
        for own, generator in zip(words, generators, strict=True):
            own.random_(-(2**63), None, generator=generator)
        self.numbers, self.used = words.view(torch.int16), 0

    def draw(self, share: float, shape: Sequence[int]) -> tuple[Tensor, float]:
        """Return a mask, bool of a shape [S * B, ...], and the share that it keeps: the nearest to `share` in 2^-16.

        At least 2^-16 is kept.
        """
        left_out = min(round((1 - share) * NUMBERS), NUMBERS - 1)
        count = math.prod(shape) // len(self.numbers)
        part = self.numbers[:, self.used : self.used + count]
        self.used += count
        return (part >= left_out - NUMBERS // 2).view(*shape), 1 - left_out / NUMBERS


class ResidualBlock(nn.Module):
    """Pre-norm attention and MLP, each added to its input."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.attn = Attention(width, heads, dropout)
        self.ln_1 = LayerNorm(width)
        self.mlp = MLP(width)
        self.ln_2 = LayerNorm(width)
        self.drop_path = 0.0

    def numbers(self, images: int, tokens: int, queries: int) -> int:
        """Return how many random numbers a forward pass of a student's images draws."""
        weights = self.attn.heads * queries * tokens if self.attn.dropout else 0
        return images * (weights + (2 if self.drop_path else 0))

    def forward(self, x: Tensor, queries: int, masks: Masks | None = None) -> Tensor:
        """Return the first `queries` tokens of each image after this block [..., B, Q, W]."""
        x = x[..., :queries, :] + self.dropped(self.attn(self.ln_1(x), queries, masks), masks)
        return x + self.dropped(self.mlp(self.ln_2(x)), masks)

    def dropped(self, branch: Tensor, masks: Masks | None) -> Tensor:
        """Return a branch [..., B, Q, W], in training 0 for some images and larger for the others: its mean stays.

        G. Huang et al., Deep networks with stochastic depth, https://arxiv.org/abs/1603.09382.
        """
        if masks is None or not self.drop_path:
            return branch
        mask, share = masks.draw(1 - self.drop_path, branch.shape[:-2])
        return torch.where(mask[..., None, None], branch, branch.new_zeros(())) / share


class Transformer(nn.Module):
    """The residual blocks, one after another."""

    def __init__(self, width: int, layers: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.resblocks = nn.Sequential(*(ResidualBlock(width, heads, dropout) for _ in range(layers)))

    def forward(self, x: Tensor, generators: Sequence[torch.Generator | None] | None = None) -> Tensor:
        """Return the class token after the last block [..., B, W].

        The last block computes no other token: nothing reads them, so the result is the same.
        """
        *images, tokens, _ = x.shape
        blocks = cast(Sequence[ResidualBlock], list(self.resblocks))
        queries = [tokens] * (len(blocks) - 1) + [1]
        masks = None
        if generators is not None:
            of_each = math.prod(images) // len(generators)
            numbers = [block.numbers(of_each, tokens, asked) for block, asked in zip(blocks, queries, strict=True)]
            masks = Masks(generators, sum(numbers), x.device)
        for block, asked in zip(blocks, queries, strict=True):
            x = block(x, asked, masks)
        return x[..., 0, :]


class Student(Heads):
    """The student network; the embedding is the class token after the last normalisation.

    Args:
        spec: sizes.
        classes, target_width, projection, learnable_scale: see `Heads.add_heads`.
    """

    def __init__(
        self,
        spec: StudentSpec,
        classes: int,
        target_width: Widths = None,
        projection: str = "teacher",
        learnable_scale: bool = False,
    ) -> None:
        super().__init__()
        width, scale = spec.width, spec.width**-0.5
        self.conv1 = nn.Conv2d(3, width, spec.patch_size, stride=spec.patch_size, bias=False)
        self.class_embedding = nn.Parameter(scale * torch.randn(width))
        tokens = (spec.image_size // spec.patch_size) ** 2 + 1
        self.positional_embedding = nn.Parameter(scale * torch.randn(tokens, width))
        self.ln_pre = LayerNorm(width)
        self.transformer = Transformer(width, spec.layers, spec.heads, spec.attention_dropout)
        self.ln_post = LayerNorm(width)
        self.add_heads(width, classes, target_width, projection, learnable_scale)

    def add_drop_path(self, rate: float) -> None:
        blocks = [block for block in self.transformer.resblocks if isinstance(block, ResidualBlock)]
        for number, block in enumerate(blocks):
            block.drop_path = rate * number / max(1, len(blocks) - 1)

    def forward(self, images: Tensor) -> Outputs:
        """Return embedding [..., B, W] and logits [..., B, C] of normalised images [..., B, 3, S, S]."""
        filters = self.conv1.weight.flatten(-3)
        tokens = linear(patches(images, self.conv1.kernel_size[0]), filters)
        class_token = self.class_embedding[..., None, None, :].expand(*tokens.shape[:-2], 1, -1)
        x = torch.cat([class_token, tokens], dim=-2) + self.positional_embedding.unsqueeze(-3)
        x = self.transformer(self.ln_pre(x), self.generators if self.training else None)
        embedding = self.ln_post(x)
        return Outputs(embedding, self.classifier(embedding).to(embedding.dtype))


def patches(images: Tensor, side: int) -> Tensor:
    """Return images [..., 3, S, S] as rows of patches [..., (S / side)^2, 3 side^2]: a convolution's inputs, its
    stride being its width."""
    *lead, channels, height, width = images.shape
    cut = images.reshape(-1, channels, height // side, side, width // side, side)
    return cut.permute(0, 2, 4, 1, 3, 5).reshape(*lead, -1, channels * side**2)


def build_student(
    spec: NetworkSpec, classes: int, target_width: Widths, recipe: Recipe, learns_bias: bool = False
) -> Heads:
    """Build the network that a recipe trains; `target_width` is None without a teacher."""
    student = spec.network(
        classes,
        target_width,
        recipe.projection,
        learnable_scale=recipe.logit_scale == "learnable" and target_width is not None,
    )
    if learns_bias:
        student.add_logit_biases()
    if recipe.drop_path:
        student.add_drop_path(recipe.drop_path)
    spec.prepare(student)
    return student
