"""Limits of what huggingface_hub downloads: least speed and most bytes, as clipkd.core.download has them for others.

They hold for its HTTP client. Large files that come through hf_xet pass it by.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from typing import Any

from clipkd.core import download


def limit_downloads() -> None:
    """Give huggingface_hub's client, which all of its requests share, these limits, unless it has them."""
    from huggingface_hub import get_session

    hooks = get_session().event_hooks["response"]
    if limited not in hooks:
        hooks.append(limited)


def limited(response: Any) -> None:
    """Have a response's body end with an error where it drips, or does not end. (A hook of httpx.)"""
    http = sys.modules[type(response).__module__.partition(".")[0]]  # httpx, or httpx2: what huggingface_hub uses
    stream = response.stream

    class TooSlow(http.ReadTimeout):  # type: ignore[name-defined, misc]  # huggingface_hub tries again
        pass

    class TooLong(http.ReadError):  # type: ignore[name-defined, misc]
        pass

    class Body(http.SyncByteStream):  # type: ignore[name-defined, misc]
        def __iter__(self) -> Iterator[bytes]:
            left, lately, begin = download.MOST_BYTES, 0, time.monotonic()
            for data in stream:
                left, lately = left - len(data), lately + len(data)
                if left < 0:
                    raise TooLong(f"more than {download.MOST_BYTES:,} bytes")
                if time.monotonic() - begin >= download.SLOW_SECONDS:
                    if lately < download.LEAST_BYTES:
                        raise TooSlow(f"{lately:,} bytes in {download.SLOW_SECONDS:.0f} s")
                    lately, begin = 0, time.monotonic()
                yield data

        def close(self) -> None:
            stream.close()

    response.stream = Body()
