"""Corruptions: each kind against the library that CIFAR-C was made with, or a slow clear loop."""

from __future__ import annotations

import io
import math

import numpy as np
import pytest
import torch
from matplotlib.colors import hsv_to_rgb, rgb_to_hsv
from PIL import Image
from scipy import ndimage, stats

from clipkd.data.corruptions import KINDS, SEVERITIES, corrupted, glass_blur
from clipkd.data.device_counters import normals, philox, uniforms
from clipkd.data.warps import fractal, moved, sampled, zoomed

ROWS = torch.arange(6)


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    """Smooth random images with an edge, uint8 [6, 3, 32, 32]; the last one is black."""
    noise = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=(6, 3, 32, 32)), (0, 0, 2, 2))
    pixels = (128 + 400 * noise + 60 * (np.arange(32) > 20)).clip(0, 255)
    pixels[5] = 0
    return torch.from_numpy(pixels.astype(np.uint8))


def arrays(images: torch.Tensor) -> np.ndarray:
    return images.permute(0, 2, 3, 1).numpy()


@pytest.mark.parametrize(
    ("word", "expected"),
    [(0, "6627e8d5 e169c58d bc57ac4c 9b00dbd8"), (0xFFFFFFFF, "408f276d 41c83b0e a20bc7c6 6d5451fd")],
)
def test_words_are_those_of_random123(word, expected) -> None:
    """The known answers of its authors."""
    found = philox(tuple(torch.tensor([word]) for _ in range(4)), (word, word))
    assert " ".join(f"{one:08x}" for one in found[:, 0].tolist()) == expected


def test_numbers_are_even_and_normal() -> None:
    rows = torch.arange(2000)
    assert stats.kstest(uniforms((1, 2), rows, 9).flatten().numpy(), "uniform").pvalue > 0.01
    assert stats.kstest(normals((1, 3), rows, 9).flatten().numpy(), "norm").pvalue > 0.01
    assert torch.equal(uniforms((1, 2), rows[5:6], 3)[0], uniforms((1, 2), rows, 9)[5, :3])


@pytest.mark.parametrize("kind", KINDS)
def test_an_image_depends_on_its_row_alone_and_suffers_with_severity(kind, images) -> None:
    changes = []
    for severity in SEVERITIES:
        whole = corrupted(images, kind, severity, ROWS)
        assert (whole.dtype, whole.shape) == (torch.uint8, images.shape)
        part = corrupted(images[2:4], kind, severity, ROWS[2:4])
        assert (part.int() - whole[2:4].int()).abs().max() <= 1  # the last bit of a product in another order
        changes.append((whole[:5].float() - images[:5].float()).abs().mean().item())
    assert changes[4] > changes[0] > 0 or kind in {"glass_blur", "defocus_blur", "elastic_transform"}
    assert changes[4] > 1
    if KINDS[kind][0].__name__ not in {
        "defocus_blur",
        "zoom_blur",
        "brightness",
        "contrast",
        "pixelate",
        "jpeg_compression",
    }:
        assert not torch.equal(corrupted(images, kind, 5, ROWS + 6), whole)  # another row, other numbers


def test_noise_is_of_the_published_size() -> None:
    grey, rows = torch.full((40, 3, 32, 32), 100, dtype=torch.uint8), torch.arange(40)
    noisy = corrupted(grey, "gaussian_noise", 2, rows).double() / 255
    assert noisy.std().item() == pytest.approx(0.06, rel=0.02)
    photons = (corrupted(grey, "shot_noise", 5, rows).double() / 255 * 50).round().flatten()
    for count in (10, 15, 20, 25, 30):
        assert (photons <= count).double().mean().item() == pytest.approx(
            stats.poisson.cdf(count, 100 / 255 * 50), abs=0.006
        )
    specks = corrupted(grey, "impulse_noise", 5, rows)
    assert [(specks == level).double().mean().item() for level in (0, 255)] == pytest.approx([0.035, 0.035], abs=0.003)


def test_glass_blur_is_the_authors_loop(images) -> None:
    """Their exchange of two views of one array: the second assignment finds what the first has written."""
    numbers = torch.rand(6, 2, 2, 32, 32, generator=torch.Generator().manual_seed(1))
    found = glass_blur(images.float() / 255, lambda *_: numbers, (0.4, 2))
    for row, image in enumerate(arrays(images)):
        x = np.uint8(ndimage.gaussian_filter(image / 255, (0.4, 0.4, 0), mode="nearest") * 255 + 1e-3)
        for iteration in range(2):
            for h in range(31, 1, -1):
                for w in range(31, 1, -1):
                    down, along = (-int(numbers[row, iteration, axis, h, w] < 0.5) for axis in (0, 1))
                    x[h, w], x[h + down, w + along] = x[h + down, w + along], x[h, w]
        expected = ndimage.gaussian_filter(x / 255, (0.4, 0.4, 0), mode="nearest")
        np.testing.assert_allclose(found[row].permute(1, 2, 0).numpy(), expected, atol=5e-3)


def test_motion_is_a_half_bell_along_a_line(images) -> None:
    x, degrees = images.double() / 255, torch.tensor([0.0, 30, -44, -90, -135, 45], dtype=torch.float64)
    found = moved(x, 6, 2.0, degrees)
    weights = np.exp(-(np.arange(13) ** 2) / 8)
    for row in range(6):
        turn, expected = math.radians(degrees[row]), np.zeros((3, 32, 32))
        for h in range(32):
            for w in range(32):
                for step, weight in enumerate(weights / weights.sum()):
                    down, along = math.ceil(step * math.sin(turn) - 0.5), math.ceil(step * math.cos(turn) - 0.5)
                    expected[:, h, w] += (
                        weight * x[row, :, min(max(h + down, 0), 31), min(max(w + along, 0), 31)].numpy()
                    )
        np.testing.assert_allclose(found[row].numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("factor", [1.0, 1.01, 1.2, 1.75, 2.25])
def test_zoom_is_scipys(factor, images) -> None:
    x = images.double() / 255
    kept = math.ceil(32 / factor)
    top = (32 - kept) // 2
    large = ndimage.zoom(x[..., top : top + kept, top : top + kept].numpy(), (1, 1, factor, factor), order=1)
    trim = (large.shape[-1] - 32) // 2
    expected = large[..., trim : trim + 32, trim : trim + 32]
    np.testing.assert_allclose(zoomed(x, factor).numpy(), expected, atol=1e-6)


@pytest.mark.parametrize(("edge", "mode"), [(101, "mirror"), (0, "reflect")])
def test_places_between_pixels_are_scipys(edge, mode, images) -> None:
    along, down = torch.rand(2, 6, 32, 32, generator=torch.Generator().manual_seed(2), dtype=torch.float64) * 40 - 4
    x = images.double()
    found = sampled(x, along, down, edge)
    for row in range(6):
        expected = ndimage.map_coordinates(
            x[row, 1].numpy(), [down[row].numpy(), along[row].numpy()], order=1, mode=mode
        )
        np.testing.assert_allclose(found[row, 1].numpy(), expected, atol=1e-6)


def test_fog_is_a_diamond_square_map() -> None:
    """Point by point on a torus, with the numbers in the same order."""
    numbers, size, decay = torch.rand(1, 64, dtype=torch.float64), 8, 2.5
    heights, rest, step, wibble = np.zeros((size, size)), iter(numbers[0].tolist()), size, 100.0

    def put(row: int, column: int, around: list[tuple[int, int]]) -> None:
        mean = sum(heights[(row + a) % size, (column + b) % size] for a, b in around) / 4
        heights[row, column] = mean + wibble**2 * (2 * next(rest) - 1)

    while step >= 2:
        half = step // 2
        corners = range(0, size, step)
        for row in corners:
            for column in corners:
                put(row + half, column + half, [(a, b) for a in (-half, half) for b in (-half, half)])
        for down, along in ((0, half), (half, 0)):
            for row in corners:
                for column in corners:
                    put(row + down, column + along, [(-half, 0), (half, 0), (0, -half), (0, half)])
        step, wibble = half, wibble / decay
    expected = (heights - heights.min()) / np.ptp(heights)
    np.testing.assert_allclose(fractal(numbers, size, decay)[0].numpy(), expected, atol=1e-9)


def test_colours_pixels_and_jpeg_are_those_of_the_libraries(images) -> None:
    before = arrays(images)
    hsv = rgb_to_hsv(before / 255)
    hsv[..., 2] = (hsv[..., 2] + 0.15).clip(0, 1)
    brighter = (hsv_to_rgb(hsv) * 255 + 1e-3).astype(np.uint8)
    assert np.abs(arrays(corrupted(images, "brightness", 3, ROWS)).astype(int) - brighter).max() <= 1
    for row, image in enumerate(before):
        small = Image.fromarray(image).resize((27, 27), Image.Resampling.BOX).resize((32, 32), Image.Resampling.BOX)
        coarse = arrays(corrupted(images, "pixelate", 3, ROWS))[row]
        assert np.abs(coarse.astype(int) - np.asarray(small)).max() <= 1
        stream = io.BytesIO()
        Image.fromarray(image).save(stream, "JPEG", quality=58)
        assert np.array_equal(
            arrays(corrupted(images, "jpeg_compression", 3, ROWS))[row], np.asarray(Image.open(stream))
        )


def test_defocus_is_a_smoothed_disk(images) -> None:
    places = np.arange(-8, 9)
    disk = (places[:, None] ** 2 + places**2 <= 1).astype(float) / 5
    bell = np.exp(-(np.arange(-1, 2) ** 2) / (2 * 0.2**2))
    kernel = ndimage.convolve(disk, np.outer(bell, bell) / bell.sum() ** 2)
    expected = ndimage.correlate(images[1, 2].numpy() / 255, kernel, mode="mirror")
    found = corrupted(images, "defocus_blur", 4, ROWS)[1, 2].numpy()
    assert np.abs(found.astype(int) - np.floor(expected * 255 + 1e-3)).max() <= 1
