"""One GPU for each process: processes of one machine that each ask for "a GPU" get different ones.

torch takes the first GPU that it sees, in every process: four jobs side by side on a machine with four GPUs would
share one. A lease is a lock (flock) on a small file that the kernel drops with its holder; the GPU with the fewest
holders is taken. Processes of one user share the files, whatever folder they run in.
"""

from __future__ import annotations

import fcntl
import itertools
import os
import stat
import tempfile
from pathlib import Path

from clipkd.core.progress import say

VISIBLE = "CUDA_VISIBLE_DEVICES"
HELD: list[int] = []
"""Descriptors of this process's leases: open, and so locked, until it ends."""


def lease(device: str) -> None:
    """Let this process see one GPU only, of those that several clipkd processes hold the least.

    Does nothing where the device is the CPU, where torchrun gives out the GPUs, and where
    at most one GPU is visible. To be called before torch looks for GPUs: CUDA reads the variable once.

    Args:
        device: `auto`, `cpu` or `cuda`, as the user gave it.
    """
    if device not in ("auto", "cuda") or "LOCAL_RANK" in os.environ:
        return
    gpus = visible()
    if len(gpus) < 2:
        return
    try:
        taken, others = take(gpus, lock_folder())
    except OSError as error:
        say(f"GPU {gpus[0]} of {', '.join(gpus)}, whoever else uses it: no lease ({error.strerror or error})")
        return
    os.environ[VISIBLE] = taken
    shared = f", with {others} other clipkd process{'es' * (others > 1)}" if others else ""
    say(f"GPU {taken} of {', '.join(gpus)}{shared}")


def visible() -> list[str]:
    """Return the GPUs that CUDA would show to this process, as CUDA_VISIBLE_DEVICES names them."""
    named = os.environ.get(VISIBLE)
    if named is not None:
        return [name.strip() for name in named.split(",") if name.strip()]
    import torch

    # Asks the driver's library where it is there, without a start of CUDA.
    return [str(number) for number in range(torch.cuda.device_count())]


def take(gpus: list[str], folder: Path) -> tuple[str, int]:
    """Lock a place on the GPU with the fewest holders; return the GPU and how many other processes hold it."""
    for others in itertools.count():
        for gpu in gpus:
            path = folder / f"{gpu.replace('/', '-')}.{others}"
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
                continue
            except OSError:
                os.close(descriptor)
                raise
            HELD.append(descriptor)
            return gpu, others
    raise AssertionError("unreachable")


def lock_folder() -> Path:
    """Return the user's folder of lock files; OSError where it is not theirs alone."""
    folder = Path(tempfile.gettempdir()) / f"clipkd-gpus-{os.geteuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        raise PermissionError(0, f"{folder} belongs to somebody else")
    return folder
