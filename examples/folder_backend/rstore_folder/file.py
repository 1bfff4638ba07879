"""The file of one namespace: read without a lock, and replaced as a whole by the one writer that holds the lock."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from dataclasses import fields
from pathlib import Path

import msgpack

from rstore import CorruptionError, OutcomeUnknownError, StoreBusyError, StoreFullError, StoreNotAvailableError
from rstore.backends.common.backoff import Backoff, Deadline
from rstore.backends.memory.dicts import LogDicts, MemoryNamespace, Ordered
from rstore.backends.types import Chunk, Head, Log


@contextmanager
def translated() -> Generator[None]:
    """Raise errors of the system as those of rstore. This is the one place that knows both."""
    try:
        yield
    except OSError as error:
        kind = StoreFullError if error.errno in (errno.ENOSPC, errno.EDQUOT) else StoreNotAvailableError
        raise kind(f"{error.filename or 'the folder'}: {error.strerror}; nothing was applied") from error


@contextmanager
def locked(folder: Path, timeout_s: float) -> Generator[Callable[[], bool]]:
    """Keep all other writers out of a folder, of all processes; yield a function that says whether it is locked here.

    Raises `StoreBusyError` if another writer holds the lock, which ends with its process, longer than the time-out.
    """
    backoff, owner = Backoff(Deadline(timeout_s)), os.getpid()
    with translated():  # never removed: one process could hold it while another one makes it anew
        descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o666)
    try:
        while not _take(descriptor):
            if not backoff.pause():
                raise StoreBusyError(
                    f"the folder {folder} was busy: another writer held its lock for longer than the time-out, "
                    f"{timeout_s:g} s; nothing was applied"
                )
        yield lambda: os.getpid() == owner
    finally:
        if os.getpid() == owner:  # a child of a fork closes its copy, and leaves the lock to its parent
            fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)


def _take(descriptor: int) -> bool:
    with translated(), suppress(BlockingIOError):
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False


def read(path: Path) -> bytes | None:
    """Return the bytes of a file, None if there is none."""
    with translated(), suppress(FileNotFoundError):
        return path.read_bytes()
    return None


def replace(path: Path, data: bytes | None) -> None:
    """Put another file in place of the one that is there: a reader sees one of the two, and all of it."""
    with translated():
        if data is None:
            path.unlink(missing_ok=True)
        else:
            new = path.with_suffix(".new")
            new.write_bytes(data)
            _sync(new)
            new.replace(path)
    try:
        _sync(path.parent)
    except OSError as error:
        raise OutcomeUnknownError(f"{path.parent}: {error.strerror}; it may or may not last") from error


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def pack(name: str, namespace: MemoryNamespace) -> bytes:
    """Return the bytes of a namespace and its name. No pickle: reading one may run any code."""
    return msgpack.packb((name, namespace), default=lambda one: [getattr(one, field.name) for field in fields(one)])


def unpack(data: bytes, path: Path) -> tuple[str, MemoryNamespace]:
    """Return a namespace and its name, of the bytes of a file.

    Raises `CorruptionError` if they are not those of one.
    """
    try:
        name, (*rest, logs) = msgpack.unpackb(data, use_list=False, strict_map_key=False)
        namespace = MemoryNamespace(*rest)
        for log, (head, rows, chunks, checkpoints) in logs.items():
            by_first = Ordered((first, Chunk(*chunk)) for first, chunk in chunks.items())
            known = LogDicts(Head(*head), Ordered(rows.items()), by_first, Ordered(checkpoints.items()))
            namespace.logs[Log(*log)] = known
    except (TypeError, ValueError, AttributeError) as error:
        raise CorruptionError(f"the file {path} holds no namespace: restore it from a backup") from error
    return name, namespace
