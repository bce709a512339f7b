"""A teacher's pass at the machine's speed: the same function, less work and faster products.

- Where nothing reads the last block's tokens but the class token's, only that one is computed there.
- Linear layers are those of clipkd.core.linear: by oneDNN where that is faster.

Both are checked on a probe batch after loading; what is not equal there is left as it was, aloud.
"""

from __future__ import annotations

import copy
import time
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clipkd.core.linear import Linear, linear
from clipkd.core.progress import say

NORMS = ("layernorm_before", "norm1")
"""What architectures call the normalisation before a block's attention."""
PROBE_IMAGES, PROBE_TOKENS = 2, 17
MOST_DIFFERENCE = 1e-4
"""Of the largest output on the probe: rounding stays far below it."""


class ClassTokenAttention(nn.Module):
    """Attention of the class token only, over the tokens that `ClassTokenBlock` leaves here."""

    def __init__(self, attention: nn.Module, norm: nn.Module) -> None:
        super().__init__()
        self.attention, self.norm = attention, norm
        self.tokens: Tensor | None = None

    def forward(self, class_token: Tensor, *_: Any, **__: Any) -> tuple[Tensor, None]:
        """Return what the normalised class token [B, 1, W] gathers from all tokens [B, 1, W]."""
        layers: Any = self.attention
        tokens, width = self.norm(self.tokens), layers.head_dim
        self.tokens = None
        query, key, value = (
            project(states).unflatten(-1, (-1, width)).transpose(1, 2)
            for project, states in ((layers.q_proj, class_token), (layers.k_proj, tokens), (layers.v_proj, tokens))
        )
        gathered = F.scaled_dot_product_attention(query, key, value, scale=layers.scaling)
        return layers.o_proj(gathered.transpose(1, 2).flatten(2)), None


class ClassTokenBlock(nn.Module):
    """A Hugging Face encoder block that returns its class token only [B, 1, W]; it shares the block's weights."""

    def __init__(self, block: nn.Module) -> None:
        """Take over a block that is left as it is.

        Raises:
            AttributeError: it has not the parts of a known form.
        """
        super().__init__()
        norm = getattr(block, next((name for name in NORMS if hasattr(block, name)), NORMS[0]))
        self.block = copy.copy(block)
        self.block._modules = dict(block._modules)
        self.block.attention = ClassTokenAttention(block.attention, norm)  # type: ignore[arg-type]

    def forward(self, tokens: Tensor, *_: Any, **__: Any) -> Tensor:
        attention = self.block.attention
        attention.tokens = tokens  # type: ignore[assignment, union-attr]
        return self.block(tokens[:, :1], None)


@torch.inference_mode()
def speed_up(model: nn.Module, title: str, linear_layers: bool, class_token_only: bool = True) -> None:
    """Exchange a loaded encoder's last block and its linear layers, where asked, if the probe finds them equal.

    Args:
        model: the encoder.
        title: the teacher's, for messages.
        linear_layers: exchange them.
        class_token_only: nothing reads another token of the last block.
    """
    config: Any = model.config
    device = next(model.parameters()).device
    lists = [part for part in model.modules() if isinstance(part, nn.ModuleList)]
    lists = [part for part in lists if len(part) == config.num_hidden_layers]
    if len(lists) != 1:
        say(f"{title}: its blocks are not found: the network runs as it is")
        return
    (blocks,) = lists
    generator = torch.Generator().manual_seed(0)
    probe = torch.randn(PROBE_IMAGES, PROBE_TOKENS, config.hidden_size, generator=generator).to(device)
    expected = output_of(blocks[-1], probe)
    if linear_layers:
        exchange(model, nn.Linear, Linear)
        if not is_equal(output_of(blocks[-1], probe), expected):
            exchange(model, Linear, nn.Linear)
            say(f"{title}: linear layers by oneDNN are not equal on the probe: torch's own are used")
    if not class_token_only:
        return
    try:
        short = ClassTokenBlock(blocks[-1])
        fits = is_equal(short(probe), expected[:, :1])
    except (AttributeError, TypeError, ValueError, RuntimeError):
        fits = False
    if fits:
        blocks[-1] = short
    else:
        say(f"{title}: its last block is of no known form, or not equal on the probe: all its tokens are computed")


def output_of(block: nn.Module, probe: Tensor) -> Tensor:
    """Return what a block makes of tokens; some families' blocks want to be told that nothing is masked."""
    try:
        return block(probe)
    except TypeError:
        return block(probe, None)


def exchange(model: nn.Module, old: type, new: type) -> None:
    """Make every layer of one class with a bias a layer of another with the same parameters."""
    for module in model.modules():
        if type(module) is old and module.bias is not None:
            module.__class__ = new


def is_equal(found: Tensor, expected: Tensor) -> bool:
    """Return whether outputs are equal but for rounding."""
    if not isinstance(found, Tensor) or found.shape != expected.shape:
        return False
    return bool((found - expected).abs().max() <= MOST_DIFFERENCE * expected.abs().max())


def gflop(model: nn.Module, image_size: int) -> float:
    """Return the operations of one image's pass, in GFLOP, whatever an implementation saves of them.

    A multiplication and an addition count two. Linear layers see every token; attention takes 4 T^2 W a block; a
    convolution sees each patch once.
    """
    config: Any = model.config
    tokens = (image_size // config.patch_size) ** 2 + 1
    weights = sum(module.weight.numel() for module in model.modules() if isinstance(module, nn.Linear))
    patches = sum(module.weight.numel() for module in model.modules() if isinstance(module, nn.Conv2d))
    attention = 4 * tokens**2 * config.hidden_size * config.num_hidden_layers
    return (2 * tokens * weights + attention + 2 * (tokens - 1) * patches) / 1e9


@cache
def matrix_peak(device: torch.device, dtype: torch.dtype, size: int = 1024, rounds: int = 5) -> float:
    """Return the speed of a large matrix product as linear layers take it, in GFLOP/s: the best of several rounds.

    Measured once in a process.
    """
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    bias = torch.zeros(size, device=device, dtype=dtype)
    best = 0.0
    for _ in range(rounds):
        start = time.perf_counter()
        for _ in range(3):
            linear(left, right, bias)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = max(best, 3 * 2 * size**3 / (time.perf_counter() - start) / 1e9)
    return best
