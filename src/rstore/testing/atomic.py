"""Key/value verbs that read and write in one step: on a version, or on the value in place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from rstore import (
    ConflictError,
    SerializationError,
    Store,
)
from rstore.testing.oracle import Oracle, same
from rstore.testing.suite import Suite, about


def push(items: list[Any], item: Any) -> list[Any]:
    """Append to a list in place, as a careless function would."""
    items.append(item)
    return items


class AtomicSuite(Suite):
    """Changes that depend on the value in place."""

    def test_what_was_changed_meanwhile_is_not_overwritten(self, store: Store, oracle: Oracle) -> None:
        first = store.set("k", "first", if_version=None)
        other = store.set("other", "first")
        second = store.set("k", "second", if_version=first)
        for expected, actual, key in (
            (first, second, "k"),
            (other, second, "k"),
            (None, second, "k"),
            (first, None, "x"),
        ):
            for write in (
                lambda key=key, expected=expected: store.set(key, "lost", if_version=expected),
                lambda key=key, expected=expected: store.delete(key, if_version=expected),
            ):
                with pytest.raises(ConflictError) as raised:
                    write()
                assert (raised.value.expected, raised.value.actual) == (expected, actual)
                why = "is not there;" if actual is None else "is there already;" if expected is None else "was changed;"
                assert str(raised.value).startswith(f"{key!r} in namespace 'default' {why}")
        assert store.delete("x", if_version=None) == 0
        assert store.delete("other", if_version=other) == 1
        oracle.values["k"] = "second"

    def test_a_change_that_fails_changes_nothing(self, store: Store, oracle: Oracle) -> None:
        store.update(k=[1], text="1", flag=True)
        before = [*store.scan()]
        default: list[int] = []
        changes: list[tuple[type[Exception], Callable[[], Any]]] = [
            (ZeroDivisionError, lambda: store.modify("k", lambda items: 1 // len(push(items, 0)[2:]))),
            (SerializationError, lambda: store.modify("k", lambda _: lambda: None)),
            (SerializationError, lambda: store.modify("new", lambda _: lambda: None, default=1)),
            (KeyError, lambda: store.modify("nothing", lambda items: items)),
            (ZeroDivisionError, lambda: store.get_or_set("nothing", lambda: 1 // 0)),
            (SerializationError, lambda: store.get_or_set("nothing", lambda: lambda: None)),
            (SerializationError, lambda: store.set_many({"k": 1, "new": lambda: None}, atomic=False)),
            (TypeError, lambda: store.incr("text")),
            (TypeError, lambda: store.incr("flag")),
            (TypeError, lambda: store.incr("k")),
        ]
        for i, (kind, change) in enumerate(changes):
            with about(i), pytest.raises(kind) as raised:
                change()
            if kind is TypeError:
                assert " in namespace 'default' is no int or float" in str(raised.value)
        assert [*store.scan()] == before
        assert store.modify("new", lambda items: push(items, 1), default=default) == [1]
        assert default == []
        store.modify("k", lambda items: push(items, 2))
        oracle.values.update(k=[1, 2], text="1", flag=True, new=[1])

    def test_numbers_keep_their_type(self, store: Store) -> None:
        assert same([store.incr("i"), store.incr("i", -3), store.incr("i", 2**40)], [1, -2, 2**40 - 2])
        assert same([store.incr("f", 0.5), store.incr("f", 1), store.incr("f", -1.5)], [0.5, 1.5, 0.0])
        assert same([store.incr("i", 0.5), store.incr("new", 1, default=0.25)], [2**40 - 1.5, 1.25])
        assert same(store.get_many(["i", "f"]), {"i": 2**40 - 1.5, "f": 0.0})
