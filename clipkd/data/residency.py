"""Where the pixels of an epoch are read from: memory of the device, or the disk a little ahead of their use.

Images of any sizes lie end to end in one flat uint8 array (clipkd.data.dataset). Both holders hand out the same
bytes for the same rows. On a CPU the memory is the memory map itself: processes that train on one dataset share
it, and the system may drop its pages.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from clipkd.core.errors import InputError
from clipkd.core.prefetch import prefetch
from clipkd.core.progress import say
from clipkd.data.dataset import Ragged

FRACTION = "CLIPKD_RESIDENT_FRACTION"
"""Environment variable: images stay in memory where they take at most this share of what is free (0: never)."""
USUAL_FRACTION = 0.5
READERS, MOST_AHEAD = 2, 8

Item = TypeVar("Item")


class PixelStore:
    """The images of one array, uint8, on their way to a device."""

    def __init__(self, images: np.ndarray | Ragged, device: torch.device) -> None:
        """Take images [N, H, W, 3] or of several sizes; nothing is read yet."""
        if isinstance(images, Ragged):
            self.pixels, self.shapes = images.pixels, images.shapes
        else:
            count, height, width = images.shape[:3]
            self.pixels, self.shapes = images.reshape(-1), np.empty((count, 3), dtype=np.int64)
            self.shapes[:] = 0, height, width
            self.shapes[:, 0] = np.arange(count) * (height * width * 3)
        self.device = device

    @property
    def sizes(self) -> np.ndarray:
        """Height and width of each image, in pixels, int64 [N, 2]."""
        return self.shapes[:, 1:]

    def over(
        self, items: Iterable[Item], rows_of: Callable[[Item], np.ndarray]
    ) -> Iterator[tuple[Item, Tensor, np.ndarray]]:
        """Yield each item with pixels on the device, uint8 [P * 3], and where in them the item's images begin [B]."""
        raise NotImplementedError


class Resident(PixelStore):
    """The whole array is in the device's memory."""

    def __init__(self, images: np.ndarray | Ragged, device: torch.device) -> None:
        super().__init__(images, device)
        self.flat = tensor(self.pixels).to(device)

    def over(
        self, items: Iterable[Item], rows_of: Callable[[Item], np.ndarray]
    ) -> Iterator[tuple[Item, Tensor, np.ndarray]]:
        for item in items:
            yield item, self.flat, self.shapes[rows_of(item), 0]


class Streamed(PixelStore):
    """Each item's images are read from the disk by threads that run ahead, and sent to the device."""

    def over(
        self, items: Iterable[Item], rows_of: Callable[[Item], np.ndarray]
    ) -> Iterator[tuple[Item, Tensor, np.ndarray]]:
        for item, (pixels, starts) in prefetch(lambda item: self.read(rows_of(item)), items, READERS, MOST_AHEAD):
            yield item, pixels.to(self.device, non_blocking=True), starts

    def read(self, rows: np.ndarray) -> tuple[Tensor, np.ndarray]:
        """Return the images of `rows`, end to end in the order of their place on the disk, and where each begins."""
        places, inverse = np.unique(rows, return_inverse=True)
        lengths = self.sizes[places].prod(axis=1) * 3
        ends = lengths.cumsum()
        buffer = torch.empty(int(ends[-1]), dtype=torch.uint8, pin_memory=self.device.type == "cuda")
        into = buffer.numpy()
        # A slice copied an image, in a thread beside the training: this is the reading itself.
        for begin, end, length in zip(self.shapes[places, 0].tolist(), ends.tolist(), lengths.tolist(), strict=True):
            into[end - length : end] = self.pixels[begin : begin + length]
        return buffer, (ends - lengths)[inverse]


def tensor(array: np.ndarray) -> Tensor:
    """Return a memory-mapped array as a tensor on the same memory, which is never written to."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*not writable")
        return torch.from_numpy(array)


def pixel_store(images: np.ndarray | Ragged, device: torch.device, what: str) -> PixelStore:
    """Return the images in the device's memory where they take few enough of what is free, else streamed, aloud."""
    size = (images.pixels if isinstance(images, Ragged) else images).nbytes
    if size <= fraction() * free_memory(device):
        return Resident(images, device)
    say(f"{what}: {size / 1e9:.1f} GB are read from the disk in each epoch ({FRACTION} says what may stay in memory)")
    return Streamed(images, device)


def fraction() -> float:
    """Return the share of free memory that images may take."""
    text = os.environ.get(FRACTION, str(USUAL_FRACTION))
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise InputError(f"{FRACTION}={text}: give a number from 0 (always read from the disk) to 1")
    return value


def free_memory(device: torch.device) -> int:
    """Return the free bytes of a GPU, or the bytes that the system can give to a process."""
    if device.type == "cuda":
        held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + held  # torch keeps what was freed, and gives it out again
    try:
        with open("/proc/meminfo", encoding="ascii") as stream:
            (line,) = (line for line in stream if line.startswith("MemAvailable:"))
        return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
