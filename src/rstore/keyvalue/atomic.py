"""The key/value verbs that read and write in one step: of concurrent callers each sees the result of the last."""

from __future__ import annotations

from collections.abc import Callable
from math import isfinite, isnan
from typing import Any, Final

import numpy as np

from rstore.arguments import check_function, check_key, check_ttl
from rstore.backends.types import KEEP, version_of
from rstore.errors import InvalidTypeError, InvalidValueError
from rstore.keyvalue.record_store import Stored
from rstore.keyvalue.records import Records
from rstore.session import Session

_MISSING: Final = object()


class Atomic(Records):
    """Changes that depend on what is there."""

    def add(self, key: str, value: Any, *, ttl: float | None = None) -> bool:
        """Store `value` under `key` only if there is none; return whether it was stored. Of several callers one does.

        >>> store.add('owner', 'ada', ttl=60), store.add('owner', 'alan')
        (True, False)
        """
        records = self._writer.records
        key, ttl_ms = check_key(key), check_ttl(ttl)
        return records.put_if(key, value, None, ttl_ms) is not None

    def incr(self, key: str, delta: float = 1, *, default: float = 0) -> Any:
        """Add `delta` to the number under `key`, or to `default` if there is none, and return the sum.

        Both are int or float; an expiry stays. Raises `InvalidArgumentError` if the value is no number, or the sum is
        not finite, and `StoreBusyError` if others were faster again and again until the time-out.

        >>> store.incr('hits'), store.incr('hits', 2), store.incr('seconds', 0.5)
        (1, 3, 0.5)
        """
        session = self._writer
        key = check_key(key)
        delta, default = _number(delta, "delta"), _number(default, "default")
        where = session.place(key)

        def plus(value: Any) -> Any:
            try:
                total = _number(value, f"the value of {where}") + delta
            except OverflowError as error:
                raise InvalidValueError(f"the sum under {where} exceeds what a float can hold") from error
            if isinstance(total, float) and not isfinite(total):  # no later sum would be finite again
                what = "is not a number" if isnan(total) else "exceeds what a float can hold"
                raise InvalidValueError(f"the sum under {where} {what}; nothing was changed")
            return total

        return _change(session, key, plus, default)

    def modify(self, key: str, fn: Callable[[Any], Any], *, default: Any = _MISSING) -> Any:
        """Replace the value of `key` by the result of `fn`, and return it as it will be read.

        `fn` gets the value, or `default` if there is none, and may change it. It is called again after a concurrent
        write, so it should have no effects of its own; if it raises, or returns what cannot be dumped, nothing has
        changed. An expiry stays.

        Raises `KeyError` if there is no such key and no `default`, and `StoreBusyError` if others were faster again and
        again until the time-out.

        >>> store['cart'] = ['tea']
        >>> store.modify('cart', lambda items: items + ['milk'])
        ['tea', 'milk']
        >>> store.modify('visits', lambda n: n + 1, default=0)
        1
        """
        session = self._writer
        key = check_key(key)
        check_function(fn, "modify", "of the value")
        return _change(session, key, fn, default)

    def get_or_set(self, key: str, factory: Callable[[], Any], *, ttl: float | None = None) -> Any:
        """Return the value of `key`; if there is none, what `factory` returns, after storing it.

        Of all callers, in all threads and processes, one computes, and the others wait for its value. If it dies, with
        its process or its computer, another one takes its place within 5 s; until then callers with a shorter time-out
        raise `StoreBusyError`. If `factory` raises, it raises, and another caller tries. Inside a transaction no
        caller waits: a concurrent one that stores the same key meets a conflict.

        All of them get the value as it is read: with `serializer='json'`, a list for a tuple.

        Raises `StoreBusyError` if the others compute longer than the time-out.

        >>> store.get_or_set('answer', lambda: 6 * 7, ttl=60)
        42
        >>> store.get_or_set('answer', lambda: 1 / 0)
        42
        """
        session = self._writer
        key, ttl_ms = check_key(key), check_ttl(ttl)
        check_function(factory, "get_or_set", "without arguments")
        return self._compute_once(session, key, factory, ttl_ms)

    def _compute_once(self, session: Session, key: str, factory: Callable[[], Any], ttl_ms: int | None) -> Any:
        # Without a lease: the thread that renews it would wait for the end of the transaction, and that for the thread.
        return session.records.get_or_put(key, factory, ttl_ms)


def _change(session: Session, key: str, fn: Callable[[Any], Any], default: Any) -> Any:
    """Replace a value by the result of a function; return it as it will be read."""
    records = session.records

    def attempt() -> Stored | None:
        record = records.find(key)
        if record is not None:
            version, value = version_of(record), records.open_value(key, record)
            del record  # so that fewer copies of a large value are held while it is changed and written
        elif default is _MISSING:
            raise KeyError(key)
        else:  # a copy: `fn` may change it, and is called again after a lost race
            version, value = None, records.as_stored(key, default)
        new = fn(value)
        del value
        return records.put_if(key, new, version, None if version is None else KEEP, reads=True)

    return session.until_won(f"concurrent writers keep changing {session.place(key)}", attempt).value


def _number(value: Any, what: str) -> int | float:
    """Return an int or a float, also one of NumPy or of an enum, as one of exactly that type."""
    if isinstance(value, np.integer | np.floating):
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidTypeError(f"{what} is no int or float, but a {type(value).__name__}; nothing was changed")
    return int.__index__(value) if isinstance(value, int) else float.__float__(value)
