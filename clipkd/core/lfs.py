"""Git LFS pointers: the small text that lies in a file's place where a repository was cloned without git-lfs.

https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md
"""

from __future__ import annotations

import io
from pathlib import Path

FIRST_LINE = b"version https://git-lfs.github.com/spec/"


def instead(source: Path | io.BytesIO) -> str:
    """Return what to say of a file that can't be read, where it is a pointer; "" where it is none."""
    try:
        if isinstance(source, io.BytesIO):
            begin = source.getvalue()[: len(FIRST_LINE)]
        else:
            with open(source, "rb") as stream:
                begin = stream.read(len(FIRST_LINE))
    except OSError:
        return ""
    if begin != FIRST_LINE:
        return ""
    return "; it is a Git LFS pointer, not the file itself: run `git lfs install && git lfs pull` where it was cloned"
