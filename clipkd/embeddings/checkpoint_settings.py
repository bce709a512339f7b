"""Settings of a checkpoint, looked at before anything is built or loaded.

They ask for no code, and every value is one that a model can have.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from clipkd.core import lfs
from clipkd.core.errors import DataError, InputError
from clipkd.core.files import read_json
from clipkd.core.shards import INDEX
from clipkd.plugins.teachers import FolderTeacher, TeacherSpec, is_timm

LARGEST = {
    **dict.fromkeys(("hidden_size", "intermediate_size", "projection_dim", "image_size", "patch_size"), 1 << 16),
    **dict.fromkeys(("num_hidden_layers", "num_attention_heads", "num_channels"), 1 << 10),
    **dict.fromkeys(("vocab_size", "max_position_embeddings"), 1 << 22),
}
"""The largest sizes in a config.json: a model is built before its weights are compared with it."""
SHARES = {
    *("hidden_dropout_prob", "attention_probs_dropout_prob", "attention_dropout", "drop_path_rate"),
    *("layer_norm_eps", "initializer_range"),
}
"""Numbers from 0 to 1."""


def check_folder(teacher: FolderTeacher) -> None:
    """Check the files of a checkpoint in a folder; of its weights only what the header says, no number is read.

    Raises:
        DataError, InputError: no teacher can be made of them; names the file, and the setting.
    """
    folder = Path(teacher.folder)
    for name in teacher.files:
        if name.endswith(".safetensors"):
            check_header(folder / name)
        elif name != INDEX:
            refuse_settings(teacher, folder / name)
    check_settings(teacher, read_json(folder / "config.json"), lambda: folder / teacher.files[1])


def check_settings(teacher: TeacherSpec, config: dict[str, Any], processor: Callable[[], Path]) -> None:
    """Raise DataError or InputError where no teacher can be made of what a checkpoint's settings say.

    Args:
        teacher: whose.
        config: the content of its config.json.
        processor: returns the file that describes its image processor, where there has to be one.
    """
    asked = replace(teacher, output=teacher.any_output)
    if teacher.reads_names:
        from clipkd.embeddings.text import text_family_of

        text_family_of(teacher, config)
    elif is_timm(config):
        from clipkd.embeddings.timm_encoder import settings as timm_settings

        timm_settings(asked, config)
    else:
        from clipkd.embeddings.transformers_encoder import family_of, settings

        family_of(asked, config)  # before a processor is fetched
        settings(asked, config, processor())


def check_header(path: Path) -> None:
    """Raise InputError unless a file is safetensors, as long as its header says, with weights in it."""
    try:
        with safe_open(path, framework="np") as weights:
            is_empty = not weights.keys()
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path} is damaged, or no safetensors file: {error}{lfs.instead(path)}") from None
    if is_empty:
        raise InputError(f"{path} holds no weights")


def refuse_settings(teacher: TeacherSpec, path: Path) -> None:
    """Raise InputError where a settings file asks for code that is not here, or for what no model can have."""
    try:
        settings = read_json(path)
    except DataError as error:
        raise DataError(f"teacher '{teacher.name}': {error}") from None
    if not isinstance(settings, dict):
        raise DataError(f"teacher '{teacher.name}': {path} holds no settings")
    # A hub's file lies in the library's cache, which tells nobody where it is from.
    file = path if isinstance(teacher, FolderTeacher) else f"its {path.name}"
    for key, value in every_setting(settings):
        where = f"teacher '{teacher.name}' is refused: '{key}' in {file}"
        if key == "auto_map":
            raise InputError(f"{where} wants code from its repository to run")
        if key == "quantization_config" and value is not None:
            raise InputError(f"{where} needs a loader of its own; convert the weights to float32 or float16")
        if key in ("attn_implementation", "_attn_implementation") and not is_plain_attention(value):
            raise InputError(f"{where} is {value!r}, which may load code; remove it, or use 'eager' or 'sdpa'")
        if supported := supported_instead(key, value):
            raise InputError(f"{where} is {value!r}; supported are {supported}")
    for group in [settings, *(value for _, value in every_setting(settings) if isinstance(value, dict))]:
        width, heads = group.get("hidden_size"), group.get("num_attention_heads")
        if type(width) is type(heads) is int and width % heads and "head_dim" not in group:
            raise InputError(f"teacher '{teacher.name}' is refused: 'hidden_size' in {file} is {width}, which is no "
                             f"multiple of its {heads} attention heads ('num_attention_heads')")  # fmt: skip


def every_setting(settings: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the key and value of each setting, of those within others too."""
    for key, value in settings.items():
        yield key, value
        for inner in value if isinstance(value, list) else [value]:
            if isinstance(inner, dict):
                yield from every_setting(inner)


def is_plain_attention(value: Any) -> bool:
    """Return whether an implementation of attention is one of PyTorch's; a name with `/` is a hub's repository."""
    return value in (None, "eager", "sdpa") or isinstance(value, dict)


def supported_instead(key: str, value: Any) -> str:
    """Return what a setting could be, in words, where it can't be what it is; else ""."""
    values = value if isinstance(value, list) else [value]
    if value is None:  # transformers' own default
        return ""
    if key in LARGEST:
        is_right = bool(values) and all(type(one) is int and 0 < one <= LARGEST[key] for one in values)
        return "" if is_right else f"whole numbers from 1 to {LARGEST[key]:,}"
    if key in SHARES:
        return "" if type(value) in (int, float) and 0 <= value <= 1 else "numbers from 0 to 1"
    if key in ("hidden_act", "hidden_activation"):
        from transformers.activations import ACT2FN

        return "" if isinstance(value, str) and value in ACT2FN else ", ".join(sorted(ACT2FN))
    return ""
