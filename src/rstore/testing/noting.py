"""The notes of changes; and changes under circumstances that must not matter: clocks, decimal contexts, sizes."""

from __future__ import annotations

import decimal
import operator
import time
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from decimal import Decimal
from typing import Any

import pytest

from rstore import ChangeRefusedError, ConflictError, SerializationError, Store, Transaction
from rstore.testing.applying import RefusedByCallerError, Unpicklable
from rstore.testing.flavours import Flavour, pickled, sealed
from rstore.testing.oracle import EventOracle, Oracle
from rstore.testing.suite import Opener, Suite, about
from rstore.testing.worker import Worker


def apply_an_hour_ago(store: Store, change: dict[str, Any]) -> None:
    """Apply a change while the clock of this process is an hour behind."""
    clock = time.time
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "time", lambda: clock() - 3600)
        store.apply("k", change)


def notes_of(store: Store | Transaction, key: str) -> list[Any]:
    """Return the notes of all changes of a sequence, in the order of their times."""
    session = store._reader  # noqa: SLF001 - stored with the changes, and no verb of this suite tells them
    changes = session.events.changes(key, session.events.view(key))
    return [None if change.note is None else session.codec.decode(change.note) for change in changes]


@contextmanager
def decimals(context: decimal.Context) -> Generator[None, None, None]:
    """Compute under another decimal context, in this thread."""
    with decimal.localcontext(context):
        yield


class NotingSuite(Suite):
    """Changes that carry a note, and those that are applied elsewhere."""

    def test_a_change_keeps_its_note(self, store: Store) -> None:
        notes: list[Any] = [None, {"by": "ada", "at": [1, 2]}, "text", 0, False, 1.5, [], {}]
        for t, note in enumerate(notes):
            store.apply("k", {"a": t}, t, note=note)
        store.apply("k", lambda _: {"a": 0}, -1, note="in the past")
        assert notes_of(store, "k") == ["in the past", *notes]
        store.apply("k", {"b": 1}, note="now")
        store.prune("k")
        assert notes_of(store, "k") == [{}, "now"]

    def test_notes_of_blocks_merge(self, store: Store) -> None:
        with store.noting(by="ada", why="a"):
            store.apply("k", {"a": 1}, 1)
            with store.noting(why="b", at="home"):
                store.apply("k", {"a": 2}, 2)
                store.apply("k", {"a": 3}, 3, note={"why": "c", "more": 1})
                store.apply("k", {"a": 4}, 4, note="text")
            store.apply("k", lambda _: {"a": 5}, 5)
            with pytest.raises(RefusedByCallerError), store.noting(by="alan"):
                raise RefusedByCallerError
            store.apply("k", {"a": 6}, 6)
            with ThreadPoolExecutor(1) as pool:  # a thread has notes of its own
                pool.submit(store.apply, "k", {"a": 7}, 7).result()
        store.apply("k", {"a": 8}, 8)
        with store.noting():
            store.apply("k", {"a": 9}, 9)
        outer = {"by": "ada", "why": "a"}
        assert notes_of(store, "k") == [
            outer, {"by": "ada", "why": "b", "at": "home"}, {"by": "ada", "why": "c", "at": "home", "more": 1}, "text",
            outer, outer, None, None, None,
        ]  # fmt: skip

    def test_notes_are_of_one_store(self, store: Store, opener: Opener) -> None:
        with opener("other") as other, store.noting(by="ada"), other.noting(by="alan"):
            store.apply("k", {"a": 1})
            other.apply("k", {"a": 1})
            assert (notes_of(store, "k"), notes_of(other, "k")) == ([{"by": "ada"}], [{"by": "alan"}])

    @pytest.mark.usefixtures("_transactional")
    def test_notes_count_in_transactions(self, store: Store) -> None:
        with store.noting(by="ada"), store.transaction() as tx:
            tx.apply("k", {"a": 1}, 1)
            with tx.noting(why="b"), tx.transaction() as inner:
                inner.apply("k", lambda state: {"a": state["a"] + 1}, 2, if_version=inner.version("k"))
            assert notes_of(tx, "k") == [{"by": "ada"}, {"by": "ada", "why": "b"}]
            assert tx.check_change("k", {"a": (operator.add, 1)}) == {"a": 3}
            with pytest.raises(ConflictError):
                tx.apply("k", {"a": 3}, if_version=None)
        assert store.current("k") == {"a": 2}

    def test_a_note_that_cannot_be_dumped(self, store: Store, oracle: Oracle) -> None:
        log = oracle.events["k"] = EventOracle()
        store.apply("k", {"a": 1}, 1)
        log.apply({"a": 1}, 1)
        for t in (None, 5, 0):
            with pytest.raises(SerializationError, match="the note of a change of 'k' in namespace") as refused:
                store.apply("k", {"a": 2}, t, note={"secret": Unpicklable()})
            assert "secret" not in str(refused.value)
            with store.noting(by=Unpicklable()), pytest.raises(SerializationError):
                store.apply("k", lambda _: {"a": 2}, t)

    @pickled
    def test_the_decimal_context_of_a_thread_decides_nothing(self, store: Store, opener: Opener) -> None:
        every = list(decimal.Context().traps)
        contexts = [
            decimal.Context(prec=3, rounding=decimal.ROUND_UP, Emin=-5, Emax=5, capitals=0, clamp=1, traps=every),
            decimal.Context(prec=60, traps=[]),
            decimal.Context(),
        ]
        third, states = Decimal(1) / Decimal(3), []
        for i, context in enumerate(contexts):
            with about(i), decimals(context):
                store.apply(f"{i}", {"a": Decimal(1), "b": Decimal("1.23456789E+9"), "c": 3}, 1)
                store.apply(f"{i}", {"a": (operator.truediv, Decimal(3)), "b": (operator.mul, 7)}, 2)
                store.apply(f"{i}", {"c": (operator.pow, Decimal("0.5")), "b": (operator.neg, None)}, 3)
                store.apply(f"{i}", {"b": (operator.mod, Decimal("0.7"))}, 4)
                for op, operand in ((operator.truediv, Decimal(0)), (operator.add, Decimal("sNaN"))):
                    with pytest.raises(ChangeRefusedError):
                        store.apply(f"{i}", {"a": (op, operand)})
                states.append(repr(store.current(f"{i}")))
        assert [*{*states}] == [states[0]]
        assert (store.current("0") or {})["a"] == third
        for context in contexts:
            with opener() as reader, decimals(context):  # which has cached nothing
                assert [repr(reader.current(f"{i}")) for i in range(len(contexts))] == states
                assert [repr(reader.past(f"{i}", 2)) for i in range(len(contexts))] == [repr(reader.past("0", 2))] * 3

    @pickled
    def test_a_clock_an_hour_behind_in_another_process(
        self, store: Store, oracle: Oracle, opener: Opener, flavour: Flavour
    ) -> None:
        if not (self.persistent and self.local_clock):
            pytest.skip("all processes have the same clock")
        log = oracle.events["k"] = EventOracle()
        with Worker() as worker:
            worker.open(flavour, opener.dsn)
            for i in range(5):
                change = {"n": (operator.add, 1)} if i else {"n": 0}
                store.apply("k", change)
                at, _ = store.current("k", withtimestamp=True) or (0, None)
                log.apply(change, at, last=True)
                worker.run(apply_an_hour_ago, {"n": (operator.add, 1)})
                assert store.current("k", withtimestamp=True) == (at, {"n": 2 * i + 1})
                log.apply({"n": (operator.add, 1)}, at, last=True)
        times = [event.timestamp for event in store.events("k") or ()]
        assert times == sorted(times)

    @sealed
    def test_a_state_of_many_items(self, store: Store, opener: Opener) -> None:
        many = {f"item {i}": i for i in range(100_000)}
        assert store.apply("k", many) == many
        many["item 7"] += 1
        assert store.apply("k", {"item 7": (operator.add, 1)}) == many
        assert store.apply("k", lambda state: {"n": len(state)}) == many | {"n": len(many)}
        with opener() as other:
            assert other.current("k") == many | {"n": len(many)}

    @sealed
    def test_a_value_of_fifty_megabytes(self, store: Store, opener: Opener) -> None:
        large = b"0123456789" * 5_000_000
        state = store.apply("k", {"large": large, "n": 1})
        assert state is not None
        assert state["large"] == large
        with opener() as other:
            assert (other.apply("k", {"n": (operator.add, 1)}) or {})["n"] == 2
            assert (other.current("k") or {})["large"] == large
