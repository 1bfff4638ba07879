"""The registry of backends: checks a DSN, and finds the backend of its scheme."""

from __future__ import annotations

import os
import re
from difflib import get_close_matches
from importlib import import_module
from typing import Any, Final, NamedTuple

from rstore.backends.common.interpreter import check_running
from rstore.backends.contract import Backend
from rstore.backends.credentials import Credentials, check_credentials, is_utf8
from rstore.backends.types import Options
from rstore.errors import InvalidTypeError, InvalidValueError, StoreNotAvailableError


class Scheme(NamedTuple):
    """Where the backend of a scheme is found, and the extra that installs its driver (None: it comes with the core)."""

    module: str
    backend: str
    extra: str | None

    @property
    def is_server(self) -> bool:
        """Whether there is a server that asks for a login."""
        return self.extra is not None


SCHEMES: Final[dict[str, Scheme]] = {
    "sqlite": Scheme("rstore.backends.sqlite.backend", "SqliteBackend", None),
    "memory": Scheme("rstore.backends.memory.backend", "MemoryBackend", None),
    "postgresql": Scheme("rstore.backends.postgres.backend", "PostgresBackend", "postgresql"),
    "postgres": Scheme("rstore.backends.postgres.backend", "PostgresBackend", "postgresql"),
    **{
        name.replace("redis", server): Scheme("rstore.backends.redis.backend", backend, "redis")
        for name, backend in {
            "redis": "RedisBackend",
            "rediss": "TlsRedisBackend",
            "redis+cluster": "RedisClusterBackend",
            "rediss+cluster": "TlsRedisClusterBackend",
            "redis+sentinel": "RedisSentinelBackend",
            "rediss+sentinel": "TlsRedisSentinelBackend",
            "redis+unix": "RedisSocketBackend",
        }.items()
        for server in ("redis", "valkey")  # Valkey speaks the same protocol
    },
    "unix": Scheme("rstore.backends.redis.backend", "RedisSocketBackend", "redis"),
}

_dsn = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)
_servers = re.compile(r"(?:postgres(?:ql)?|(?:redis|valkey)s?(?:\+\w+)?)(?::/*[^/]*@|:?//)", re.IGNORECASE)
"""A server's dsn, also one that has lost a colon, or a slash as `pathlib.Path` takes it away."""
_REFUSED: Final = {
    r"(?i)(?:^|[\s;])(?:host|hostaddr|port|dbname|user|\w*password|pwd|passfile|service|sslmode)\s*=": (
        "the dsn is made of keywords, as libpq and ODBC have them: write "
        "postgresql://USER:PASSWORD@HOST:PORT/DBNAME; a file of such a name is ./…"
    ),
    # USER:PASSWORD@HOST/DATABASE or USER:PASSWORD@HOST:PORT.
    r"\A/{0,2}[^/@:]*:[^/@]*@[^/@]+(?:/|:[0-9]+$)": (
        "the dsn is a login of a server without its scheme: it begins with postgresql:// or redis://; a file of "
        "such a name is ./…"
    ),
    r"\Afile:": (
        "a URI of SQLite is no dsn: write the path alone, and frozen=True for mode=ro; a file of such a name is "
        "./file:…"
    ),
    r"(?:\A|[/\\]):memory:[^/\\]*\Z": "':memory:' would be another store for every thread: memory:// is shared by all",
    r"(?:\A|[/\\])\.\.?\Z": "the path names a directory, and a store is a file",
    r"\A~(?:\w*[/\\]|$)": (
        "~ stands for no directory here: pass os.path.expanduser(path); a file of such a name is ./~…"
    ),
}
"""Paths by which something else was surely meant, and the refusal of each."""
if os.name != "nt":
    _REFUSED[r"\A[A-Za-z]:[/\\]"] = "the dsn is a path of Windows on another system; a file of such a name is ./…"
_ALIASES: Final = {
    "psql": "postgresql",
    "pgsql": "postgresql",
    "postgis": "postgresql",
    "sqlite3": "sqlite",
    "file": "sqlite",
}
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
        _check_unknown(scheme)
    slip = _slip.match(text) if match is None and isinstance(dsn, str) else None
    if slip is not None and slip[1].lower() in SCHEMES:
        raise InvalidValueError(f"a dsn begins with {slip[1]}://; a file of such a name is ./{slip[1]}:…")
    if scheme == "sqlite":
        _check_path(rest, written=isinstance(dsn, str))
    if scheme in SCHEMES and SCHEMES[scheme].is_server and rest != rest.strip():
        raise InvalidValueError(f"a dsn ends without a blank or a line break; this one, of {scheme}://, has one")
    if "\0" in rest:
        raise InvalidValueError("a dsn holds no NUL character")
    if not is_utf8(rest):
        raise InvalidValueError("a dsn is UTF-8, and this one holds a lone surrogate")
    return scheme, _absolute(rest) if scheme == "sqlite" else rest


def check_login(credentials: Any, scheme: str) -> Credentials | None:
    """Return `credentials` if it is a function that the backend of a scheme can ask, or None."""
    checked = check_credentials(credentials)
    if checked is None:
        return None
    built_in = SCHEMES.get(scheme)
    if not (_plugin(scheme).takes_credentials if built_in is None else built_in.is_server):
        raise InvalidValueError(f"credentials is for PostgreSQL and Redis: {scheme}:// asks for no login")
    return checked


def _plugin(scheme: str) -> type[Backend]:
    from rstore.backends.plugins import load_plugin  # here: built-in schemes need none of it

    return load_plugin(scheme)


def _check_unknown(scheme: str) -> None:
    """Refuse a scheme that is not built in, unless a plugin registers it; name the scheme that was meant."""
    meant = _ALIASES.get(scheme, scheme.partition("+")[0])
    slip = get_close_matches(scheme, [known for known in SCHEMES if "+" in known], 1, 0.85)
    if meant in SCHEMES and not slip:
        raise InvalidValueError(f"the scheme {scheme}:// is another library's: write {meant}://, without a driver")
    from rstore.backends.plugins import find_plugins

    known = list(dict.fromkeys([*SCHEMES, *find_plugins()]))
    if scheme not in known:
        [*close] = get_close_matches(scheme, known, 1)
        raise InvalidValueError(
            f"the scheme {scheme}:// is unknown{''.join(f', did you mean {name}://?' for name in close) or ':'} "
            f"this version has {', '.join(f'{name}://' for name in known)} and bare paths"
        )


def _check_path(path: str, *, written: bool) -> None:
    """Refuse a path that cannot name a file; one `written` as a str also where something else was surely meant.

    It quotes nothing: what is taken for a path may be the dsn of a server, with its password.
    """
    if not path:
        raise InvalidValueError("the path of the SQLite file is empty: sqlite://PATH, or just PATH")
    if _servers.search(path) or (written and "://" in path):
        raise InvalidValueError(
            "the dsn begins with no scheme, and holds one: it begins with SCHEME://, without a blank, a quotation mark "
            "or anything else before it"
        )
    for pattern, refusal in _REFUSED.items() if written else ():
        if re.search(pattern, path):
            raise InvalidValueError(refusal)


def _absolute(path: str) -> str:
    """Return a path that means the directory of now, also where the store is opened again later."""
    if path.endswith(os.sep):
        raise InvalidValueError(f"{path!r} names a directory, and a store is a file")
    try:
        return os.path.join(os.getcwd(), path)  # not `abspath`: of link/../file it would make another file
    except FileNotFoundError as error:
        raise StoreNotAvailableError(f"the current directory is gone, and {path!r} is relative to it") from error


def make_checked_backend(name: str, rest: str, namespace: str, options: Options) -> Backend:
    """Return the backend for what `check_dsn` returned."""
    check_running("no store can be opened")
    scheme = SCHEMES.get(name)
    if scheme is None:
        return _plugin(name)(rest, namespace, options)
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
