"""`apply` on conditions and by a function; what it would do; and concurrent callers that all count."""

from __future__ import annotations

import operator
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from types import MappingProxyType
from typing import Any

import pytest

from rstore import (
    ChangeRefusedError,
    ConflictError,
    FrozenStoreError,
    HorizonError,
    InvalidTypeError,
    SerializationError,
    Store,
    StoreIntegrityError,
)
from rstore.testing.flavours import Flavour, pickled
from rstore.testing.oracle import EventOracle, Oracle
from rstore.testing.suite import Opener, Suite, about
from rstore.testing.worker import Worker

TIMES = 100
PROCESSES = 3


class RefusedByCallerError(Exception):
    """An error of a program's own."""


class Unpicklable:
    """A value that cannot be dumped."""

    def __reduce__(self) -> str:
        raise RefusedByCallerError


def plus_one(state: dict[str, Any]) -> dict[str, Any]:
    """Return the change that counts one more."""
    return {"count": state.get("count", 0) + 1}


def count_by_function(store: Store, n: int) -> list[int]:
    """Count one by one; return the counts in between."""
    return [(store.apply("shared", plus_one) or {})["count"] for _ in range(n)]


def count_by_version(store: Store, n: int) -> int:
    """Count one by one on the condition that no change came in between; return how often one did."""
    conflicts = 0
    while n:
        version = store.version("versioned")
        state = store.current("versioned") or {"count": 0}
        try:
            store.apply("versioned", {"count": state["count"] + 1}, if_version=version)
        except ConflictError:
            conflicts += 1
        else:
            n -= 1
    return conflicts


class ApplyingSuite(Suite):
    """Changes that depend on the state."""

    # -- versions -----------------------------------------------------------------------------------------------------

    def test_each_change_has_a_new_version(self, store: Store) -> None:
        assert store.version("k") is None
        store.apply("k", {"a": 1}, 10)
        versions = [store.version("k")]
        for t in (20, 5, None):
            store.apply("k", {"a": 1}, t)
            versions.append(store.version("k"))
        assert all(type(version) is bytes for version in versions)
        assert len({*versions}) == len(versions)
        store.apply("k", {})
        store.current("k")
        assert store.version("k") == versions[-1]
        store.prune("k")
        assert store.version("k") != versions[-1]

    def test_a_change_of_another_version_is_a_conflict(self, store: Store, oracle: Oracle) -> None:
        log = oracle.events["k"] = EventOracle()
        store.apply("k", {"a": 1}, 10)
        log.apply({"a": 1}, 10)
        old = store.version("k")
        assert store.apply("k", {"a": 2}, 20, if_version=old) == {"a": 2}
        log.apply({"a": 2}, 20)
        version = store.version("k")
        changes: list[Any] = [{"a": 3}, {"a": (operator.sub, "no number")}, {}, lambda _: {"a": 3}, lambda _: {}]
        for change in changes:
            for t in (None, 30, 15, 10):
                for wrong in (old, None, b"", b"\0" * 16):
                    with about((change, t, wrong)), pytest.raises(ConflictError, match="'k' in namespace") as conflict:
                        store.apply("k", change, t, if_version=wrong)
                    assert (conflict.value.expected, conflict.value.actual) == (wrong, version)
                with about((change, t)), pytest.raises(ConflictError) as conflict:
                    store.apply("none", change, t, if_version=version)
                assert (conflict.value.expected, conflict.value.actual) == (version, None)
        assert store.version("k") == version
        assert store.version("none") is None
        assert store.apply("k", {}, if_version=version) == {"a": 2}
        assert store.apply("k", {"a": (operator.add, 1)}, 15, if_version=version) == {"a": 2}
        log.apply({"a": (operator.add, 1)}, 15)
        assert store.apply("none", {}, if_version=None) is None
        assert store.eventsources() == ["k"]

    def test_none_is_for_a_sequence_that_begins(self, store: Store) -> None:
        assert store.apply("a", {"x": 1}, if_version=None) == {"x": 1}
        assert store.apply("b", {"x": 1}, 10, if_version=None) == {"x": 1}
        assert store.apply("c", lambda state: {"x": len(state)}, if_version=None) == {"x": 0}
        for key in "abc":
            with pytest.raises(ConflictError, match="there already"):
                store.apply(key, {"x": 2}, if_version=None)

    def test_another_handle_changes_it_first(self, store: Store, opener: Opener, oracle: Oracle) -> None:
        log = oracle.events["k"] = EventOracle()
        with opener() as other:
            for t in range(0, 60, 10):
                version = store.version("k")
                other.apply("k", {"x": t}, t)  # neither handle knows what the other has changed
                log.apply({"x": t}, t)
                with pytest.raises(ConflictError):
                    store.apply("k", {"x": -1}, t + 5, if_version=version)
                other.apply("k", {"x": t + 1}, t + 1)
                log.apply({"x": t + 1}, t + 1)
                store.apply("k", {"y": t}, t + 5, if_version=other.version("k"))
                log.apply({"y": t}, t + 5)

    def test_a_version_of_another_life_is_none(self, store: Store) -> None:
        store.apply("k", {"a": 1}, 1)
        version = store.version("k")
        store.apply("k", {"a": (operator.delitem, None)}, 2)
        store.prune("k")
        assert store.version("k") is None
        store.apply("k", {"a": 1}, 1)
        with pytest.raises(ConflictError):
            store.apply("k", {"a": 2}, if_version=version)
        assert store.current("k") == {"a": 1}

    # -- functions ----------------------------------------------------------------------------------------------------

    @pickled
    def test_a_function_makes_the_change(self, store: Store, oracle: Oracle) -> None:
        log = oracle.events["k"] = EventOracle()
        seen: list[dict[str, Any]] = []

        def change(state: dict[str, Any]) -> MappingProxyType[str, Any]:
            seen.append(dict(state))
            state["not"] = "kept"
            return MappingProxyType({"n": (operator.add, 1)} if "n" in state else {"n": 1})

        for t, n in ((10, 1), (20, 2), (15, 3), (5, 3)):
            with about(t):
                if t == 5:
                    with pytest.raises(ChangeRefusedError):  # it was made of the current state
                        store.apply("k", change, t)
                    continue
                assert store.apply("k", change, t) == {"n": n}
                log.apply({"n": (operator.add, 1)} if n > 1 else {"n": 1}, t)
        assert seen == [{}, {"n": 1}, {"n": 2}, {"n": 3}]
        assert store.apply("k", lambda _: {}) == {"n": 3}
        assert store.apply("none", lambda _: {}) is None

    def test_what_a_function_raises_goes_through(self, store: Store, oracle: Oracle) -> None:
        log = oracle.events["k"] = EventOracle()
        store.apply("k", {"a": 1}, 1)
        log.apply({"a": 1}, 1)
        errors = [
            RefusedByCallerError("mine"), KeyError("a"), StopIteration(), SerializationError("mine"),
            ConflictError("mine"), KeyboardInterrupt(),
        ]  # fmt: skip
        for error in errors:
            for t in (None, 0):

                def fails(_: object, error: BaseException = error) -> Any:
                    raise error

                with about(error), pytest.raises(type(error)) as raised:
                    store.apply("k", fails, t)
                assert raised.value is error
        assert store.events("none") is None

    def test_what_is_no_change_is_refused(self, store: Store, oracle: Oracle) -> None:
        log = oracle.events["k"] = EventOracle()
        store.apply("k", {"a": 1}, 1)
        log.apply({"a": 1}, 1)

        async def later(_: object) -> Any:
            raise AssertionError

        def returning(change: Any) -> Callable[[Any], Any]:
            return lambda _: change

        for returned in (None, 5, [("a", 1)], "a", {1}):
            with about(returned), pytest.raises(InvalidTypeError, match=f"returned {type(returned).__name__}"):
                store.apply("k", returning(returned))
        for refused in ({1: 2}, {"a": (len, 1)}, {"a": (operator.neg, 1)}, {"": 1}):
            with about(refused), pytest.raises((InvalidTypeError, ValueError)):
                store.apply("k", returning(refused))
        bad: list[Any] = [None, 5, [("a", 1)], "a", later]
        for change in bad:
            for verb in (store.apply, store.check_change):
                with about(change), pytest.raises(InvalidTypeError):
                    verb("k", change)
        for version in ("text", 5, [b""]):
            with pytest.raises(InvalidTypeError):
                store.apply("k", {"a": 2}, if_version=version)  # type: ignore[arg-type]
        with pytest.raises(ChangeRefusedError):
            store.apply("k", lambda _: {"b": (operator.add, 1)})

    @pickled
    def test_each_call_of_a_function_counts(self, store: Store, opener: Opener, flavour: Flavour) -> None:
        """N callers that each add 1 a hundred times end at 100 N, and each sees numbers of its own."""
        with ExitStack() as stack:
            workers = [stack.enter_context(Worker()) for _ in range(PROCESSES)] if self.persistent else []
            for worker in workers:
                worker.open(flavour, opener.dsn, durability="normal")
            for worker in workers:
                worker.start(count_by_function, TIMES)
            with ThreadPoolExecutor(1) as pool:
                own = pool.submit(count_by_function, store, TIMES)
                counts = [count_by_function(store, TIMES), own.result()]
            counts += [worker.wait() for worker in workers]
        n = TIMES * len(counts)
        assert store.current("shared") == {"count": n}
        assert sorted(count for some in counts for count in some) == list(range(1, n + 1))

    @pickled
    def test_each_call_with_a_version_counts(self, store: Store, opener: Opener, flavour: Flavour) -> None:
        n = 30
        with ExitStack() as stack:
            worker = stack.enter_context(Worker()) if self.persistent else None
            if worker is not None:
                worker.open(flavour, opener.dsn, durability="normal")
                worker.start(count_by_version, n)
            with ThreadPoolExecutor(1) as pool:
                pool.submit(count_by_version, store, n).result()
            if worker is not None:
                worker.wait()
        assert store.current("versioned") == {"count": n * (1 + self.persistent)}

    def test_a_change_while_the_function_computes(self, store: Store, opener: Opener, oracle: Oracle) -> None:
        log = oracle.events["k"] = EventOracle()
        called = 0

        def slow(state: dict[str, Any]) -> dict[str, Any]:
            nonlocal called
            called += 1
            if called < 3:
                thread = threading.Thread(target=lambda: other.apply("k", {"n": called * 10}, called * 10))
                thread.start()
                thread.join()
                log.apply({"n": called * 10}, called * 10)
            return {"m": state.get("n", 0)}

        def late(state: dict[str, Any]) -> dict[str, Any]:
            nonlocal called
            called += 1
            if called < 3:
                other.apply("k", {"n": called * 100}, called * 100)
                log.apply({"n": called * 100}, called * 100)
            return {"l": state["n"]}

        with opener() as other:
            assert store.apply("k", slow, 15) == {"n": 20, "m": 20}
            log.apply({"m": 20}, 15)
            assert called == 3
            called = 0
            assert store.apply("k", late, 5) == {"n": 200, "m": 20, "l": 200}  # which lies in the past from the start
        log.apply({"l": 200}, 5)
        assert called == 3

    # -- what would be ------------------------------------------------------------------------------------------------

    def test_what_would_be(self, store: Store, opener: Opener, oracle: Oracle) -> None:
        log = oracle.events["k"] = EventOracle()
        for t, change in ((10, {"a": 1}), (30, {"a": (operator.mul, 10)})):
            store.apply("k", change, t)
            log.apply(change, t)
        version, one = store.version("k"), {"a": (operator.add, 1)}
        with opener(frozen=True) as frozen:
            for reader in (store, frozen):
                assert reader.check_change("k", one) == {"a": 11}
                assert reader.check_change("k", one, 40) == {"a": 11}
                assert reader.check_change("k", one, 20) == {"a": 20}
                assert reader.check_change("k", lambda state: {"b": state["a"]}) == {"a": 10, "b": 10}
                assert reader.check_change("k", {}) == {"a": 10}
                assert reader.check_change("none", {}) is None
                assert reader.check_change("none", {"a": 1}) == {"a": 1}
                refused: list[tuple[type[Exception], Any, int | None]] = [
                    (ChangeRefusedError, {"b": (operator.add, 1)}, None),
                    (ChangeRefusedError, one, 5),
                    (ChangeRefusedError, {"a": (operator.delitem, None)}, 20),
                    (StoreIntegrityError, one, 10),
                    (SerializationError, {"a": Unpicklable()}, None),
                    (RefusedByCallerError, _raise, None),
                    (InvalidTypeError, lambda _: None, None),
                ]
                for error, change, at in refused:
                    with about((error, at)), pytest.raises(error):
                        reader.check_change("k", change, at)
            with pytest.raises(FrozenStoreError):
                frozen.noting(by="ada")
            assert frozen.version("k") == version
        assert store.version("k") == version
        assert store.eventsources() == ["k"]

    def test_what_would_be_behind_the_horizon(self, store: Store) -> None:
        for t in (10, 20, 30):
            store.apply("k", {"a": t}, t)
        store.prune("k")
        for verb in (store.apply, store.check_change):
            with pytest.raises(HorizonError):
                verb("k", {"b": 1}, 15)

    def test_snapshots_tell_versions_and_what_would_be(self, store: Store) -> None:
        if not self.snapshots:
            pytest.skip("the backend has no snapshots")
        store.apply("k", {"a": 1})
        version = store.version("k")
        with store.snapshot() as view:
            store.apply("k", {"a": 2})
            assert view.version("k") == version != store.version("k")
            assert view.check_change("k", {"a": (operator.add, 1)}) == {"a": 2}
            calls: tuple[Callable[[], Any], ...] = (lambda: view.apply("k", {"a": 1}), lambda: view.noting(by="ada"))
            for call in calls:
                with pytest.raises(FrozenStoreError):
                    call()


def _raise(_: object) -> Any:
    raise RefusedByCallerError
