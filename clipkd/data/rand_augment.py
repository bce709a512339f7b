"""RandAugment of 8-bit images, a batch at once on any device: timm's `rand-m9-mstd0.5-inc1`.

E. Cubuk et al., https://arxiv.org/abs/1909.13719. Each operation gives, to the bit, what timm's makes of the same image
and argument with PIL, bilinear; but `posterize` keeps at least one bit (timm asks PIL for 0 bits at the highest level,
which Pillow 13 refuses). Which images an operation is for is known on the host, so that none waits for the device.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor

from clipkd.data.pixels import per_channel

LAYERS, SHARE, MAGNITUDE, DEVIATION, HIGHEST = 2, 0.5, 9.0, 0.5, 10.0
"""Operations an image gets, one after another, each with this probability, at a level of N(9, 0.5), 0 to 10."""
NUMBERS = 5 * LAYERS
"""Random numbers that an image's operations take."""
Level = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Level from 0 to 1 and sign of each image -> its operation's argument."""
Operation = Callable[[Tensor, Tensor], Tensor]
"""Images, uint8 [N, 3, S, S], and arguments [N, 1, 1, 1] -> images."""
Matrices = Callable[[np.ndarray, int], np.ndarray]
"""Arguments [N] and the images' side -> matrices [N, 6]."""
GREY = (19595, 38470, 7471)
"""PIL's weights of red, green and blue, in units of 2^-16."""


def drawn(uniforms: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the operations [LAYERS, N], as places in OPERATIONS (-1: none), and their arguments, float64 [LAYERS, N].

    Args:
        uniforms: numbers in [0, 1) [NUMBERS, N].
    """
    which, used, first, second, sign = uniforms.reshape(LAYERS, 5, -1).transpose(1, 0, 2)
    normal = np.sqrt(-2 * np.log1p(-first)) * np.cos(2 * math.pi * second)  # G. Box, M. Muller, 1958
    level = (MAGNITUDE + DEVIATION * normal).clip(0, HIGHEST) / HIGHEST
    sign = np.where(sign < 0.5, 1.0, -1.0)
    chosen = (which * len(OPERATIONS)).astype(np.int64)
    arguments = np.stack([argument(level, sign) for argument in OPERATIONS.values()])
    arguments = np.take_along_axis(arguments, chosen[None], axis=0)[0]
    return np.where(used < SHARE, chosen, -1), arguments


def rand_augment(images: Tensor, operations: np.ndarray, arguments: np.ndarray, fill: tuple[int, int, int]) -> Tensor:
    """Return images with their operations done, uint8 [N, 3, S, S].

    Args:
        images: uint8 [N, 3, S, S].
        operations, arguments: of each layer and image [LAYERS, N], as `drawn` returns them.
        fill: the colour of what comes in from outside an image.
    """
    side = images.shape[-1]
    for chosen, values in zip(operations, arguments, strict=True):
        made, matrices = images.clone(), np.full((len(images), 6), np.nan)
        for number, operation in enumerate(OPERATIONS):
            rows = np.flatnonzero(chosen == number)
            if operation in GEOMETRY:  # all of a layer at once
                matrices[rows] = GEOMETRY[operation](values[rows], side)
            elif len(rows):
                put(made, images, rows, COLOURS[operation], values[rows].reshape(-1, 1, 1, 1))
        rows = np.flatnonzero(~np.isnan(matrices[:, 0]))
        if len(rows):
            put(made, images, rows, partial(affine, fill=fill), matrices[rows])
        images = made
    return images


def put(made: Tensor, images: Tensor, rows: np.ndarray, operation: Operation, values: np.ndarray) -> None:
    """Put into `made` what an operation makes of some rows of the images."""
    index, value = (torch.from_numpy(one).to(images.device, non_blocking=True) for one in (rows, values))
    made.index_copy_(0, index, operation(images.index_select(0, index), value))


def looked_up(images: Tensor, table: Tensor) -> Tensor:
    """Return each pixel's entry of its channel's table [N, 3, 256]."""
    return table.to(torch.uint8).gather(2, images.flatten(2).long()).view_as(images)


def auto_contrast(images: Tensor, value: Tensor) -> Tensor:
    pixels = images.flatten(2).double()
    low, high = pixels.amin(2, keepdim=True), pixels.amax(2, keepdim=True)
    levels = torch.arange(256, dtype=torch.float64, device=images.device)
    scale = torch.full_like(low, 255) / (high - low).clamp(min=1)  # 255 / x would be 255 times a rounded 1 / x
    stretched = (levels * scale + -low * scale).trunc().clamp(0, 255)
    return looked_up(images, torch.where(high > low, stretched, levels))


def equalize(images: Tensor, value: Tensor) -> Tensor:
    pixels = images.flatten(2).long()
    counts = torch.zeros(*pixels.shape[:2], 256, dtype=torch.int64, device=images.device)
    counts.scatter_add_(2, pixels, torch.ones_like(pixels))
    brightest = counts.gather(2, pixels.amax(2, keepdim=True))
    step = (pixels.shape[2] - brightest) // 255
    below = counts.cumsum(2) - counts
    table = ((below + step // 2) // step.clamp(min=1)).clamp(max=255)
    return looked_up(images, torch.where(step > 0, table, torch.arange(256, device=images.device)))


def invert(images: Tensor, value: Tensor) -> Tensor:
    return 255 - images


def posterize(images: Tensor, bits: Tensor) -> Tensor:
    return images & (256 - 2 ** (8 - bits)).to(torch.uint8)


def solarize(images: Tensor, threshold: Tensor) -> Tensor:
    return torch.where(images < threshold, images, 255 - images)


def solarize_add(images: Tensor, add: Tensor) -> Tensor:
    return torch.where(images < 128, (images + add).clamp(max=255).to(torch.uint8), images)


def blend(plain: Tensor, images: Tensor, factor: Tensor) -> Tensor:
    """Return plain + factor * (images - plain), cut off to 8 bits, in float32 as PIL does it."""
    plain = plain.float()
    return (plain + factor.float() * (images.float() - plain)).clamp(0, 255).to(torch.uint8)


def grey(images: Tensor) -> Tensor:
    """Return the brightness of each pixel, 0 to 255, int64 [N, 1, S, S]."""
    weights = per_channel(GREY, torch.int64, images.device)
    return (images * weights).sum(1, keepdim=True) + 0x8000 >> 16


def color(images: Tensor, factor: Tensor) -> Tensor:
    return blend(grey(images), images, factor)


def contrast(images: Tensor, factor: Tensor) -> Tensor:
    return blend((grey(images).double().mean((2, 3), keepdim=True) + 0.5).floor(), images, factor)


def brightness(images: Tensor, factor: Tensor) -> Tensor:
    return blend(torch.zeros_like(images), images, factor)


def sharpness(images: Tensor, factor: Tensor) -> Tensor:
    pixels = images.int()
    columns = pixels[..., :-2] + pixels[..., 1:-1] + pixels[..., 2:]
    inner = columns[..., :-2, :] + columns[..., 1:-1, :] + columns[..., 2:, :] + 4 * pixels[..., 1:-1, 1:-1]
    smooth = pixels.clone()
    smooth[..., 1:-1, 1:-1] = (2 * inner + 13) // 26  # thirteenths, rounded
    return blend(smooth, images, factor)


def affine(images: Tensor, matrix: Tensor, fill: tuple[int, int, int]) -> Tensor:
    """Return images whose pixel (x, y) is the old one at (a x + b y + c, d x + e y + f), bilinear, as PIL does it.

    Args:
        images: uint8 [N, 3, S, S].
        matrix: a to f, float64 [N, 6].
        fill: the colour of what is outside.
    """
    side = images.shape[-1]
    at = torch.arange(side, dtype=torch.float64, device=images.device) + 0.5
    a, b, c, d, e, f = matrix.T[:, :, None, None]
    x, y = (m * at + n * at[:, None] + o for m, n, o in ((a, b, c), (d, e, f)))
    inside = (x >= 0) & (x < side) & (y >= 0) & (y < side)
    x, y = x - 0.5, y - 0.5
    left, top = x.floor(), y.floor()
    pixels = images.flatten(2)
    rows, columns = ([(edge + more).clamp(0, side - 1).long() for more in (0, 1)] for edge in (top, left))

    def old(down: int, right: int) -> Tensor:
        index = (rows[down] * side + columns[right]).flatten(1)[:, None].expand(-1, 3, -1)
        return pixels.gather(2, index).view_as(images).double()

    def between(first: Tensor, second: Tensor, share: Tensor) -> Tensor:
        return first + (second - first) * share[:, None]

    upper, lower = (between(old(row, 0), old(row, 1), x - left) for row in (0, 1))
    outside = per_channel(tuple(fill), torch.uint8, images.device)
    return torch.where(inside[:, None], between(upper, lower, y - top).to(torch.uint8), outside)


def rotation(degrees: np.ndarray, side: int) -> np.ndarray:
    """Return the matrices [N, 6] of a turn about the centre, with PIL's rounding."""
    angle = -np.radians(degrees % 360)
    cosine, sine = np.cos(angle).round(15), np.sin(angle).round(15)
    x, y = -cosine * side / 2 - sine * side / 2 + side / 2, sine * side / 2 - cosine * side / 2 + side / 2
    return np.stack([cosine, sine, x, -sine, cosine, y], axis=1)


def moved(place: int, per_pixel: bool = False) -> Matrices:
    """Return what puts arguments at a place of the identity's matrices; per pixel: times the side."""

    def matrices(arguments: np.ndarray, side: int) -> np.ndarray:
        made = np.tile([1.0, 0, 0, 0, 1, 0], (len(arguments), 1))
        made[:, place] = arguments * (side if per_pixel else 1)
        return made

    return matrices


def signed(largest: float) -> Level:
    return lambda level, sign: sign * (level * largest)


def none(level: np.ndarray, sign: np.ndarray) -> np.ndarray:
    return np.zeros_like(level)


def factor(level: np.ndarray, sign: np.ndarray) -> np.ndarray:
    return np.maximum(0.1, 1 + sign * (level * 0.9))


OPERATIONS: dict[str, Level] = {
    "AutoContrast": none,
    "Equalize": none,
    "Invert": none,
    "Rotate": signed(30.0),
    "PosterizeIncreasing": lambda level, sign: np.maximum(1, 4 - (level * 4).astype(np.int64)) * 1.0,
    "SolarizeIncreasing": lambda level, sign: 256.0 - (level * 256).astype(np.int64),
    "SolarizeAdd": lambda level, sign: (level * 110).astype(np.int64) * 1.0,
    "ColorIncreasing": factor,
    "ContrastIncreasing": factor,
    "BrightnessIncreasing": factor,
    "SharpnessIncreasing": factor,
    "ShearX": signed(0.3),
    "ShearY": signed(0.3),
    "TranslateXRel": signed(0.45),
    "TranslateYRel": signed(0.45),
}
"""timm's name of an operation -> its argument."""
COLOURS: dict[str, Operation] = {
    "AutoContrast": auto_contrast,
    "Equalize": equalize,
    "Invert": invert,
    "PosterizeIncreasing": posterize,
    "SolarizeIncreasing": solarize,
    "SolarizeAdd": solarize_add,
    "ColorIncreasing": color,
    "ContrastIncreasing": contrast,
    "BrightnessIncreasing": brightness,
    "SharpnessIncreasing": sharpness,
}
GEOMETRY: dict[str, Matrices] = {
    "Rotate": rotation,
    "ShearX": moved(1),
    "ShearY": moved(3),
    "TranslateXRel": moved(2, per_pixel=True),
    "TranslateYRel": moved(5, per_pixel=True),
}
