"""Every verb, done to a damaged store, of which none may raise anything but what is documented.

`DAMAGES=2000` in the environment lets the tests that use it damage so many places each, instead of some.
"""

from __future__ import annotations

import operator
import os
import resource
import signal
from collections.abc import Callable, Iterable
from random import Random
from typing import Any, Final

from rstore import Store, StoreError
from rstore.backends.maintenance import Finding

_MAX_S: Final = 10.0
_MAX_KIB: Final = 400 * 1024
"""So much more memory than before the whole of it may take, with what the interpreter keeps."""


def how_many(usually: int) -> int:
    """Return how many places are to be damaged."""
    return int(os.environ.get("DAMAGES", usually))


def fill(store: Store) -> None:
    """Put something of every kind into a store."""
    store.update({"abc": 1, "text": "seven77", "json": {"a": [1, None]}, "large": "x" * 5000})
    store.set("brief", 2.5, ttl=1000)
    store.extend("hot", (1, "seven77"), (2, 2.5), (3, {"a": 1}))
    store.extend_many("many", ((t, t * 3) for t in range(40)))
    store.extend_many("words", ((t, {"t": t}) for t in range(20)))
    store.extend("many", (7, 8))
    for t in range(20):
        store.apply("log", {"n": t} if t < 2 else {"n": (operator.add, 1), f"i{t % 3}": t}, t)
    store.apply("short", {"a": "b"}, 1)
    store.apply("short", {"a": "c"}, 2)
    store.prune("short")


NAMES: Final = ("abc", "text", "json", "large", "brief")
SERIES: Final = ("hot", "many", "words")
SEQUENCES: Final = ("log", "short")


def _each(
    names: Iterable[str], verb: Callable[[Store, str], object]
) -> Callable[[Store], Iterable[Callable[[], object]]]:
    return lambda store: [lambda name=name: verb(store, name) for name in names]  # type: ignore[misc]


def _all(verb: Callable[[Store], object]) -> Callable[[Store], Iterable[Callable[[], object]]]:
    return lambda store: [lambda: verb(store)]


READING: Final[dict[str, Callable[[Store], Iterable[Callable[[], object]]]]] = {
    "get": _each(NAMES, lambda s, k: s.get(k, "nothing")),
    "getitem": _each(NAMES, lambda s, k: s[k]),
    "has": _each(NAMES, lambda s, k: k in s),
    "entry": _each(NAMES, lambda s, k: s.entry(k)),
    "get_many": _all(lambda s: s.get_many(NAMES)),
    "keys": _all(lambda s: s.keys()),
    "items": _all(lambda s: list(s.items())),
    "values": _all(lambda s: list(s.values())),
    "find": _all(lambda s: s.find("*")),
    "scan": _all(lambda s: list(s.scan(reverse=True))),
    "scan some": _all(lambda s: list(s.scan("a", limit=2))),
    "len": _all(len),
    "count": _all(lambda s: s.count("a")),
    "timeseries": _all(lambda s: s.timeseries()),
    "eventsources": _all(lambda s: s.eventsources()),
    "namespaces": _all(lambda s: s.namespaces()),
    "stats": _all(lambda s: s.stats()),
    "check": _all(lambda s: s.check()),
    "range": _each(SERIES, lambda s, k: s.range(k)),
    "range of some": _each(SERIES, lambda s, k: s.range(k, 2, n=3)),
    "range by freq": _each(SERIES, lambda s, k: s.range(k, freq=2)),
    "first": _each(SERIES, lambda s, k: s.first(k)),
    "last": _each(SERIES, lambda s, k: s.last(k)),
    "latest": _all(lambda s: s.latest(*SERIES)),
    "at": _each(SERIES, lambda s, k: s.at(k, 3, "previous")),
    "missing": _each(SERIES, lambda s, k: s.missing(k, 0, 50, freq=1)),
    "span": _each(SERIES, lambda s, k: s.span(k)),
    "tail": _each(SERIES, lambda s, k: s.tail(k, 2)),
    "gaps": _each(SERIES, lambda s, k: s.gaps(k, 2)),
    "resample": _all(lambda s: s.resample("many", 10)),
    "downsample": _all(lambda s: s.downsample("many", 5)),
    "range_columns": _each(SERIES, lambda s, k: s.range_columns(k)),
    "range_many": _all(lambda s: s.range_many(SERIES, 0, 10)),
    "batches": _each(SERIES, lambda s, k: list(s.batches(k, size=7))),
    "current": _each(SEQUENCES, lambda s, k: s.current(k)),
    "past": _each(SEQUENCES, lambda s, k: s.past(k, 5)),
    "past known": _each(SEQUENCES, lambda s, k: s.past(k, [5, 19], known=0)),
    "past of a commit": _each(SEQUENCES, lambda s, k: s.past(k, n=2)),
    "diff": _each(SEQUENCES, lambda s, k: s.diff(k, 3)),
    "history": _each(SEQUENCES, lambda s, k: list(s.history(k))),
    "history backwards": _each(SEQUENCES, lambda s, k: list(s.history(k, reverse=True))),
    "history of some": _each(SEQUENCES, lambda s, k: list(s.history(k, "n", 3, 17))),
    "events": _each(SEQUENCES, lambda s, k: s.events(k)),
    "events of some": _each(SEQUENCES, lambda s, k: s.events(k, item="n", reverse=True, limit=2)),
}
WRITING: Final[dict[str, Callable[[Store], Iterable[Callable[[], object]]]]] = {
    "add": _each(NAMES, lambda s, k: s.add(k, 1)),
    "incr": _each(NAMES, lambda s, k: s.incr(k)),
    "modify": _each(NAMES, lambda s, k: s.modify(k, lambda value: [value])),
    "setdefault": _each(NAMES, lambda s, k: s.setdefault(k, 3)),
    "get_or_set": _each(NAMES, lambda s, k: s.get_or_set(k, lambda: 4)),
    "touch": _each(NAMES, lambda s, k: s.touch(k, 50)),
    "set if": _each(NAMES, lambda s, k: s.set(k, 5, if_version=b"12345678")),
    "extend": _each(SERIES, lambda s, k: s.extend(k, (5, 5))),
    "extend_many": _each(SERIES, lambda s, k: s.extend_many(k, [(t, t) for t in range(20, 60)])),
    "compact": _each(SERIES, lambda s, k: s.compact(k)),
    "remove some": _each(SERIES, lambda s, k: s.remove(k, start=2, end=5)),
    "apply": _each(SEQUENCES, lambda s, k: s.apply(k, {"n": 1})),
    "apply before": _each(SEQUENCES, lambda s, k: s.apply(k, {"m": 1}, 3)),
    "prune": _each(SEQUENCES, lambda s, k: s.prune(k)),
    "set": _each(NAMES, lambda s, k: s.set(k, 6)),
    "set large": _all(lambda s: s.set("large", "y" * 6000)),
    "set_many": _all(lambda s: s.update({"abc": 1, "large": "z" * 7000})),
    "pop": _each(NAMES[:2], lambda s, k: s.pop(k, None)),
    "popitem": _all(lambda s: s.popitem()),
    "delete": _all(lambda s: s.delete(*NAMES[2:4])),
    "delete_prefix": _all(lambda s: s.delete_prefix("a")),
    "vacuum": _all(lambda s: s.vacuum()),
    "remove": _all(lambda s: s.remove(*SERIES)),
    "discard": _all(lambda s: s.discard()),
}
_SLOW: Final = {"vacuum", "discard"}
_MAY_MISS: Final = {"getitem", "popitem", "modify"}


class TooLong(BaseException):
    """A verb is interrupted."""


def _interrupt(*_: object) -> None:
    raise TooLong


class Battery:
    """Runs every verb, counts the calls, and keeps what went wrong."""

    def __init__(self) -> None:
        self.damages = self.calls = 0
        self.wrong: list[str] = []
        signal.signal(signal.SIGALRM, _interrupt)
        self._kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    def run(self, what: str, open_store: Callable[[bool], Store]) -> None:
        """Do everything to a store that was damaged in some way."""
        self.damages += 1
        # Now and then everything, by a store that writes, too; and what goes through a whole file.
        writing = (
            {**READING, **WRITING} if self.damages % 8 == 0 else {k: v for k, v in WRITING.items() if k not in _SLOW}
        )
        for frozen, verbs in ((True, READING), (False, writing)):
            store = open_store(frozen)
            if self._call(f"{what}: open", store.open, misses=False) is None:
                continue
            try:
                for name, calls in verbs.items():
                    for i, call in enumerate(calls(store)):
                        self._call(f"{what}: {name} {i}", call, misses=name in _MAY_MISS)
            finally:
                store.close()

    def _call(self, what: str, call: Callable[[], object], *, misses: bool) -> object:
        self.calls += 1
        found: object = None
        signal.setitimer(signal.ITIMER_REAL, _MAX_S)
        try:
            found = call()
        except StoreError:
            pass
        except TooLong:
            self.wrong.append(f"{what} takes longer than {_MAX_S:g} s")
        except Exception as error:  # noqa: BLE001 - that is what is looked for
            if not (misses and type(error) is KeyError):
                self.wrong.append(f"{what} raised {type(error).__name__}: {error}")
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        return found

    def verdict(self, record: Callable[[str, object], None]) -> None:
        """Fail if anything went wrong; tell how much was tried."""
        record("damages", self.damages)
        record("calls", self.calls)
        print(f"\n{self.damages} damages, {self.calls} calls, {len(self.wrong)} wrong")  # noqa: T201 - for who asks by -s
        more_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - self._kib
        assert not self.wrong, "\n".join(self.wrong[:50])
        assert more_kib < _MAX_KIB


def flipped(random: Random, data: bytes) -> bytes:
    """Return bytes of which one bit is another."""
    if not data:
        return b"\x80"
    at = random.randrange(len(data))
    return data[:at] + bytes([data[at] ^ 1 << random.randrange(8)]) + data[at + 1 :]


def shaken(random: Random, data: bytes) -> bytes:
    """Return bytes that were damaged in one of several ways."""
    how = random.randrange(7)
    if how < 3:
        return flipped(random, data)
    at = random.randrange(len(data) + 1)
    return (data[:at], data[:at] + b"\xff" + data[at:], b"", data + data)[how - 3]


def told(findings: Iterable[Finding]) -> set[tuple[str, str | None]]:
    """Return the models and keys of findings."""
    return {(finding.model, finding.key) for finding in findings}


def cell(random: Random) -> Any:
    """Return something that may lie in a column of any type."""
    return random.choice(
        (
            None, -1, 0, 1, 2**31, 2**32, 2**63 - 1, -(2**63), 1.5, float("inf"), "text", "", "a\0b", b"", b"\xff",
            bytes(100), b"\x01" * 40, "9" * 3000,
        )
    )  # fmt: skip
