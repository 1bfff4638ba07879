"""The place of a PostgreSQL store: the parameters of libpq, and the options of a DSN that are rstore's own."""

from __future__ import annotations

import re
from difflib import get_close_matches
from typing import Final, NamedTuple
from urllib.parse import unquote

import psycopg
from psycopg import pq
from psycopg.conninfo import conninfo_to_dict

from rstore.backends.credentials import Credentials, ask_for_login
from rstore.errors import InvalidValueError

_MAX_SCHEMA_BYTES: Final = 63
_DEFAULT_POOL: Final = 10
_OWN: Final = {"schema", "prepare", "pool"}


class PostgresPlace(NamedTuple):
    """A store's place. `show` is for messages and holds no secret."""

    parameters: dict[str, str]
    schema: str
    prepare: bool
    pool: int
    show: str
    credentials: Credentials | None = None

    def login(self) -> dict[str, str]:
        """Return the parameters for libpq, with the login for one connection."""
        if self.credentials is None:
            return self.parameters
        user, password = ask_for_login(self.credentials, self.show)
        return {**self.parameters, **({} if user is None else {"user": user}), "password": password}

    def __repr__(self) -> str:
        return f"PostgresPlace({self.show!r})"  # without the password: a traceback may show variables


def parse(rest: str, credentials: Credentials | None = None) -> PostgresPlace:
    """Return the place that a DSN names, of which `rest` follows `postgresql://`.

    Raises `InvalidValueError`, without quoting what may be a password.
    """
    authority = re.split("[/?#]", rest, maxsplit=1)[0]
    if rest.count("@") > authority.count("@") or authority.count("@") > 1:
        # Half of a password that was not quoted would pass for a host, a database or an option, and be shown as one.
        raise _unreadable()
    base, _, query = rest.partition("?")
    pairs = [pair.partition("=") for pair in query.split("&") if pair]
    own = {unquote(name): unquote(value) for name, _, value in pairs if unquote(name) in _OWN}
    others = "&".join(name + equals + value for name, equals, value in pairs if unquote(name) not in _OWN)
    if re.search(r":[^0-9,]", re.sub(r"\[[^]]*\]", "", authority.rpartition("@")[2])):
        raise _unreadable()  # no port: it may be a password without its host, and an option a part of it
    _check_options(pairs)
    try:
        given, in_front = (conninfo_to_dict(f"postgresql://{one}") for one in (f"{base}?{others}", base))
    except (psycopg.Error, UnicodeDecodeError):
        given, in_front = None, {}
    if given is None or not re.fullmatch("[0-9,]*", str(given.get("port", ""))):
        raise _unreadable() from None  # libpq quotes what it cannot read, which may be half of a password
    if not re.fullmatch("-?[0-9]+", str(given.get("connect_timeout", 0))):
        raise InvalidValueError("connect_timeout is a whole number of seconds")
    # The ports of several hosts without any are commas.
    _check_once([name for name, value in in_front.items() if str(value).strip(",")], pairs)
    parameters = {"fallback_application_name": "rstore"} | {k: str(v) for k, v in given.items()}
    parameters["client_encoding"] = "UTF8"
    if credentials is not None and "password" in given:
        raise InvalidValueError("the dsn holds a password, and credentials= is given, too: leave one of them out")
    schema = _schema(own.get("schema", "rstore"))
    show = f"postgresql://{given.get('host', '')}/{given.get('dbname', '')}, schema {schema!r}"
    prepare, pool = _prepare(own.get("prepare", "yes")), _pool(own.get("pool", _DEFAULT_POOL))
    return PostgresPlace(parameters, schema, prepare, pool, show, credentials)


def _check_options(pairs: list[tuple[str, str, str]]) -> None:
    """Name an option that neither rstore nor libpq has."""
    known = {option.keyword.decode() for option in pq.Conninfo.get_defaults()} | _OWN | {"ssl"}
    for i, (name, _, _) in enumerate(pairs):
        if unquote(name) in known:
            continue
        if any(before.endswith("password") for before, _, _ in pairs[:i]) or not re.fullmatch(r"[\w.-]{1,63}", name):
            raise _unreadable()  # it may be a part of that password
        near = get_close_matches(name, known, 1)
        raise InvalidValueError(
            f"{name!r} is no option of PostgreSQL or of rstore" + (f": {near[0]!r} is" if near else "")
        )


def _check_once(in_front: list[str], pairs: list[tuple[str, str, str]]) -> None:
    """Refuse an option that is given twice: libpq takes the last one, and an application may mean the first."""
    names = [*in_front, *(unquote(name) for name, _, _ in pairs)]
    for name in names:
        if names.count(name) > 1:
            raise InvalidValueError(f"the dsn says twice what its {name} is: leave one out")


def _unreadable() -> InvalidValueError:
    return InvalidValueError(
        "libpq cannot read the dsn: postgresql://USER:PASSWORD@HOST:PORT/DATABASE?OPTION=VALUE, where only the host "
        "follows a plain @; elsewhere write %40 for @, %2F for /, %3A for :, %3F for ? and %23 for #"
    )


def _schema(name: str) -> str:
    if not 0 < len(name.encode()) <= _MAX_SCHEMA_BYTES or "\0" in name:
        raise InvalidValueError(f"the schema has 1 to {_MAX_SCHEMA_BYTES} bytes: {name!r}")
    if name.startswith("pg_") or name == "information_schema":
        raise InvalidValueError(f"the schema {name!r} is PostgreSQL's own")
    return name


def _prepare(value: str) -> bool:
    if value not in ("yes", "no"):
        raise InvalidValueError(f"prepare is yes or no, not {value!r}")
    return value == "yes"


def _pool(value: str | int) -> int:
    if not re.fullmatch(r"[1-9][0-9]{0,3}", str(value)):
        raise InvalidValueError(f"pool is how many connections a store has at most, 1 to 9999, not {value!r}")
    return int(value)
