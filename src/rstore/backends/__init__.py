"""Where bytes are kept. `base` is the contract; a backend is one file and one entry in the table of schemes."""

from __future__ import annotations

import os
import re
from importlib import import_module
from typing import Any, Final, NamedTuple

from rstore.backends.base import Backend
from rstore.backends.nouns import Options
from rstore.ending import check_running
from rstore.errors import InvalidTypeError, InvalidValueError, StoreNotAvailableError


class Scheme(NamedTuple):
    """Where the backend of a scheme is found, and the extra that installs its driver (None: it comes with the core)."""

    module: str
    backend: str
    extra: str | None


SCHEMES: Final[dict[str, Scheme]] = {
    "sqlite": Scheme("rstore.backends.sqlite.backend", "SqliteBackend", None),
    "memory": Scheme("rstore.backends.memory.backend", "MemoryBackend", None),
    "postgresql": Scheme("rstore.backends.postgres.backend", "PostgresBackend", "postgresql"),
    "postgres": Scheme("rstore.backends.postgres.backend", "PostgresBackend", "postgresql"),
    "redis": Scheme("rstore.backends.redis.backend", "RedisBackend", "redis"),
    "rediss": Scheme("rstore.backends.redis.backend", "TlsRedisBackend", "redis"),
    "redis+cluster": Scheme("rstore.backends.redis.backend", "RedisClusterBackend", "redis"),
    "rediss+cluster": Scheme("rstore.backends.redis.backend", "TlsRedisClusterBackend", "redis"),
}

_dsn = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)
_slip = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):(?!//)")
# Up to the last @, and to the end: a password may hold whatever else ends one.
_credentials = re.compile("//.*@", re.DOTALL)
_passwords = re.compile("([?&][^=&]*password=).*", re.DOTALL)


def check_dsn(dsn: Any) -> tuple[str, str]:
    """Return (scheme, what comes after the two slashes); a bare path is of scheme sqlite."""
    if not isinstance(dsn, str | os.PathLike):
        raise InvalidTypeError(f"a dsn is a str or a path, not {type(dsn).__name__}")
    text = os.fspath(dsn)
    if not isinstance(text, str):
        raise InvalidTypeError("a path of type bytes is not a dsn: os.fsdecode(path) is")
    match = _dsn.fullmatch(text) if isinstance(dsn, str) else None
    scheme, rest = (match[1].lower(), match[2]) if match else ("sqlite", text)
    if scheme not in SCHEMES:
        known = ", ".join(f"{name}://" for name in SCHEMES)
        raise InvalidValueError(f"the scheme {scheme}:// is unknown: this version has {known} and bare paths")
    slip = _slip.match(text) if match is None and isinstance(dsn, str) else None
    if slip is not None and slip[1].lower() in SCHEMES:
        raise InvalidValueError(f"a dsn begins with {slip[1]}://; a file of such a name is ./{slip[1]}:…")
    if scheme == "sqlite" and rest == ":memory:":
        raise InvalidValueError("':memory:' would be another store for every thread: memory:// is shared by all")
    if scheme == "sqlite" and not rest:
        raise InvalidValueError("the path of the SQLite file is empty: sqlite://PATH, or just PATH")
    if "\0" in rest:
        raise InvalidValueError("a dsn holds no NUL character")
    try:
        rest.encode()
    except UnicodeEncodeError as error:
        raise InvalidValueError("a dsn is UTF-8, and this one holds a lone surrogate") from error
    return scheme, _absolute(rest) if scheme == "sqlite" else rest


def _absolute(path: str) -> str:
    """Return a path that means the directory of now, also where the store is opened again later."""
    if path.endswith(os.sep):
        raise InvalidValueError(f"{path!r} names a directory, and a store is a file")
    try:
        return os.path.join(os.getcwd(), path)  # not `abspath`: of link/../file it would make another file
    except FileNotFoundError as error:
        raise StoreNotAvailableError(f"the current directory is gone, and {path!r} is relative to it") from error


def make_backend(dsn: str | os.PathLike[str], namespace: str, options: Options) -> Backend:
    """Return the backend for a dsn, not open yet.

    Raises `StoreNotAvailableError`, naming the extra, if its driver is not installed.
    """
    return make_checked_backend(*check_dsn(dsn), namespace, options)


def make_checked_backend(name: str, rest: str, namespace: str, options: Options) -> Backend:
    """Return the backend for what `check_dsn` returned."""
    check_running("no store can be opened")
    scheme = SCHEMES[name]
    try:
        module = import_module(scheme.module)
    except ModuleNotFoundError as error:
        if scheme.extra is None:
            raise
        raise StoreNotAvailableError(
            f"{name}:// needs a driver that is not installed: pip install 'rlib-store[{scheme.extra}]'"
        ) from error
    backend: Backend = getattr(module, scheme.backend)(rest, namespace, options)
    return backend


def show_dsn(dsn: str | os.PathLike[str]) -> str:
    """Return a dsn without its credentials, for messages."""
    return _credentials.sub("//…@", _passwords.sub(r"\1…", os.fspath(dsn)))
