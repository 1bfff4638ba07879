"""The check that ends every test: it reads everything in every way, and compares it with itself and the oracle."""

from __future__ import annotations

from typing import Any

from rstore import Snapshot, Store, Transaction
from rstore.testing.oracle import Oracle, fold, same, same_state, utf8

_EVERY_KEY = 300


def check_integrity(store: Store, oracle: Oracle | None = None) -> None:
    """Assert that the contents of an open store agree with each other, and with the oracle if there is one."""
    assert store.check() == []
    _check_values(store)
    _check_series(store)
    _check_events(store)
    if oracle is not None:
        check_oracle(store, oracle)


def check_oracle(store: Store | Transaction | Snapshot, oracle: Oracle) -> None:
    """Assert that an open store holds exactly the contents of the oracle."""
    assert same(store.find(), sorted(oracle.values.items(), key=lambda item: utf8(item[0])))
    assert store.timeseries() == sorted((key for key, points in oracle.series.items() if points), key=utf8)
    for key, points in oracle.series.items():
        assert same(store.range(key), points.points())
    assert store.eventsources() == sorted((key for key, log in oracle.events.items() if log.exists), key=utf8)
    for key, log in oracle.events.items():
        assert same_current(store, key, log.current())
        assert same([tuple(event) for event in store.events(key) or ()], log.events())


def same_current(store: Store | Transaction | Snapshot, key: str, expected: tuple[int, dict[str, Any]] | None) -> bool:
    """Return whether a sequence has the expected timestamp and state now."""
    current = store.current(key, withtimestamp=True)
    if current is None or expected is None:
        return current is expected
    return current[0] == expected[0] and same_state(current[1], expected[1])


def _check_values(store: Store) -> None:
    items = list(store.items())
    keys = [key for key, _ in items]
    assert keys == sorted(keys, key=utf8)
    assert keys == store.keys() == list(store)
    assert len(store) == len(set(keys)) == len(keys)
    assert same(list(store.values()), [value for _, value in items])
    assert same(store.find(), items)
    for key, value in items[:_EVERY_KEY]:
        assert key in store
        assert store.has(key)
        assert same(store[key], value)


def _check_series(store: Store) -> None:
    keys = store.timeseries()
    assert keys == sorted(set(keys), key=utf8)
    for key in keys:
        points = store.range(key)
        times = [t for t, _ in points]
        assert times
        assert times == sorted(set(times))
        assert same(store.first(key), points[0])
        assert same(store.last(key), points[-1])
        middle = times[len(times) // 2]
        assert same(store.range(key, middle), points[len(times) // 2 :])
        assert same(store.range(key, end=middle), points[: len(times) // 2 + 1])


def _check_events(store: Store) -> None:
    keys = store.eventsources()
    assert keys == sorted(set(keys), key=utf8)
    assert keys == store.eventsequences()
    for key in keys:
        events = store.events(key)
        assert events
        times = [event.timestamp for event in events]
        assert times == sorted(times)
        # An event left by a prune may delete an item that is not there any more.
        assert same_current(store, key, (times[-1], fold(events, horizon=times[-1])))
        assert same_state(store.past(key, times[-1]), store.current(key))
