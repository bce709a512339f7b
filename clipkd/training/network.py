"""The student: a CLIP-style vision transformer (paper.md, "Student").

Parameter names are those of OpenAI CLIP's visual tower plus `classifier` and `cluster_projection`,
so that a checkpoint of the released code loads.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clipkd.recipes import Recipe
from clipkd.students import NetworkSpec, StudentSpec
from clipkd.training.heads import Heads, Outputs, Widths
from clipkd.training.linear import Linear, linear

QUICK = 1.702


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

    def forward(self, x: Tensor, queries: int | None = None) -> Tensor:
        """Attend among the tokens of each image [B, T, W]; dropout falls on the attention weights.

        Returns:
            What the first `queries` tokens (None: all) gather from all tokens [B, Q, W].
        """
        batch, tokens, _ = x.shape
        projected = linear(x, self.in_proj_weight, self.in_proj_bias)
        query, key, value = projected.view(batch, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        dropout = self.dropout if self.training else 0.0
        attended = F.scaled_dot_product_attention(query[:, :, :queries], key, value, dropout_p=dropout)
        return self.out_proj(attended.transpose(1, 2).flatten(2))


class ResidualBlock(nn.Module):
    """Pre-norm attention and MLP, each added to its input."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.attn = Attention(width, heads, dropout)
        self.ln_1 = nn.LayerNorm(width)
        self.mlp = MLP(width)
        self.ln_2 = nn.LayerNorm(width)

    def forward(self, x: Tensor, queries: int | None = None) -> Tensor:
        """Return the first `queries` tokens (None: all) of each image after this block [B, Q, W]."""
        x = x[:, :queries] + self.attn(self.ln_1(x), queries)
        return x + self.mlp(self.ln_2(x))


class Transformer(nn.Module):
    """The residual blocks, one after another."""

    def __init__(self, width: int, layers: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.resblocks = nn.Sequential(*(ResidualBlock(width, heads, dropout) for _ in range(layers)))

    def forward(self, x: Tensor) -> Tensor:
        """Return the class token after the last block [B, W].

        The last block computes no other token: nothing reads them, so the result is the same.
        """
        *earlier, last = self.resblocks
        for block in earlier:
            x = block(x)
        return last(x, queries=1)[:, 0]


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
        self.ln_pre = nn.LayerNorm(width)
        self.transformer = Transformer(width, spec.layers, spec.heads, spec.attention_dropout)
        self.ln_post = nn.LayerNorm(width)
        self.add_heads(width, classes, target_width, projection, learnable_scale)

    def forward(self, images: Tensor) -> Outputs:
        """Return embedding [B, W] and logits [B, C] of normalised images [B, 3, S, S]."""
        patches = self.conv1(images).flatten(2).transpose(1, 2)
        class_token = self.class_embedding.expand(len(patches), 1, -1)
        x = torch.cat([class_token, patches], dim=1) + self.positional_embedding
        embedding = self.ln_post(self.transformer(self.ln_pre(x)))
        return Outputs(embedding, self.classifier(embedding))


def build_student(spec: NetworkSpec, classes: int, target_width: Widths, recipe: Recipe) -> Heads:
    """Build the network that a recipe trains; `target_width` is None without a teacher."""
    return spec.network(
        classes,
        target_width,
        recipe.projection,
        learnable_scale=recipe.logit_scale == "learnable" and target_width is not None,
    )
