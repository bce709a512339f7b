"""Loaded weights: each is one of the file's, to the bit. transformers renames, converts and fills in while it loads."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from clipkd.core import lfs
from clipkd.core.errors import MOST_NAMED, DataError
from clipkd.core.weight_problems import problem_of
from clipkd.plugins.teachers import TeacherSpec

LEVELS = re.compile(
    r"^((model|vit|deit|dinov2|dinov2_with_registers|clip|siglip|metaclip_2|aimv2|beit|swin|convnext|convnextv2|resnet|vision_model)\.)+"
)
"""Levels around an encoder, which a checkpoint has or has not, by the class and version that saved it."""
RENAMED = (
    (r"\bencoder\.layers?\.", "layers."),
    (r"\battention\.attention\.query\b", "attention.q_proj"),
    (r"\battention\.attention\.key\b", "attention.k_proj"),
    (r"\battention\.attention\.value\b", "attention.v_proj"),
    (r"\battention\.output\.dense\b", "attention.o_proj"),
    (r"\bintermediate\.dense\b", "mlp.fc1"),
    (r"\boutput\.dense\b", "mlp.fc2"),
)
"""What transformers 4 and the files on the hub call a weight, and what transformers 5 makes of it in memory."""


def check_weights(spec: TeacherSpec, path: Path) -> int:
    """Return the number of parameters in a teacher's safetensors file; every one must be finite.

    Raises:
        DataError: the file is damaged, or a tensor is not finite or in 8 bits; names it.
    """
    count = 0
    try:
        with safe_open(path, framework="pt") as weights:
            for name in weights.keys():  # noqa: SIM118  (not a dict)
                tensor = weights.get_tensor(name)
                if problem := problem_of(tensor):
                    raise DataError(f"teacher '{spec.name}': weight '{name}' of {path.name} {problem}")
                count += tensor.numel()
    except SafetensorError as error:
        raise DataError(
            f"teacher '{spec.name}': {path.name} is damaged, or no safetensors file: {error}{lfs.instead(path)}"
        ) from None
    if count == 0:
        raise DataError(f"teacher '{spec.name}': {path.name} holds no weights")
    return count


def plain(name: str) -> str:
    """Return a weight's name as every version of transformers, tower and whole model would have it."""
    name = LEVELS.sub("", name)
    for old, new in RENAMED:
        name = re.sub(old, new, name)
    return name


def complain(folder: Path, report: dict, unused: tuple[str, ...]) -> None:
    """Raise DataError listing every weight that transformers would have replaced or dropped."""
    problems = []
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        for entry in sorted(report.get(kind) or [], key=str):
            name = entry if isinstance(entry, str) else entry[0]
            if kind == "mismatched_keys" or not plain(name).startswith(unused):
                shapes = "" if isinstance(entry, str) else f" (stored {tuple(entry[1])}, model {tuple(entry[2])})"
                problems.append(f"{kind.removesuffix('_keys')}: {name}{shapes}")
    if problems:
        listed = "\n  ".join(problems[:MOST_NAMED])
        raise DataError(
            f"{folder / 'model.safetensors'} does not fit its config.json, {len(problems)} weights:\n  {listed}"
        )


def compare(path: Path, model: nn.Module, unused: tuple[str, ...] = ()) -> None:
    """Raise DataError where a loaded weight is not, to the bit, what the file holds.

    A weight is compared with the one of its name, old or new. Where the file has no such name, because it was renamed
    in a way that is not known here, a weight of the file that nothing else was loaded from must have its content.

    Args:
        path: the safetensors file.
        model: what was loaded from it.
        unused: beginnings of names (`plain`) of weights that nothing depends on and that the file may lack.
    """
    loaded = {plain(name): tensor for name, tensor in model.state_dict().items()}
    with safe_open(path, framework="pt") as weights:
        stored: dict[str, str] = {}
        for name in weights.keys():  # noqa: SIM118  (not a dict)
            twin = stored.setdefault(plain(name), name)
            if twin != name:
                raise DataError(f"{path}: '{twin}' and '{name}' are the same weight of the model; keep one")
        for name in loaded.keys() & stored.keys():
            kept = weights.get_tensor(stored[name]).to(loaded[name].dtype)
            if not torch.equal(loaded[name].cpu(), kept):
                raise different(path, stored[name])
        unnamed = sorted(loaded.keys() - stored.keys())
        rest = stored.keys() - loaded.keys() if unnamed else ()
        others = Counter(content(weights.get_tensor(stored[name])) for name in rest)
    for name in unnamed:
        mine = content(loaded[name])
        if others[mine] > 0:
            others[mine] -= 1
        elif not name.startswith(unused):
            raise different(path, name)


def content(tensor: Tensor) -> tuple[tuple[int, ...], str]:
    """Return a weight's shape, and a digest of its numbers as float32."""
    numbers = tensor.detach().cpu().to(torch.float32).contiguous().numpy().tobytes()
    return tuple(tensor.shape), hashlib.blake2b(numbers, digest_size=16).hexdigest()


def different(path: Path, name: str) -> DataError:
    return DataError(f"{path}: weight '{name}' was loaded as other numbers than the file holds")
