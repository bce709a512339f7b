"""Pixels from memory or from the disk: the same bytes, and no memory that grows with epochs."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from clipkd.core.errors import InputError
from clipkd.data import residency as module
from clipkd.data.dataset import Ragged
from clipkd.data.residency import FRACTION, Resident, Streamed, pixel_store

CPU = torch.device("cpu")


def ragged(generator: np.random.Generator) -> Ragged:
    sizes = generator.integers(1, 30, (50, 2))
    lengths = sizes.prod(axis=1) * 3
    pixels = generator.integers(0, 256, lengths.sum(), dtype=np.uint8)
    return Ragged(pixels, np.concatenate([(lengths.cumsum() - lengths)[:, None], sizes], axis=1))


def bytes_of(holder: module.PixelStore, rows: list[np.ndarray]) -> list[bytes]:
    """Return the bytes of each image, in the order in which they are asked for."""
    found = []
    for item, flat, starts in holder.over(rows, lambda item: item):
        lengths = holder.sizes[item].prod(axis=1) * 3
        found += [flat[start : start + length].numpy().tobytes() for start, length in zip(starts, lengths, strict=True)]
    return found


@pytest.mark.parametrize("kind", ["ragged", "even"])
def test_memory_and_disk_hand_out_the_same_bytes(kind):
    generator = np.random.default_rng(0)
    images = ragged(generator) if kind == "ragged" else generator.integers(0, 256, (50, 4, 6, 3), dtype=np.uint8)
    rows = [generator.integers(0, 50, 13) for _ in range(30)]  # in no order, some twice
    expected = [images[row].tobytes() for piece in rows for row in piece]
    assert bytes_of(Resident(images, CPU), rows) == expected
    assert bytes_of(Streamed(images, CPU), rows) == expected


def test_what_fits_stays_in_memory(monkeypatch, capsys):
    images = np.zeros((10, 8, 8, 3), dtype=np.uint8)
    monkeypatch.setattr(module, "free_memory", lambda device: 2 * images.nbytes)
    assert isinstance(pixel_store(images, CPU, "x"), Resident)
    monkeypatch.setenv(FRACTION, "0.49")
    assert isinstance(pixel_store(images, CPU, "Photos"), Streamed)
    assert "Photos" in capsys.readouterr().err
    monkeypatch.setenv(FRACTION, "0")
    assert isinstance(pixel_store(images, CPU, "x"), Streamed)
    for wrong in ("2", "-1", "much"):
        monkeypatch.setenv(FRACTION, wrong)
        with pytest.raises(InputError, match=f"{FRACTION}={wrong}"):
            pixel_store(images, CPU, "x")


def test_free_memory_is_known():
    assert 1 << 24 < module.free_memory(CPU) < 1 << 50


def test_an_error_while_reading_is_raised_where_the_batch_is_due():
    images = ragged(np.random.default_rng(1))
    images.shapes[7, 0] = images.pixels.size  # behind the end of the file
    holder = Streamed(images, CPU)
    seen = 0
    with pytest.raises(ValueError, match="broadcast"):  # noqa: PT012
        for _ in holder.over([np.array([1]), np.array([2]), np.array([7]), np.array([3])], lambda item: item):
            seen += 1
    assert seen == 2


GROWTH = """
import json, sys
import numpy as np, torch
from clipkd.data.residency import Streamed
from clipkd.data.resampling import resized

torch.set_num_threads(1)
images = np.load(sys.argv[1], mmap_mode="r")
holder, kept, sizes = Streamed(images, torch.device("cpu")), [], []
for epoch in range(40):
    order = np.random.default_rng(epoch).permutation(len(images))
    for rows, flat, starts in holder.over(np.array_split(order, 10), lambda rows: rows):
        batch = resized(flat, starts, holder.sizes[rows], 16)
        if epoch >= 25:
            kept.append(batch)
    with open("/proc/self/status") as stream:
        sizes.append(next(int(line.split()[1]) for line in stream if line.startswith("RssAnon:")))
print(json.dumps(sizes))
"""


@pytest.mark.long
@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="reads /proc")
def test_nothing_grows_with_epochs(tmp_path):
    np.save(tmp_path / "images.npy", np.zeros((2000, 24, 24, 3), dtype=np.uint8))
    command = [sys.executable, "-c", GROWTH, str(tmp_path / "images.npy")]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env=os.environ | {"MALLOC_ARENA_MAX": "2"}
    )
    kilobytes = json.loads(done.stdout)
    # The first epochs fill caches, and the allocator takes and returns some MB at any time. The control keeps its
    # 16 px batches from the 26th epoch on: 1.5 MB an epoch, 20 MB in the end.
    assert min(kilobytes[20:25]) - max(kilobytes[2:10]) < 10_000, kilobytes
    assert min(kilobytes[38:]) - max(kilobytes[20:25]) > 10_000, kilobytes
