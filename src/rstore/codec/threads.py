"""Threads for work that leaves the interpreter free: compressing, unpacking and encrypting chunks."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final, TypeVar

T = TypeVar("T")
R = TypeVar("R")

_WORTH: Final = 4
"""With fewer items, handing them to other threads takes longer than the work."""
_MAX_TOGETHER: Final = 16
"""So many items a thread takes at once. One by one, the handing over takes as long as unpacking a chunk."""
_MAX_THREADS: Final = 8

_pool: ThreadPoolExecutor | None = None


def _cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def spread(work: Callable[[T], R], items: Sequence[T]) -> Iterator[R]:
    """Yield what `work` returns for each item, in order; several are worked on at once, a few ahead of the caller."""
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
                ahead.append((groups[i], _submit(_running(threads), work_on, groups[i]), os.getpid()))
                i += 1
            group, future, process = ahead.popleft()
            # A child that goes on with what its parent began has none of the threads that were at it.
            yield from future.result() if process == os.getpid() else work_on(group)
    finally:
        for _, future, process in ahead:
            if process == os.getpid():
                future.cancel()


def _submit(pool: ThreadPoolExecutor, work: Callable[[T], R], item: T) -> Future[R]:
    try:
        return pool.submit(work, item)
    except RuntimeError:  # the interpreter is ending, and has closed the pool before it calls whoever registered
        done: Future[R] = Future()
        done.set_result(work(item))
        return done


def _running(threads: int) -> ThreadPoolExecutor:
    global _pool  # noqa: PLW0603 - threads are the process's, not a store's
    if _pool is None:
        _pool = ThreadPoolExecutor(threads, thread_name_prefix="rstore")
    return _pool


def _forget() -> None:
    global _pool  # noqa: PLW0603 - see above
    _pool = None  # a child has none of its parent's threads


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
