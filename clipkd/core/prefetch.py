"""Prefetching: results computed by threads shortly before they are used, in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from clipkd.core.environment import cores

MOST_THREADS = 16

Item = TypeVar("Item")
Result = TypeVar("Result")


def prefetch(
    function: Callable[[Item], Result], items: Iterable[Item], threads: int, most: int
) -> Iterator[tuple[Item, Result]]:
    """Yield each item with its result, in order, computed by `threads` threads at most `most` items ahead.

    Items are taken in the calling thread. An error of `function` is raised where its result would come.
    """
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[tuple[Item, Future[Result]]] = deque()
        try:
            for item in items:
                waiting.append((item, pool.submit(function, item)))
                if len(waiting) > most:
                    first, future = waiting.popleft()
                    yield first, future.result()
            while waiting:
                first, future = waiting.popleft()
                yield first, future.result()
        finally:
            for _, future in waiting:
                future.cancel()


def by_cores(
    function: Callable[[Item], Result], items: Iterable[Item], ahead: int = 4
) -> Iterator[tuple[Item, Result]]:
    """Yield as `prefetch` does, computed by a thread for each core, MOST_THREADS at most, each `ahead` items ahead."""
    threads = min(cores(), MOST_THREADS)
    return prefetch(function, items, threads, ahead * threads)
