"""Values of event sequences that were set under an older schema version, and changes of a newer one."""

from __future__ import annotations

import operator
import random
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from rstore import (
    ChangeRefusedError,
    FrozenStoreError,
    InvalidTypeError,
    InvalidValueError,
    NewerSchemaError,
    SerializationError,
    Store,
)
from rstore.testing.flavours import JsonStore, pickled, plain
from rstore.testing.integrity import check_integrity
from rstore.testing.oracle import EventOracle, ExpectedChange, Oracle, same
from rstore.testing.suite import Opener, Suite, about


class Texts(Store):
    """The program as it began: the items n… are numbers written as text."""


class Numbers(Store):
    """Version 1: they are ints."""

    _schema_version = 1

    def _upcast(self, item: str, value: Any, version: int) -> Any:
        return brought(item, value, version, self._schema_version)


class Halves(Numbers):
    """Version 4: they count halves. Nothing was recorded under versions 2 and 3, which were as version 1."""

    _schema_version = 4


class AsStored(Store):
    """Version 4 without any `_upcast`: it shows what is stored."""

    _schema_version = 4


def brought(item: str, value: Any, version: int, to: int) -> Any:
    """Return a value of one version as one of another."""
    assert version < to, "only older ones pass through"
    if not item.startswith("n"):
        return value
    number = int(value) if version < 1 else value
    return number * 2 if to == 4 else number


@dataclass
class VersionedOracle:
    """A sequence whose changes were recorded under several versions."""

    log: EventOracle = field(default_factory=EventOracle)
    """The changes as they were recorded."""
    versions: dict[tuple[int, int], int] = field(default_factory=dict)

    def seen(self, version: int) -> EventOracle:
        """Return the sequence as a program of a version sees it."""

        def upcast(change: ExpectedChange) -> ExpectedChange:
            old = self.versions[change.t, change.seq]
            if old == version:
                return change
            items = {
                item: (op, brought(item, value, old, version) if op is operator.setitem else value)
                for item, (op, value) in change.items.items()
            }
            return replace(change, items=items)

        return EventOracle([upcast(change) for change in self.log.changes], self.log.horizon)

    def record(self, state: dict[str, Any], t: int, version: int) -> dict[str, Any]:
        """Record a change under a version, and return the current state; errors of Python go through."""
        view = self.seen(version)
        view.apply(state, t)
        new = next(change for change in view.changes if change.t == t)
        self.log.changes = sorted([*self.log.changes, new], key=lambda change: (change.t, change.seq))
        self.versions[new.t, new.seq] = version
        return (view.current() or (0, {}))[1]


class UpcastingSuite(Suite):
    """Schema versions of event sequences."""

    @pytest.fixture
    def numbers(self, opener: Opener) -> Iterator[Store]:
        """Return an open store of version 1 with the sequence `k`, whose two changes are of version 0."""
        with opened(opener, Texts) as store:
            store.apply("k", {"n": "5", "text": "5"}, 10)
            store.apply("k", {"text": (operator.add, "1"), "n": "7"}, 20)
        with opened(opener, Numbers) as store:
            yield store

    def test_older_values_pass_through(self, numbers: Store, opener: Opener) -> None:
        assert numbers.current("k", withtimestamp=True) == (20, {"n": 7, "text": "51"})
        assert numbers.diff("k", 15) == {"n": (5, 7), "text": ("5", "51")}
        assert [(change.before, change.after) for change in numbers.history("k", "n")] == [(None, 5), (5, 7)]
        followed = [*numbers.follow("k", after="", timeout=0)]
        assert [(change.before, change.after) for change in followed if change.item == "n"] == [(None, 5), (5, 7)]
        assert numbers.past("k", 15) == {"n": 5, "text": "5"}
        assert numbers.events("k", ops=operator.setitem) == [
            (10, "n", operator.setitem, 5), (10, "text", operator.setitem, "5"), (20, "n", operator.setitem, 7),
        ]  # fmt: skip
        assert numbers.events("k", 20, ops=operator.add) == [(20, "text", operator.add, "1")]
        assert numbers.apply("k", {"n": (operator.add, 1)}, 30) == {"n": 8, "text": "51"}
        assert numbers.apply("k", {"n": (operator.mul, 100), "m": 1}, 15) == {"n": 8, "text": "51", "m": 1}
        assert numbers.past("k", 15) == {"n": 500, "text": "5", "m": 1}
        with pytest.raises(ChangeRefusedError, match="it would break the add at t=30"):
            numbers.apply("k", {"n": None}, 25)
        with opened(opener, Halves) as store:
            assert store.current("k") == {"n": 15, "text": "51", "m": 1}, "7 doubled, and 1 added"

    @pickled
    def test_programs_of_three_versions_one_after_the_other(self, opener: Opener) -> None:
        oracle, chosen = VersionedOracle(), random.Random(7)
        kinds: tuple[tuple[type[Store], int], ...] = ((Texts, 0), (Numbers, 1), (Halves, 4))
        for i, (kind, version) in enumerate(kinds):
            with opened(opener, kind) as store:
                _compare(store, oracle, version)
                for t in range(i * 4000, i * 4000 + 700, 10):
                    change = _change(chosen, version)
                    assert store.apply("k", change, t) == oracle.record(change, t, version)
                for _ in range(12):
                    change = _change(chosen, version, sets=True)
                    t = chosen.randrange(-100, i * 4000 + 700) * 10 + 1
                    if (t, 0) not in oracle.versions:
                        assert store.apply("k", change, t) == oracle.record(change, t, version)
                _compare(store, oracle, version)
                if self.transactional:
                    with store.transaction() as tx:
                        change = _change(chosen, version, sets=True)
                        t = i * 4000 + 2005
                        assert tx.apply("k", change, t) == oracle.record(change, t, version)
                        _compare(tx, oracle, version)
                if self.snapshots:
                    with store.snapshot() as view:
                        _compare(view, oracle, version)
        stored = oracle.log.events()
        with opened(opener, AsStored) as store:
            assert same([tuple(event) for event in store.events("k") or ()], stored), "nothing was rewritten"
        with opened(opener, Halves) as store:
            assert store.prune("k", remove=False) == oracle.log.prune() > 0
            _compare(store, oracle, 4)
            change = {"n0": (operator.add, 1)}
            assert store.apply("k", change, 10**6) == oracle.record(change, 10**6, 4)
        with opened(opener, AsStored) as store:
            assert same([tuple(event) for event in store.events("k") or ()], oracle.log.events())
        with opened(opener, Halves) as store:
            assert store.verify("k") == store.digest("k")
        with opened(opener, Halves, frozen=True) as store:
            check_integrity(store, Oracle(events={"k": oracle.seen(4)}))

    @pytest.mark.parametrize("n", [10, 2000])
    def test_what_is_loaded_reverted_or_undone(self, numbers: Store, opener: Opener, n: int) -> None:
        several: list[Any] = [("k", 1000 + t, {"m": t, "n": (operator.add, 1)}) for t in range(n)]
        assert numbers.apply_many(several) == n
        state = {"n": 7 + n, "text": "51", "m": n - 1}
        assert numbers.current("k") == state
        assert numbers.apply_many([("k", 15, {"m": -1}), ("k", 25, {"p": 1}, "note")]) == 2
        assert numbers.past("k", 17) == {"n": 5, "text": "5", "m": -1}
        assert numbers.undo("k", n + 4) == state
        assert numbers.revert("k", 10) == {"n": 5, "text": "5"}
        assert numbers.past("k", n=n + 5) == state
        with opened(opener, AsStored) as stored:
            assert [event.value for event in stored.events("k", item="n", limit=2) or ()] == ["5", "7"]
        with opened(opener, Halves) as halves:
            assert halves.current("k") == {"n": 10, "text": "5"}
            assert halves.undo("k", n + 6) == state | {"n": 14 + n} == halves.past("k", n=n + 5)
        with opened(opener, Texts) as texts, pytest.raises(NewerSchemaError):
            texts.apply_many([("k", 1, {"n": "1"})])

    def test_a_store_object_that_is_opened_again(self, numbers: Store) -> None:
        assert numbers.current("k") == {"n": 7, "text": "51"}
        numbers._schema_version = 4  # noqa: SLF001 - as on its class
        assert numbers.current("k") == {"n": 7, "text": "51"}, "taken when it was opened"
        numbers.close()
        with numbers:
            assert numbers.current("k") == {"n": 14, "text": "51"}
        numbers.open()  # which the fixture closes

    def test_two_versions_at_once(self, numbers: Store, opener: Opener) -> None:
        with opened(opener, Halves) as halves, opened(opener, Texts) as texts:
            for _ in range(3):
                assert texts.current("k") == {"n": "7", "text": "51"}
                assert numbers.current("k") == {"n": 7, "text": "51"}
                assert halves.current("k") == {"n": 14, "text": "51"}
            texts.apply("k", {"n": "8"}, 30)
            assert numbers.current("k") == {"n": 8, "text": "51"}
            assert halves.current("k") == {"n": 16, "text": "51"}
            assert numbers.apply("k", {"n": 9}, 40) == {"n": 9, "text": "51"}
            assert halves.current("k") == {"n": 18, "text": "51"}

    def test_a_newer_change_is_refused(self, numbers: Store, opener: Opener) -> None:
        with opened(opener, Texts) as texts:
            assert texts.current("k") == {"n": "7", "text": "51"}  # which it keeps in memory
            numbers.apply("k", {"n": (operator.add, 1)}, 30)
            before = numbers.events("k")
            calls: tuple[Callable[[], Any], ...] = (
                lambda: texts.current("k"),
                lambda: texts.past("k", 30),
                lambda: texts.events("k"),
                lambda: texts.events("k", 30),
                lambda: texts.events("k", item="n", limit=1, reverse=True),
                lambda: next(texts.history("k", reverse=True)),
                lambda: [*texts.history("k")],
                lambda: texts.past("k", n=3),
                lambda: texts.past("k", [10, 30]),
                lambda: texts.diff("k", 10),
                lambda: texts.check_change("k", {"n": "1"}),
                lambda: texts.apply("k", lambda state: state),
                lambda: texts.apply("k", {"n": "1"}),
                lambda: texts.apply("k", {"new": "1"}, 25),
                lambda: texts.apply("k", {}),
                lambda: texts.prune("k"),
                lambda: texts.prune("k", before=50, dry_run=True),
                lambda: texts.verify("k"),
                lambda: [*texts.follow("k", after="", timeout=0)],
            )
            for i, call in enumerate(calls):
                with about(i), pytest.raises(NewerSchemaError, match=r"namespace .* version 1, .* than 0"):
                    call()
            assert texts.past("k", 29) == {"n": "7", "text": "51"}, "before it, all is known"
            assert texts.events("k", end=29, ops=operator.add) == [(20, "text", operator.add, "1")]
            assert texts.check() == []
        assert numbers.events("k") == before
        assert numbers.apply("k", {"n": (operator.add, 1)}) == {"n": 9, "text": "51"}

    def test_a_baseline_is_of_the_version_that_made_it(self, numbers: Store, opener: Opener) -> None:
        with opened(opener, Texts) as texts:
            texts.apply("k", {"text": (operator.add, "2")}, 30)
        assert numbers.prune("k", before=25) > 0
        assert numbers.current("k") == numbers.past("k", 30) == {"n": 7, "text": "512"}
        assert numbers.verify("k") == numbers.digest("k")
        with opened(opener, Halves) as halves:
            assert halves.current("k") == {"n": 14, "text": "512"}
        with opened(opener, AsStored) as stored:
            assert stored.current("k") == {"n": 7, "text": "512"}
        with opened(opener, Texts) as texts, pytest.raises(NewerSchemaError):
            texts.current("k")

    def test_a_newer_change_that_is_pruned_away_is_no_obstacle(self, numbers: Store, opener: Opener) -> None:
        numbers.apply("k", {"text": "new"}, 15)
        numbers.apply("k", {"text": "newer"}, 30)
        with opened(opener, Halves) as halves:
            halves.apply("k", {"text": "newest"}, 25)
            assert halves.prune("k") == 5
        assert numbers.current("k") == {"n": 7, "text": "newer"}

    def test_exceptions_name_the_item(self, opener: Opener) -> None:
        def fail(error: Exception) -> Any:
            raise error

        outcomes: list[Callable[[], Any]] = []

        class Failing(Store):
            _schema_version = 65_535

            def _upcast(self, item: str, value: Any, version: int) -> Any:
                assert version == 0
                return outcomes[-1]() if item == "bad" else value

        with opened(opener, Texts) as store:
            store.apply("k", {"good": 1, "bad": "secret"}, 10)
            store.apply("k", {"good": 2}, 20)
        failures: tuple[tuple[Callable[[], Any], type[Exception] | None, str], ...] = (
            (lambda: fail(ValueError("secret")), ValueError, "_upcast raised ValueError$"),
            (lambda: fail(StopIteration()), StopIteration, "_upcast raised StopIteration$"),
            (lambda: fail(FrozenStoreError("secret")), FrozenStoreError, "_upcast raised FrozenStoreError$"),
            (lambda: lambda: None, SerializationError, "store its name instead$"),
        )
        with opened(opener, Failing) as store:
            for outcome, cause, message in failures:
                outcomes.append(outcome)
                calls: tuple[Callable[[], Any], ...] = (
                    lambda: store.current("k"),
                    lambda: store.past("k", 10),
                    lambda: store.events("k"),
                    lambda: store.apply("k", {"good": 3}),
                    lambda: store.apply("k", {"good": 3}, 5),
                    lambda: store.prune("k"),
                )
                for i, call in enumerate(calls):
                    with about((message, i)), pytest.raises(SerializationError, match=message) as failed:
                        call()
                    told = str(failed.value)
                    assert "'k' in namespace" in told
                    assert "the item 'bad' cannot be brought from schema version 0 to 65535" in told
                    assert "secret" not in told
                    assert cause is None or isinstance(failed.value.__cause__, cause)
            outcomes.append(lambda: fail(MemoryError()))
            with pytest.raises(MemoryError):
                store.current("k")
            assert store.check() == []
            outcomes.append(lambda: 0)
            assert store.current("k") == {"good": 2, "bad": 0}

    def test_values_that_do_not_go_with_what_is_behind_them(self, opener: Opener) -> None:
        with opened(opener, Texts) as store:
            store.apply("k", {"n": "5"}, 10)
            store.apply("k", {"n": (operator.add, "0")}, 20)
        with opened(opener, Numbers) as store:
            calls: tuple[Callable[[], Any], ...] = (
                lambda: store.current("k"),
                lambda: store.apply("k", {"n": 1}),
                lambda: store.prune("k", before=50),
                lambda: store.verify("k"),
                lambda: [*store.history("k")],
            )
            for i, call in enumerate(calls):
                with about(i), pytest.raises(SerializationError, match="t=20, item 'n': what _upcast"):
                    call()
            assert store.past("k", 10) == {"n": 5}

    def test_serializers_of_a_subclass(self, opener: Opener) -> None:
        class JsonLists(JsonStore):
            _schema_version = 1

            def _upcast(self, item: str, value: Any, version: int) -> Any:
                return [item, value, version]

        with opened(opener, JsonStore) as store:
            store.apply("k", {"a": (1, 2), "b": "x"}, 1)
        with opened(opener, JsonLists) as store:
            assert store.current("k") == {"a": ["a", [1, 2], 0], "b": ["b", "x", 0]}
            assert store.apply("k", {"b": (operator.add, [1])}, 2) == {"a": ["a", [1, 2], 0], "b": ["b", "x", 0, 1]}
            assert store.events("k", 1, 1, operator.setitem) == [
                (1, "a", operator.setitem, ["a", [1, 2], 0]), (1, "b", operator.setitem, ["b", "x", 0]),
            ]  # fmt: skip

    @plain
    def test_versions_that_there_are_not(self, opener: Opener) -> None:
        for version, error in (
            (-1, InvalidValueError), (65_536, InvalidValueError), (2**64, InvalidValueError),
            (True, InvalidTypeError), ("1", InvalidTypeError), (1.0, InvalidTypeError), (None, InvalidTypeError),
        ):  # fmt: skip
            store = type("Wrong", (Store,), {"_schema_version": version})(opener.dsn, frozen=False)
            with about(version), pytest.raises(error, match="_schema_version"):
                store.open()


@contextmanager
def opened(opener: Opener, kind: type[Store], *, frozen: bool = False) -> Generator[Store]:
    """Open a store of a class, in the flavour of the test."""
    with opener(flavour=replace(opener.flavour, store=kind), frozen=frozen) as store:
        yield store


def _compare(store: Any, oracle: VersionedOracle, version: int) -> None:
    seen = oracle.seen(version)
    assert store.current("k", withtimestamp=True) == seen.current()
    assert same([tuple(event) for event in store.events("k") or ()], seen.events())
    told = [*store.history("k")]
    assert [*store.history("k", reverse=True)] == told[::-1]
    if seen.horizon is None:
        assert same([(change.t, change.item, change.op, change.value) for change in told], seen.events())
        after: dict[str, Any] = {}
        for change in told:
            assert same(change.before, after.get(change.item))
            after[change.item] = change.after
        assert after == (seen.current() or (0, {}))[1]
    first = -1000 if seen.horizon is None else seen.horizon
    times = [t for t in (first, first + 1, *range(-105, 11_000, 611), 10**7) if t >= first]
    for t in times:
        assert store.past("k", t, withtimestamp=True) == seen.past(t)
    assert store.past("k", times, withtimestamp=True) == [seen.past(t) for t in times]


def _change(chosen: random.Random, version: int, *, sets: bool = False) -> dict[str, Any]:
    """Return a change that later ones may follow, and earlier ones be followed by."""
    change: dict[str, Any] = {}
    for item in chosen.sample(["n0", "n1", "n2", "text"], chosen.randrange(1, 3)):
        number = chosen.randrange(1000)
        if item == "text" or version == 0:
            change[item] = f"{number}"
        elif sets or chosen.random() < 0.5:
            change[item] = number
        else:
            change[item] = chosen.choice([(operator.add, number), (operator.sub, number), (operator.mul, -1)])
    return change
