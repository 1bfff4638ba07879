"""Copying a store into a new SQLite file, which is there as a whole or not at all."""

from __future__ import annotations

import errno
import os
from collections.abc import Generator
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import Any, Final

from rstore.backends.common.pages import pages_of
from rstore.backends.contract import Backend, ReadTransaction
from rstore.backends.registry import check_dsn, make_checked_backend
from rstore.backends.types import HEAD_ONLY, Commit, Log, Model, Options, ScanQuery, ViewQuery, Write
from rstore.errors import InvalidTypeError, InvalidValueError, StoreFullError, StoreNotAvailableError
from rstore.incarnation import ORIGIN_FACT, sealed_for
from rstore.series.reader import AT_ONCE

_A_PAGE: Final = 1000
_FULL: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_LEFT_BEHIND: Final = "-wal", "-journal"
_CLOCK: Final = Log(Model.SERIES, "-")
"""Any log, also one that does not exist: its view tells the backend's time."""


def back_up(backend: Backend, namespace: str, path: str | os.PathLike[str]) -> None:
    """Write a store, as it is at one moment, into a new SQLite file."""
    with _new_file(check_path(path, "a backup")) as made:
        if not backend.save(str(made)):
            with backend.snapshot() as still:
                _copy(still, namespace, str(made))


def check_path(path: Any, what: str) -> Path:
    """Return the path of a SQLite file that `what` is to be, or refuse what cannot be one."""
    if not isinstance(path, str | os.PathLike) or not isinstance(text := os.fspath(path), str):
        raise InvalidTypeError(f"the path of {what} is a str or a path, not {type(path).__name__}")
    try:
        is_one = bool(text and "\0" not in text and text.encode())
    except UnicodeEncodeError:  # SQLite takes UTF-8
        is_one = False
    if not is_one:
        raise InvalidValueError(f"{text!r} is not the path of a file")
    scheme, file = check_dsn(path)  # it also refuses slips, such as the DSN of a server, and quotes no password
    if scheme != "sqlite":
        raise InvalidValueError(f"{what} is a SQLite file, and {scheme}:// names none: give a path")
    return Path(file)


@contextmanager
def _new_file(path: Path) -> Generator[Path, None, None]:
    """Make a file that its owner alone can read, and that bears its name only when it is whole and on the disk.

    Raises `InvalidValueError` if there is one of that name.
    """
    try:
        if os.path.lexists(path):
            raise _exists(path)
        made = path.with_name(f"{path.name}.{os.urandom(6).hex()}.tmp")
        for left in (Path(f"{path}{end}") for end in _LEFT_BEHIND):
            if os.path.lexists(left):
                raise InvalidValueError(
                    f"{str(left)!r} was left behind by another file of the name {str(path)!r}, and SQLite would take "
                    "what is in it for a part of the copy: remove it, or name another file"
                )
        made.touch(0o600, exist_ok=False)
        try:
            yield made
            _sync(made)
            _name(made, path)
        finally:
            # A leftover file does no harm, and does not change the outcome.
            for name in (made, Path(f"{made}-wal"), Path(f"{made}-shm")):
                with suppress(OSError):
                    name.unlink(missing_ok=True)
    except OSError as error:
        kind = StoreFullError if error.errno in _FULL else StoreNotAvailableError
        raise kind(f"cannot write the backup {str(path)!r}: {error.strerror}") from error


def _exists(path: Path) -> InvalidValueError:
    return InvalidValueError(
        f"{str(path)!r} is there already, and a backup makes a new file: name another one, or remove it"
    )


def _name(made: Path, path: Path) -> None:
    """Give a file that is whole its name, or raise and leave none of that name."""
    try:
        path.hardlink_to(made)  # not `rename`: it would replace a file that was put there meanwhile
    except FileExistsError as error:
        raise _exists(path) from error
    except OSError:  # a file system without links
        made.rename(path)
    if os.name == "nt":  # where directories cannot be opened
        return
    try:
        _sync(path.parent)
    except OSError:
        path.unlink()  # a power cut may remove this name: rather none than one that may vanish
        raise


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY if os.name != "nt" else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# -- through the contract ---------------------------------------------------------------------------------------------


def _copy(source: ReadTransaction, namespace: str, path: str) -> None:
    """Copy a namespace byte for byte: what is sealed is bound to the namespace and the key, not to the backend."""
    options = Options(frozen=False, durability="normal", timeout_s=60.0)
    target = make_checked_backend("sqlite", path, namespace, options)
    target.open()
    try:
        created = target.create()
        sealed_since, facts = source.facts()
        for name, fact in {**facts, ORIGIN_FACT: sealed_for(sealed_since, facts)}.items():
            target.add_fact(name, fact, created)
        incarnation = target.create()
        _copy_records(source, target, incarnation)
        for model in (Model.SERIES, Model.EVENTS, Model.IDS):
            for key in source.logs(model):
                _copy_log(source, target, Log(model, key), incarnation)
    finally:
        target.close()


def _copy_records(source: ReadTransaction, target: Backend, incarnation: bytes) -> None:
    for records in pages_of(source, ScanQuery(_A_PAGE)):
        now_ms = source.view(_CLOCK, HEAD_ONLY).now_ms
        lives = (None if expires_ms is None else expires_ms - now_ms for _, _, expires_ms in records)
        found = zip(records, lives, strict=True)
        writes = [Write(key, record, ttl_ms) for (key, record, _), ttl_ms in found if ttl_ms is None or ttl_ms > 0]
        target.write(writes, incarnation)


def _copy_log(source: ReadTransaction, target: Backend, log: Log, incarnation: bytes) -> None:
    view = source.view(log, ViewQuery(bodies=False))
    if view.head is None:
        return
    target.commit(log, Commit(create=view.head, put_rows=view.rows), incarnation)
    # All checkpoints, though they are a cache: a read of the past makes none, and would fold half of the log.
    checkpoints = source.checkpoints(log)
    while states := tuple(islice(checkpoints, AT_ONCE)):
        target.commit(log, Commit(put_checkpoints=states), incarnation)
    # Not `log_snapshot`: at a moment that stays, some chunks at a time can be asked for.
    for start in range(0, len(view.chunks), AT_ONCE):
        some = view.chunks[start : start + AT_ONCE]
        whole = source.view(log, ViewQuery(some[0].first, some[-1].last, rows=False))
        target.commit(log, Commit(put_chunks=whole.chunks), incarnation)
