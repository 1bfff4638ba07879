"""Arguments of verbs, checked once at the door: keys, namespaces, timestamps, steps and counts."""

from __future__ import annotations

from collections.abc import Collection
from datetime import date, datetime, timedelta
from decimal import Decimal
from inspect import iscoroutinefunction
from math import ceil, inf
from numbers import Real
from operator import index
from typing import Any, Final

import numpy as np

from rstore.backends.types import MAX_INT64, MIN_INT64
from rstore.errors import InvalidTypeError, InvalidValueError

MAX_KEY_BYTES = 2048
MAX_NAMESPACE_BYTES = 255
MAX_ID_BYTES = 255
MAX_TTL_S = 10**11
"""About 3,000 years: their milliseconds, and those since 1970, are exact in the doubles that Redis sorts by."""
MAX_SCHEMA_VERSION = 2**16 - 1
_LENGTHS: Final = ("freq", "every", "tolerance")
"""Arguments that are a distance between two timestamps rather than one of them."""
_COUNTS: Final = ("n", "limit", "size")
"""Arguments that count something."""


def check_key(key: Any) -> str:
    """Return `key` if it can be one: a string of 1 to 2,048 UTF-8 bytes without NUL or lone surrogates."""
    # The common case first: ASCII is one byte a character, and `isascii` reads a flag.
    if type(key) is str and key.isascii() and 0 < len(key) <= MAX_KEY_BYTES and "\0" not in key:
        return key
    return _check_name(key, "key", MAX_KEY_BYTES)


def check_namespace(namespace: Any) -> str:
    """Return `namespace` if it can be one: a string of 1 to 255 UTF-8 bytes without NUL or lone surrogates."""
    return _check_name(namespace, "namespace", MAX_NAMESPACE_BYTES)


def check_item(item: Any) -> str:
    """Return `item` if it can name an item of an event sequence; the rules are those of keys."""
    if type(item) is str and item.isascii() and 0 < len(item) <= MAX_KEY_BYTES and "\0" not in item:  # as above
        return item
    return _check_name(item, "item", MAX_KEY_BYTES)


def check_id(id_: Any) -> str:
    """Return `id_` if it can be the id of a change: a string of 1 to 255 UTF-8 bytes without NUL or lone surrogates."""
    return _check_name(id_, "id", MAX_ID_BYTES)


def _check_name(name: Any, what: str, limit: int) -> str:
    if not isinstance(name, str):
        hint = ""
        if what == "namespace" and isinstance(name, bool):
            hint = ": pass frozen=… by its name"
        elif isinstance(name, list | set | frozenset):
            hint = ": pass each of several as an argument of its own, *keys"
        raise InvalidTypeError(f"{_a(what)} is a str, not {type(name).__name__}{hint}")
    try:
        size = len(name.encode())
    except UnicodeEncodeError as error:
        raise InvalidValueError(f"the {what} {name!r} holds a lone surrogate, which UTF-8 cannot express") from error
    if not 0 < size <= limit:
        raise InvalidValueError(f"{_a(what)} has 1 to {limit:,} UTF-8 bytes, this one {size:,}")
    if "\0" in name:
        raise InvalidValueError(f"the {what} {name!r} holds a NUL character")
    return str.__str__(name)  # a plain str also where a subclass came in, whatever its own __str__ says


def _a(noun: str) -> str:
    return ("an " if noun[0] in "aeiou" else "a ") + noun


def key_or_none(key: Any) -> str | None:
    """Return `key` as a plain str if it can be a key."""
    try:
        return check_key(key)
    except (InvalidTypeError, InvalidValueError):
        return None


def check_int64(value: Any, what: str) -> int:
    """Return `value` as an int between -2**63 and 2**63 - 1; bool, float and everything else is refused."""
    if type(value) is not int:
        if isinstance(value, bool | np.bool_):
            raise InvalidTypeError(f"{what} is an int, not a bool")
        try:
            value = int.__index__(index(value))  # of a subclass, too, whatever its own methods do
        except TypeError as error:
            raise InvalidTypeError(f"{what} is an int, not {type(value).__name__}{_way_out(value, what)}") from error
    if not MIN_INT64 <= value <= MAX_INT64:
        raise InvalidValueError(f"{what} lies outside of -2**63 … 2**63 - 1")
    number: int = value
    return number


def _way_out(value: Any, what: str) -> str:
    """Return a hint how to make an int of a value of this type; it does not show the value."""
    if isinstance(value, datetime | float | np.floating | np.datetime64 | np.timedelta64) and value != value:  # noqa: PLR0124
        return ", and a missing one at that"
    if isinstance(value, datetime):
        utc = ".replace(tzinfo=UTC)" if value.tzinfo is None else ""
        return f": int(…{utc}.timestamp()) is its seconds"
    if isinstance(value, date):
        return ": calendar.timegm(….timetuple()) is its seconds"
    if isinstance(value, timedelta):
        return ": … // timedelta(seconds=1) is its seconds"
    if isinstance(value, np.timedelta64):
        return ": … // np.timedelta64(1, 's') is its seconds"
    if isinstance(value, np.datetime64):
        return ": ….astype('M8[s]').astype(int) is its seconds"
    if isinstance(value, str):
        if what in _LENGTHS:
            return ": write how many of the series' units it takes, as 15 * 60 for a quarter of an hour in seconds"
        if what in _COUNTS:
            return ": int(…) reads digits"
        return ": int(…) reads digits, int(datetime.fromisoformat(…).timestamp()) the seconds of a date with its zone"
    return ": round it, as by int(…)" if isinstance(value, Real | Decimal) else ""


def check_timestamp(t: Any) -> int:
    """Return `t` if it can be a timestamp: any int64."""
    return check_int64(t, "a timestamp")


def check_range(start: Any, end: Any) -> tuple[int, int]:
    """Return the bounds of a range of timestamps; where one is None, it is that of int64."""
    lo = MIN_INT64 if start is None else check_int64(start, "start")
    return lo, MAX_INT64 if end is None else check_int64(end, "end")


def check_freq(freq: Any, what: str = "freq") -> int:
    """Return `freq` if it can be one: an int64 above zero."""
    step = check_int64(freq, what)
    if step <= 0:
        raise InvalidValueError(f"{what} is above zero, not {step}")
    return step


def check_count(n: Any, what: str = "n") -> int:
    """Return `n` if it can be a number of things: an int64, zero or above."""
    number = check_int64(n, what)
    if number < 0:
        raise InvalidValueError(f"{what} is zero or above, not {number}")
    return number


def check_schema_version(version: Any) -> int:
    """Return the version of an application's items and values if it can be one: an int from 0 to 65,535."""
    number = check_int64(version, "_schema_version")
    if not 0 <= number <= MAX_SCHEMA_VERSION:
        raise InvalidValueError(f"_schema_version lies between 0 and {MAX_SCHEMA_VERSION:,}, not {number}")
    return number


def check_choice(given: Any, choices: Collection[str], what: str) -> str:
    """Return `given` if it is one of some words."""
    if not isinstance(given, str) or given not in choices:  # an array of them cannot be compared
        raise InvalidValueError(f"{what} is one of {', '.join(choices)}, not {given!r}")
    return given


def check_function(fn: Any, verb: str, of: str) -> None:
    """Refuse what is no function, and one whose work would begin later."""
    if not callable(fn):
        raise InvalidTypeError(f"{verb} takes a function {of}, not {type(fn).__name__}")
    if iscoroutinefunction(fn) or iscoroutinefunction(getattr(fn, "__call__", None)):  # noqa: B004 - which it would run
        raise InvalidTypeError(
            f"{verb} takes a function that returns a value, not a coroutine function: await that first, and store "
            "its result"
        )


def check_edge(text: Any, what: str) -> str:
    """Return a prefix of keys, or the start or stop of a run of them: a str, which need not be a key."""
    if not isinstance(text, str):
        raise InvalidTypeError(f"{what} is a str, not {type(text).__name__}")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidValueError(f"{what} holds a lone surrogate, which UTF-8 cannot express") from error
    if "\0" in text:
        raise InvalidValueError(f"{what} holds a NUL character, which no key does")
    return str.__str__(text)


def check_ttl(ttl: Any, what: str = "ttl") -> int | None:
    """Return a time to live in seconds as milliseconds, one at least; None stays None."""
    if ttl is None:
        return None
    seconds = _seconds(ttl, what)
    if not 0 < seconds <= MAX_TTL_S:
        raise InvalidValueError(
            f"{what} is a number of seconds above zero and at most {MAX_TTL_S:,}, not {_shown(seconds)}"
        )
    return ceil(seconds * 1000)


def check_timeout(timeout: Any) -> float:
    """Return how long to wait in seconds, zero or above."""
    seconds = _seconds(timeout, "timeout")
    if not 0 <= seconds < 2**31 / 1000:
        raise InvalidValueError(f"timeout is a number of seconds from 0 to about 2 million, not {_shown(seconds)}")
    return float(seconds)


def _seconds(given: Any, what: str) -> int | float:
    """Return a number of seconds, of any type of real numbers, as an int or a float."""
    if isinstance(given, bool) or not isinstance(given, Real):
        hint = ": ….total_seconds()" if isinstance(given, timedelta) else ""
        raise InvalidTypeError(f"{what} is a number of seconds, not {type(given).__name__}{hint}")
    number: Any = given
    try:
        return int.__index__(index(number)) if hasattr(number, "__index__") else float(number)
    except OverflowError:  # a fraction
        return inf if number > 0 else -inf


def _shown(number: Any) -> str:
    # Python refuses to write out an int of thousands of digits, by an error of its own.
    return f"{number}" if isinstance(number, float) or abs(number) <= MAX_INT64 else "one beyond 2**63"


def check_version(version: Any) -> bytes | None:
    """Return `version` if it can be one: bytes, or None for "there must be none"."""
    if version is None or isinstance(version, bytes):
        return version
    raise InvalidTypeError(f"if_version is bytes or None, not {type(version).__name__}")
