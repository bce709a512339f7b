"""Sharded safetensors: `model.safetensors.index.json` says which file holds which weight."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from clipkd.core.errors import MOST_NAMED, DataError
from clipkd.core.files import read_json

if TYPE_CHECKING:
    from torch import Tensor

INDEX = "model.safetensors.index.json"
SHARD = re.compile(r"[A-Za-z0-9][\w.-]*\.safetensors", re.ASCII)


def weight_map(index: Path) -> dict[str, str]:
    """Return weight -> the name of its file.

    Raises:
        DataError: the index is damaged, or names a file outside its own folder.
    """
    content = read_json(index)
    found = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(found, dict) or not found:
        raise DataError(f"{index} is damaged: it has no weight_map")
    for file in found.values():
        if not isinstance(file, str) or not SHARD.fullmatch(file):
            raise DataError(f"{index} names {file!r}, which is not a safetensors file beside it")
    return found


def names(index: Path) -> tuple[str, ...]:
    """Return the names of the files that an index lists."""
    return tuple(sorted(set(weight_map(index).values())))


def join(index: Path, shards: Mapping[str, Path], into: Path) -> None:
    """Write the weights of all shards as one safetensors file.

    Args:
        index: which file holds which weight.
        shards: the files, by name.
        into: the new file.

    Raises:
        DataError: a shard is damaged, lacks a weight that the index names, or holds one that it does not.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file, save_file

    expected = weight_map(index)
    tensors: dict[str, Tensor] = {}
    for name, path in shards.items():
        try:
            held = load_file(path)
        except (SafetensorError, OSError) as error:
            raise DataError(f"{name} is damaged, or not a safetensors file: {error}") from None
        listed = {weight for weight, file in expected.items() if file == name}
        problems = [f"missing: {weight}" for weight in sorted(listed - held.keys())]
        problems += [f"unexpected: {weight}" for weight in sorted(held.keys() - listed)]
        if problems:
            shown = "\n  ".join(problems[:MOST_NAMED])
            raise DataError(f"{name} does not hold what {index.name} says, {len(problems)} weights:\n  {shown}")
        tensors |= held
    save_file(tensors, into, metadata={"format": "pt"})
