"""What a process is given: variables that could change what a command does, secrets that must not be logged, cores."""

from __future__ import annotations

import os
import re
import shutil
import sys
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from clipkd.core.errors import InputError

REFUSED = ("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD",)
"""Variables that make a library run code out of files that are only to be read."""
RECORDED = (
    *("PYTHONPATH", "PYTHONHASHSEED", "PYTHONOPTIMIZE", "LD_PRELOAD", "OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES"),
    *("HF_ENDPOINT", "HF_HOME", "HF_HUB_OFFLINE", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"),
    *("http_proxy", "https_proxy", "all_proxy", "no_proxy", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"),
    *("CUBLAS_WORKSPACE_CONFIG", "NVIDIA_TF32_OVERRIDE", "TORCH_FORCE_WEIGHTS_ONLY_LOAD"),
)
"""Variables that a run writes down, where they are set: they decide which code runs, on what, and whom it asks."""
TOKEN = re.compile(r"hf_[A-Za-z0-9]{16,}")
"""A token of the Hugging Face hub."""


def check_environment() -> None:
    """Raise InputError where a variable would take a protection out."""
    for name in REFUSED:
        if os.environ.get(name, "0").lower() not in {"", "0", "false", "no", "n"}:
            raise InputError(f"{name} is set: with it, weights could run code; unset it")


def cores() -> int:
    """Return how many CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def may_have_gpu() -> bool:
    """Return whether CUDA (or ROCm) may find a GPU here; without torch, whose import takes a second."""
    if os.environ.get("CUDA_VISIBLE_DEVICES", "all").strip() in {"", "-1"}:
        return False
    return any(Path("/dev").glob("nvidia[0-9]*")) or any(Path("/dev", name).exists() for name in ("kfd", "dxg"))


def put_on_path(command: str) -> None:
    """Let processes that this one starts find a command of its environment."""
    if shutil.which(command) is None:
        os.environ["PATH"] += os.pathsep + str(Path(sys.executable).parent)


def recorded() -> dict[str, str]:
    """Return the recorded variables that are set, without passwords and queries."""
    return {name: masked(without_secrets(os.environ[name])) for name in RECORDED if os.environ.get(name)}


def without_secrets(text: str) -> str:
    """Return an address without user, password, query and fragment; any other text as it is.

    A proxy may be written without its scheme: `user:password@host:3128`. A query may be a signature.
    """
    text = re.sub(r"(^|(?<=://))[^/?#\s]*@", "", text)
    return re.sub(r"(?<=://)([^?#\s]*)[?#]\S*", r"\1", text)


def redacted(url: str) -> str:
    """Return a URL for a log or message: without user, password, query and fragment."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def masked(text: str) -> str:
    """Return a text without the hub's tokens."""
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        secret = os.environ.get(name)
        if secret:
            text = text.replace(secret, "***")
    return TOKEN.sub("hf_***", text)
