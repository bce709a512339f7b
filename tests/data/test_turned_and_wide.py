"""Turned TIFFs, and images of 16 bits: the same pixels however they are opened, packed or predicted."""

from __future__ import annotations

import itertools
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from clipkd.core.errors import DataError
from clipkd.core.image_reader import highest_level
from clipkd.core.images import decode, decoded, rgb
from clipkd.data.dataset import prepare_dataset
from clipkd.data.preprocessing import Preprocessing
from clipkd.plugins import datasets


@pytest.mark.parametrize("mode", ["L", "I;16", "CMYK"])
def test_a_turned_tiff_is_the_same_from_a_file_and_from_bytes(mode: str, tmp_path: Path) -> None:
    """PIL maps these into memory, with the sides of a turned one swapped."""
    stored = np.arange(24, dtype=np.uint8).reshape(4, 6) * 10
    image = Image.fromarray(stored.astype(np.uint16) * 257 if mode == "I;16" else stored)
    (image if mode == "I;16" else image.convert(mode)).save(tmp_path / "scan.tif", tiffinfo={0x0112: 6})
    found = decode(tmp_path / "scan.tif", 256)
    np.testing.assert_array_equal(found[..., 0], np.rot90(stored, -1))
    np.testing.assert_array_equal(found, decoded((tmp_path / "scan.tif").read_bytes(), "scan", 256))
    if mode == "I;16":
        assert highest_level(tmp_path / "scan.tif") == 230 * 257
    with Image.open(tmp_path / "scan.tif") as opened:
        np.testing.assert_array_equal(rgb(opened, "scan", 256), found)


def png(depth: int, kind: int, row: tuple[int, ...], clear: tuple[int, ...]) -> bytes:
    """A PNG of one row, and the colour that is transparent in it."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    width = len(row) // len(clear)
    bits = "".join(f"{value:0{depth}b}" for value in row)
    values = int(bits, 2).to_bytes(len(bits) // 8)
    parts = [
        chunk(b"IHDR", struct.pack(">IIBBBBB", width, 1, depth, kind, 0, 0, 0)),
        chunk(b"tRNS", struct.pack(f">{len(clear)}H", *clear)),
        chunk(b"IDAT", zlib.compress(b"\0" + values)),
        chunk(b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def test_a_transparent_colour_of_sixteen_bits_is_laid_on_white() -> None:
    grey = decoded(png(16, 0, (30_000, 1_000, 65_535), (30_000,)), "grey", 256)
    np.testing.assert_array_equal(grey[0, :, 0], [255, 4, 255])
    colour = decoded(png(16, 2, (30_000, 0, 0, 1_000, 0, 0), (30_000, 0, 0)), "colour", 256)
    np.testing.assert_array_equal(colour[0], [[255, 255, 255], [3, 0, 0]])


def test_a_transparent_level_of_few_bits_is_laid_on_white() -> None:
    np.testing.assert_array_equal(decoded(png(4, 0, (8, 0, 15, 4), (8,)), "grey", 256)[0, :, 0], [255, 0, 255, 68])
    np.testing.assert_array_equal(decoded(png(2, 0, (1, 0, 3, 2), (1,)), "grey", 256)[0, :, 0], [255, 0, 255, 170])


def test_a_level_that_a_file_declares_goes_before_the_dataset_s(tmp_path: Path, capsys: Any) -> None:
    """Packed and predicted alike: PGM declares all 16 bits, PNG nothing, and the dataset uses 12 bits there."""
    rng = np.random.default_rng(0)
    for split, name in itertools.product(("train", "val"), "ab"):
        (tmp_path / "wide" / split / name).mkdir(parents=True)
        for number in range(3):
            levels = rng.integers(0, 4_096, (8, 8)).astype(np.uint16)
            Image.fromarray(levels).save(tmp_path / "wide" / split / name / f"{number}.png")
    declaring = tmp_path / "wide/val/b/2.pgm"
    declaring.write_bytes(b"P5\n8 8\n65535\n" + (levels * 16).astype(">u2").tobytes())
    source = str(tmp_path / "wide")
    packed = prepare_dataset(datasets.get("wide", source), tmp_path / "packed/wide", source)
    assert "4,095 is white where a file declares none (1 declares one)" in capsys.readouterr().err
    steps = Preprocessing.from_facts(Preprocessing.of(packed, 8).facts())
    for row, name in enumerate(packed.names("test")):
        np.testing.assert_array_equal(steps.read(tmp_path / "wide" / name), packed.image("test", row))
    before = {name: value for name, value in steps.facts().items() if name != "declared_first"}
    assert Preprocessing.from_facts(before).read(declaring).mean() > 200  # 4,095 was white in all files
    assert Preprocessing.from_facts(before).facts() == before


def test_a_damaged_image_that_is_opened_already_is_named(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "whole.jpg")
    content = (tmp_path / "whole.jpg").read_bytes()
    (tmp_path / "half.jpg").write_bytes(content[: len(content) // 2])
    steps = Preprocessing(None, None, 8, (0, 0, 0), (1, 1, 1))
    with Image.open(tmp_path / "half.jpg") as image, pytest.raises(DataError, match=r"half\.jpg can't be decoded"):
        steps.read(image)
