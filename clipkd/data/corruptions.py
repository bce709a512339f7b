"""Corruptions: what CIFAR-C does to test images, in batches (D. Hendrycks, T. Dietterich, arXiv 1903.12261).

14 of its 15 kinds at its five severities, with the parameters that its authors published for 32 px. All but JPEG are
made on the device that the images are on. Random numbers are drawn by counter: a corrupted image depends on its row,
the kind and the severity alone. CIFAR-C itself was drawn with other numbers, so its images are others of the same kind.
`frost` is left out: it blends in photographs of frost, which are its authors'.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from clipkd.data.device_counters import normals, uniforms
from clipkd.data.warps import boxes, fractal, moved, picked, sampled, smoothed, zoomed

SEVERITIES = (1, 2, 3, 4, 5)
LEFT_OUT = ("frost",)
SEED = 1903_12261
GREY = (0.299, 0.587, 0.114)
"""Red, green, blue of ITU-R BT.601."""
Draw = Callable[..., Tensor]


def corrupted(images: Tensor, kind: str, severity: int, rows: Tensor) -> Tensor:
    """Return corrupted images, uint8 [B, 3, S, S].

    Args:
        images: uint8 [B, 3, S, S].
        kind: one of `KINDS`.
        severity: 1 to 5.
        rows: the number of each image, int64 [B], on the same device.
    """
    make, parameters = KINDS[kind]
    place = list(KINDS).index(kind) * len(SEVERITIES) + severity

    def draw(how: Callable[..., Tensor], *shape: int) -> Tensor:
        return how((SEED, place), rows, math.prod(shape)).view(len(rows), *shape)

    found = make(images.float() / 255, draw, parameters[severity - 1])
    # The authors cut decimals off; the last bits of float32 must not decide about a whole number.
    return (found.clamp(0, 1) * 255 + 1e-3).to(torch.uint8)


def gaussian_noise(x: Tensor, draw: Draw, deviation: float) -> Tensor:
    return x + deviation * draw(normals, *x.shape[1:])


def shot_noise(x: Tensor, draw: Draw, photons: float) -> Tensor:
    """Poisson noise: the photons at which the distribution of a pixel's 8-bit value reaches a uniform number."""
    values, numbers = (x * 255).round().long(), draw(uniforms, *x.shape[1:]).double()
    counts = torch.arange(1, int(photons + 10 * math.sqrt(photons)) + 1, device=x.device, dtype=torch.float64)
    rates = torch.arange(256, device=x.device, dtype=torch.float64)[:, None] * photons / 255
    below = torch.special.gammaincc(counts, rates)  # P(fewer photons than each count), of each value
    # One sorted sequence of all values: those of value v lie between v and v + 1.
    offsets = torch.arange(256, device=x.device)
    sequence = (below + offsets[:, None]).flatten()
    found = torch.searchsorted(sequence, numbers + values) - values * len(counts)
    return found.clamp(0, len(counts)).float() / photons


def impulse_noise(x: Tensor, draw: Draw, share: float) -> Tensor:
    """Salt and pepper, half of each, in each channel by itself."""
    number = draw(uniforms, *x.shape[1:])
    return torch.where(number < share, (number < share / 2).float(), x)


def defocus_blur(x: Tensor, draw: Draw, parameters: tuple[float, float]) -> Tensor:
    """A disk of a radius, smoothed by 3 x 3 values of a normal density of a deviation."""
    radius, deviation = parameters
    reach = torch.arange(-3.0, 4.0)
    disk = (reach[:, None] ** 2 + reach**2 <= radius**2).float()
    bell = torch.exp(-(torch.arange(-1.0, 2.0) ** 2) / (2 * deviation**2))
    bell = bell / bell.sum()
    smooth = torch.outer(bell, bell)[None, None]
    kernel = F.conv2d((disk / disk.sum())[None, None], smooth, padding=1).to(x.device)
    return F.conv2d(F.pad(x, (3, 3, 3, 3), "reflect").flatten(0, 1)[:, None], kernel).view_as(x)


def glass_blur(x: Tensor, draw: Draw, parameters: tuple[float, int]) -> Tensor:
    """Pixels trade places with a neighbour above or to the left, between two blurs.

    In the authors' code the exchange, of two views of one array, copies the neighbour and never writes it back; as
    the loops run down to the first pixel, an iteration is one shift of each pixel by what it drew.
    """
    deviation, iterations = parameters
    side = x.shape[-1]
    x = (smoothed(x, deviation, "nearest", 4.0) * 255 + 1e-3).floor() / 255
    shifts = -(draw(uniforms, iterations, 2, side, side) < 0.5).long()
    inside = torch.zeros(side, dtype=torch.bool, device=x.device)
    inside[2:] = True
    places = torch.arange(side, device=x.device)
    for number in range(iterations):
        down, along = (torch.where(inside[:, None] & inside, shifts[:, number, axis], 0) for axis in (0, 1))
        x = picked(x, places[:, None] + down, places + along)
    return smoothed(x, deviation, "nearest", 4.0)


def motion_blur(x: Tensor, draw: Draw, parameters: tuple[float, float]) -> Tensor:
    degrees = 90 * draw(uniforms, 1)[:, 0] - 45
    return moved(x, *parameters, degrees)


def zoom_blur(x: Tensor, draw: Draw, largest: float) -> Tensor:
    """The mean of the image and its enlargements in steps of 1 %, from none on."""
    factors = np.arange(1, largest, 0.01)
    return (x + sum(zoomed(x, float(factor)) for factor in factors)) / (len(factors) + 1)


def snow(x: Tensor, draw: Draw, parameters: tuple[float, ...]) -> Tensor:
    mean, deviation, zoom, threshold, radius, blur, share = parameters
    side = x.shape[-1]
    numbers = draw(normals, side * side + 1)
    flakes = zoomed(mean + deviation * numbers[:, 1:].reshape(-1, 1, side, side), zoom)
    flakes = (torch.where(flakes < threshold, 0, flakes).clamp(0, 1) * 255).floor() / 255
    flakes = moved(flakes, radius, blur, 90 * torch.special.ndtr(numbers[:, 0]) - 135)
    grey = (x * x.new_tensor(GREY)[:, None, None]).sum(dim=1, keepdim=True)
    whiter = share * x + (1 - share) * torch.maximum(x, grey * 1.5 + 0.5)
    return whiter + flakes + flakes.rot90(2, (2, 3))


def fog(x: Tensor, draw: Draw, parameters: tuple[float, float]) -> Tensor:
    """A height map of the diamond-square algorithm is added, and the brightest value kept."""
    amount, decay = parameters
    side = x.shape[-1]
    size = 1 << (side - 1).bit_length()
    highest = x.amax(dim=(1, 2, 3), keepdim=True)
    heights = fractal(draw(uniforms, size * size), size, decay)[:, None, :side, :side]
    return (x + amount * heights) * highest / (highest + amount)


def brightness(x: Tensor, draw: Draw, amount: float) -> Tensor:
    """V of hue, saturation and value is raised; black has neither hue nor saturation, and becomes grey."""
    value = x.amax(dim=1, keepdim=True)
    raised = (value + amount).clamp(max=1)
    return torch.where(value > 0, x * raised / value.clamp(min=1e-6), raised)


def contrast(x: Tensor, draw: Draw, share: float) -> Tensor:
    means = x.mean(dim=(2, 3), keepdim=True)
    return (x - means) * share + means


def elastic_transform(x: Tensor, draw: Draw, parameters: tuple[float, float, float]) -> Tensor:
    """Three points are moved, and the plane with them; then each pixel by a smooth field."""
    amount, deviation, reach = (32 * number for number in parameters)
    side = x.shape[-1]
    numbers = 2 * draw(uniforms, 6 + 2 * side * side) - 1
    centre, arm = side // 2, side // 3
    points = x.new_tensor([[centre + arm, centre + arm], [centre + arm, centre - arm], [centre - arm, centre - arm]])
    ends = points + reach * numbers[:, :6].view(-1, 3, 2)
    one = torch.ones_like(ends[..., :1])
    matrix = torch.linalg.solve(torch.cat([ends, one], dim=2), points.expand_as(ends))  # from where a pixel comes
    places = torch.arange(side, device=x.device, dtype=x.dtype)
    along, down = places.expand(side, side), places[:, None].expand(side, side)
    grid = torch.stack([along, down, torch.ones_like(along)], dim=2)
    sources = torch.einsum("hwk,bkc->bhwc", grid, matrix)
    x = sampled(x, sources[..., 0], sources[..., 1], 101)
    field = numbers[:, 6:].view(-1, 2, side, side)
    field = amount * (smoothed(field, deviation, "reflect", 3.0) if amount else field)
    return sampled(x, along + field[:, 0], down + field[:, 1], 0)


def pixelate(x: Tensor, draw: Draw, share: float) -> Tensor:
    side = x.shape[-1]
    small = int(side * share)
    for before, after in ((side, small), (small, side)):
        matrix = boxes(before, after).to(x.device)
        x = ((x @ matrix.T) * 255).round() / 255  # PIL rounds after each pass
        x = ((matrix @ x) * 255).round() / 255
    return x


def jpeg_compression(x: Tensor, draw: Draw, quality: int) -> Tensor:
    """PIL's, on the CPU."""
    found = []
    for image in (x * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy():
        stream = io.BytesIO()
        Image.fromarray(image).save(stream, "JPEG", quality=quality)
        found.append(np.asarray(Image.open(stream)))
    return torch.from_numpy(np.stack(found)).to(x.device).permute(0, 3, 1, 2).float() / 255


KINDS: dict[str, tuple[Callable[..., Tensor], tuple]] = {
    "gaussian_noise": (gaussian_noise, (0.04, 0.06, 0.08, 0.09, 0.1)),
    "shot_noise": (shot_noise, (500, 250, 100, 75, 50)),
    "impulse_noise": (impulse_noise, (0.01, 0.02, 0.03, 0.05, 0.07)),
    "defocus_blur": (defocus_blur, ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1))),
    "glass_blur": (glass_blur, ((0.05, 1), (0.25, 1), (0.4, 1), (0.25, 2), (0.4, 2))),
    "motion_blur": (motion_blur, ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5))),
    "zoom_blur": (zoom_blur, (1.06, 1.11, 1.16, 1.21, 1.26)),
    "snow": (
        snow,
        (
            (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
            (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
            (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
            (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
            (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
        ),
    ),
    "fog": (fog, ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75))),
    "brightness": (brightness, (0.05, 0.1, 0.15, 0.2, 0.3)),
    "contrast": (contrast, (0.75, 0.5, 0.4, 0.3, 0.15)),
    "elastic_transform": (
        elastic_transform,
        ((0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03)),
    ),
    "pixelate": (pixelate, (0.95, 0.9, 0.85, 0.75, 0.65)),
    "jpeg_compression": (jpeg_compression, (80, 65, 58, 50, 40)),
}
"""What makes each kind, and with what at each severity; deviations and radii are in pixels."""
