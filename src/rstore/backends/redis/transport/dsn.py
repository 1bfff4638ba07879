"""The DSN: the servers, the login, the transport, and the layout of a namespace.

`redis://[user:password@]host[:port][/database]`, `redis://[user:password@]/path/of/socket`, `rediss://` for TLS,
`redis+cluster://[user:password@]host:port,host:port` and `redis+sentinel://[user:password@]host:port,…/service`, with
options behind a `?`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import Any, Final
from urllib.parse import parse_qsl, quote, unquote

from rstore.backends.credentials import Credentials
from rstore.backends.redis.transport.tls import TLS, check_tls
from rstore.errors import InvalidValueError

Address = tuple[str, int]

_DEFAULT_PORT: Final = 6379
_HOST: Final = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^:\[\]]*)(?::(\d{1,5}))?")
_OPTION: Final = re.compile(r"[a-z_]{1,30}")
_BUCKETS: Final = tuple(f"{1 << power}" for power in range(9))
_OPTIONS: Final = frozenset({"db", "wait_replicas", "buckets", "max_connections", "client_name"})
_SENTINEL: Final = frozenset({"sentinel_user", "sentinel_password"})
_SENTINEL_PORT: Final = 26379
_MAX_CONNECTIONS: Final = 64
"""To one server, unless the DSN says otherwise: one for each call that is under way."""
_NUMBER: Final = re.compile(r"[0-9]{1,9}")
_MAX_NAME: Final = 200
_PRINTABLE: Final = re.compile(rf"[!-~]{{1,{_MAX_NAME}}}")


@dataclass(frozen=True, slots=True)
class Target:
    """The servers that a DSN names. Its repr shows no secret."""

    addresses: tuple[Address, ...]
    path: str | None = None
    """Of a Unix socket."""
    cluster: bool = False
    service: str | None = None
    """The name of the master in Sentinel; the addresses are those of the sentinels then."""
    tls: bool = False
    database: int = 0
    buckets: int = 1
    """Of a namespace that is created here."""
    wait_replicas: int = 0
    read_from_replica: bool = False
    max_connections: int = _MAX_CONNECTIONS
    """To each server."""
    client_name: str | None = None
    credentials: dict[str, str] = field(default_factory=dict, repr=False)
    ask: Credentials | None = field(default=None, repr=False)
    """The function that each new connection asks for a login."""
    sentinel_credentials: dict[str, str] = field(default_factory=dict, repr=False)
    ssl: dict[str, Any] = field(default_factory=dict, repr=False)

    def __str__(self) -> str:
        where = self.path or ",".join(f"{host}:{port}" for host, port in self.addresses)
        return where if self.service is None else f"{self.service!r} of the sentinels {where}"

    def named(self, namespace: str) -> Target:
        """Return the target with the name that its connections bear: that of the DSN, or one made of the namespace."""
        return replace(self, client_name=self.client_name or f"rstore:{quote(namespace, safe='')}"[:_MAX_NAME])

    def of_sentinels(self) -> Target:
        """Return the sentinels as a target: they have a login of their own."""
        login = self.sentinel_credentials
        return replace(self, service=None, credentials=login, ask=None, database=0, max_connections=4)

    @property
    def fails_over(self) -> bool:
        """Whether another server may take over, and can be asked for, where one does not answer."""
        return self.cluster or self.service is not None


def parse(
    rest: str,
    *,
    cluster: bool = False,
    tls: bool = False,
    sentinel: bool = False,
    credentials: Credentials | None = None,
) -> Target:
    """Return the target that the part behind the two slashes of a DSN names; no error repeats a secret."""
    place, _, query = rest.partition("?")
    login, at, place = place.rpartition("@")
    user, colon, password = login.partition(":")
    if credentials is not None and password:
        raise InvalidValueError("the dsn holds a password, and credentials= is given, too: leave one of them out")
    if at and not colon and credentials is None:
        raise InvalidValueError("the credentials of a Redis DSN are user:password@, or :password@")
    hosts, slash, path = place.partition("/")
    pairs = parse_qsl(query, keep_blank_values=True)
    options = dict(pairs)
    known = _OPTIONS | (TLS if tls else frozenset()) | (_SENTINEL if sentinel else frozenset())
    known |= {"read_from"} if cluster or sentinel else frozenset()
    if unknown := sorted(set(options) - known):
        raise InvalidValueError(f"{_unknown(unknown, query)}; known are {', '.join(sorted(known))}")
    if len(options) < len(pairs):
        raise InvalidValueError("a Redis DSN has an option twice: leave one of them out")
    socket = not (sentinel or hosts) and bool(path) and not path.isdigit()
    service = None
    if sentinel:
        service, _, path = path.partition("/")
        service = unquote(service)
        if not hosts or _PRINTABLE.fullmatch(service) is None:
            raise InvalidValueError(
                "a DSN of Sentinel names its hosts and the service: redis+sentinel://host:port,host:port/service"
            )
    named_database = "" if socket else path
    database = options.get("db") or named_database or "0"
    if named_database and database != named_database:
        raise InvalidValueError("a Redis DSN names two databases, one behind the host and one as db: leave one out")
    if "," in hosts and not (cluster or sentinel):
        raise InvalidValueError(
            "a Redis DSN names one host: several are those of a cluster (redis+cluster://) or of Sentinel "
            "(redis+sentinel://host:port,host:port/service)"
        )
    if "," in hosts and not all(hosts.split(",")):
        raise InvalidValueError("a Redis DSN names a host before and behind each comma")  # none would be localhost
    buckets = options.get("buckets", "256" if cluster else "1")
    if socket and (cluster or tls):
        raise InvalidValueError("a Unix socket has neither TLS nor a cluster behind it: redis:///path/of/socket")
    if cluster and int(_number(database, "database")):
        raise InvalidValueError("a Redis Cluster has database 0 only")
    if buckets not in _BUCKETS:
        raise InvalidValueError(f"the buckets of a Redis DSN are one of {', '.join(_BUCKETS)}")
    if options.get("read_from", "master") not in ("master", "replica"):
        raise InvalidValueError("read_from of a Redis DSN is master or replica")
    name = options.get("client_name")
    if name is not None and _PRINTABLE.fullmatch(name) is None:
        raise InvalidValueError("client_name of a Redis DSN is up to 200 printable ASCII characters without a space")
    most = _number(options.get("max_connections", f"{_MAX_CONNECTIONS}"), "max_connections")
    if most < 1:
        raise InvalidValueError("max_connections of a Redis DSN is 1 or more")
    port = _SENTINEL_PORT if sentinel else _DEFAULT_PORT
    return Target(
        addresses=() if socket else tuple(_address(host, port) for host in hosts.split(",")),
        path=unquote(slash + path) if socket else None,
        cluster=cluster,
        service=service,
        tls=tls,
        database=_number(database, "database"),
        buckets=int(buckets),
        wait_replicas=_number(options.get("wait_replicas", "0"), "wait_replicas"),
        read_from_replica=options.get("read_from") == "replica",
        max_connections=most,
        client_name=name,
        credentials=_login(unquote(user), unquote(password)) if at else {},
        ask=credentials,
        sentinel_credentials=_login(options.get("sentinel_user", ""), options.get("sentinel_password", "")),
        ssl=check_tls({name: value for name, value in options.items() if name in TLS}) if tls else {},
    )


def _unknown(options: list[str], query: str) -> str:
    """Say which options are unknown, unless they may be part of a password with a ? in it that is not written %3F."""
    if "@" in query or not all(_OPTION.fullmatch(option) for option in options):
        return "what stands behind the ? of a Redis DSN is no option of one; a ? in a password is written %3F"
    hint = "; ssl_… are for rediss://" if any(option in TLS for option in options) else ""
    hint += "; read_from is for Sentinel and clusters" if "read_from" in options else ""
    return f"a Redis DSN has no option {', '.join(options)}{hint}"


def parse_socket(rest: str, credentials: Credentials | None = None) -> Target:
    """Parse the part behind the two slashes of `unix://`."""
    _, _, path = rest.partition("?")[0].rpartition("@")
    target = parse(rest, credentials=credentials) if path.startswith("/") else None
    if target is None or target.path is None:
        raise InvalidValueError("unix:// is followed by the path of a socket: unix:///path/of/socket?db=0")
    return target


def _login(user: str, password: str) -> dict[str, str]:
    return {name: value for name, value in (("username", user), ("password", password)) if value}


def _number(text: str, what: str) -> int:
    if _NUMBER.fullmatch(text) is None:
        raise InvalidValueError(f"the {what} of a Redis DSN is a number")
    return int(text)


def _address(text: str, port: int) -> Address:
    match = _HOST.fullmatch(text)
    if match is None or not 0 < int(match[2] or port) <= 65535:
        raise InvalidValueError(
            "a Redis DSN is redis://user:password@host:port/database; its host is a name or an address, an IPv6 one in "
            "brackets, and its port a number up to 65535"
        )
    host = match[1].strip("[]") or "localhost"
    try:
        host.encode("idna")  # as the driver will
    except UnicodeError as error:
        raise InvalidValueError("the host of a Redis DSN cannot be the name of one") from error
    return host, int(match[2] or port)
