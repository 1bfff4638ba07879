"""Threads for work that leaves the interpreter free: compressing, unpacking and encrypting chunks."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final, TypeVar

from rstore.forks import call_in_child

T = TypeVar("T")
R = TypeVar("R")

_WORTH: Final = 4
"""With fewer items, handing them to other threads takes longer than the work."""
_MAX_TOGETHER: Final = 16
"""The most items that a thread takes at once: handing over single ones costs about as much as the work."""
_MAX_THREADS: Final = 8

_pool: ThreadPoolExecutor | None = None


def _cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def spread(work: Callable[[T], R], items: Sequence[T]) -> Iterator[R]:
    """Yield the result of `work` for each item, in order; threads work on several, a few ahead of the caller."""
    if len(items) < _WORTH or (threads := min(_MAX_THREADS, _cpus())) == 1:
        yield from map(work, items)
        return
    size = min(_MAX_TOGETHER, max(1, len(items) // (2 * threads)))
    groups = [items[i : i + size] for i in range(0, len(items), size)]

    def work_on(group: Sequence[T]) -> list[R]:
        return [work(item) for item in group]

    ahead: deque[tuple[Sequence[T], Future[list[R]], int]] = deque()
    i = 0
    try:
        while ahead or i < len(groups):
            while i < len(groups) and len(ahead) <= threads:
                ahead.append((groups[i], _submit(threads, work_on, groups[i]), os.getpid()))
                i += 1
            group, future, process = ahead.popleft()
            # A forked child that continues the iteration has none of its parent's threads.
            yield from future.result() if process == os.getpid() else work_on(group)
    finally:
        for _, future, process in ahead:
            if process == os.getpid():
                future.cancel()


def _submit(threads: int, work: Callable[[T], R], item: T) -> Future[R]:
    global _pool  # noqa: PLW0603 - threads are the process's, not a store's
    if _pool is None:
        _pool = ThreadPoolExecutor(threads, thread_name_prefix="rstore")
    try:
        return _pool.submit(work, item)
    except RuntimeError:  # the ending interpreter closes the pool before it calls the registered exit functions
        done: Future[R] = Future()
        done.set_result(work(item))
        return done


def _forget() -> None:
    global _pool  # noqa: PLW0603 - see above
    _pool = None  # a child has none of its parent's threads


call_in_child(_forget)
