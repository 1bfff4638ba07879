"""What a DSN says: which servers, as whom, over what, and how a namespace is laid out there.

`redis://[user:password@]host[:port][/database]`, `redis://[user:password@]/path/of/socket`, `rediss://` for TLS, and
`redis+cluster://[user:password@]host:port,host:port`, with options behind a `?`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import parse_qsl, unquote

from rstore.errors import InvalidValueError

Address = tuple[str, int]

_DEFAULT_PORT: Final = 6379
_HOST: Final = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^:\[\]]*)(?::(\d{1,5}))?")
_OPTION: Final = re.compile(r"[a-z_]{1,30}")
_BUCKETS: Final = tuple(f"{1 << power}" for power in range(9))
_TLS: Final = frozenset({"ssl_ca_certs", "ssl_ca_path", "ssl_certfile", "ssl_keyfile", "ssl_cert_reqs"})


@dataclass(frozen=True, slots=True)
class Target:
    """The servers that a DSN names. Its repr shows no secret."""

    addresses: tuple[Address, ...]
    path: str | None = None
    """Of a Unix socket."""
    cluster: bool = False
    tls: bool = False
    database: int = 0
    buckets: int = 1
    """Of a namespace that is created here."""
    wait_replicas: int = 0
    credentials: dict[str, str] = field(default_factory=dict, repr=False)
    ssl: dict[str, Any] = field(default_factory=dict, repr=False)

    def __str__(self) -> str:
        return self.path or ",".join(f"{host}:{port}" for host, port in self.addresses)


def parse(rest: str, *, cluster: bool, tls: bool) -> Target:
    """Return what stands behind the two slashes of a DSN.

    Raises `InvalidValueError`, whose message repeats nothing that may be a secret.
    """
    place, _, query = rest.partition("?")
    credentials, at, place = place.rpartition("@")
    user, colon, password = credentials.partition(":")
    if at and not colon:
        raise InvalidValueError("the credentials of a Redis DSN are user:password@, or :password@")
    hosts, slash, path = place.partition("/")
    options = dict(parse_qsl(query, keep_blank_values=True))
    known = {"db", "wait_replicas", "buckets"} | (_TLS if tls else frozenset())
    if unknown := sorted(set(options) - known):
        raise InvalidValueError(f"{_unknown(unknown, query)}; known are {', '.join(sorted(known))}")
    socket = not hosts and bool(path) and not path.isdigit()
    named_database = path if not socket else ""
    database = options.get("db") or named_database or "0"
    if named_database and database != named_database:
        raise InvalidValueError("a Redis DSN names two databases, one behind the host and one as db: leave one out")
    if "," in hosts and not cluster:
        raise InvalidValueError(
            "a Redis DSN names one host: several are those of a cluster (redis+cluster://) or of Sentinel "
            "(redis+sentinel://host:port,host:port/service)"
        )
    buckets = options.get("buckets", "256" if cluster else "1")
    if socket and (cluster or tls):
        raise InvalidValueError("a Unix socket has neither TLS nor a cluster behind it: redis:///path/of/socket")
    if cluster and int(_number(database, "database")):
        raise InvalidValueError("a Redis Cluster has database 0 only")
    if buckets not in _BUCKETS:
        raise InvalidValueError(f"the buckets of a Redis DSN are one of {', '.join(_BUCKETS)}")
    named = {"username": unquote(user), "password": unquote(password)} if at else {}
    return Target(
        addresses=() if socket else tuple(_address(host) for host in hosts.split(",")),
        path=unquote(slash + path) if socket else None,
        cluster=cluster,
        tls=tls,
        database=_number(database, "database"),
        buckets=int(buckets),
        wait_replicas=_number(options.get("wait_replicas", "0"), "wait_replicas"),
        credentials={name: value for name, value in named.items() if value},
        ssl={name: value for name, value in options.items() if name in _TLS},
    )


def _unknown(options: list[str], query: str) -> str:
    """Say which options are unknown, unless they may be part of a password with a ? in it that is not written %3F."""
    if "@" in query or not all(_OPTION.fullmatch(option) for option in options):
        return "what stands behind the ? of a Redis DSN is no option of one; a ? in a password is written %3F"
    hint = "; ssl_… are for rediss://" if any(option in _TLS for option in options) else ""
    return f"a Redis DSN has no option {', '.join(options)}{hint}"


def _number(text: str, what: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise InvalidValueError(f"the {what} of a Redis DSN is a number")
    return int(text)


def _address(text: str) -> Address:
    match = _HOST.fullmatch(text)
    if match is None or int(match[2] or 0) > 65535:
        raise InvalidValueError("a Redis DSN is redis://user:password@host:port/database, see the documentation")
    host = match[1].strip("[]") or "localhost"
    try:
        host.encode("idna")  # as the driver will
    except UnicodeError as error:
        raise InvalidValueError("the host of a Redis DSN cannot be the name of one") from error
    return host, int(match[2] or _DEFAULT_PORT)
