"""Followers: they tell each change once, in the order of commits, and go on behind any cursor."""

from __future__ import annotations

import operator
import pickle
import random
import time
from collections.abc import Iterable
from contextlib import ExitStack, nullcontext
from itertools import islice
from typing import Any

import pytest

from rstore import (
    Change,
    Follow,
    Followed,
    HorizonError,
    InvalidTypeError,
    InvalidValueError,
    NotSupportedError,
    Store,
    StoreClosedError,
)
from rstore.testing.flavours import Flavour, pickled, plain, sealed
from rstore.testing.suite import Opener, Suite, about
from rstore.testing.watching import PATIENCE_S, waiting
from rstore.testing.worker import Worker

N_WRITES = 40
ALL = (-(2**63), 0), (2**63 - 1, 2**31 - 1)
"""The first and the last position of a sequence."""


def seen(changes: Iterable[Followed]) -> list[tuple[Any, ...]]:
    """Return changes without their values before and behind, for a comparison."""
    return [(change.key, change.n, change.t, change.item, change.value) for change in changes]


def commits(changes: Iterable[Followed]) -> list[tuple[str, int]]:
    """Return the key and the number of each commit."""
    return list(dict.fromkeys((change.key, change.n) for change in changes))


def add_up(store: Store, who: int, n: int) -> None:
    """Change some sequences, some of them in the past, as other writers do."""
    dice = random.Random(who)
    for i in range(n):
        key = f"seq:{dice.randrange(5)}"
        t = 1_000 * who + i + 1 if i % 7 == 3 else None  # in the past of all others
        store.apply(key, {f"w{who}": i, "more": [i, who]} if i % 3 else {f"w{who}": i}, t)


def follow_for(store: Store, after: str, n: int) -> tuple[list[tuple[str, int, str]], str]:
    """Follow all sequences for `n` changes, and return what was told, with the cursor of the last of them."""
    told: list[tuple[str, int, str]] = []
    with store.follow(after=after, timeout=0.3) as changes:
        for change in islice(changes, n):
            told.append((change.key, change.n, change.item))
            after = change.cursor
    return told, after


class FollowingSuite(Suite):
    """Changes of event sequences as they are committed."""

    @pickled
    def test_each_change_once_in_the_order_of_the_commits(self, store: Store) -> None:
        store.apply("a", {"before": 0})
        with store.follow(timeout=0) as later, store.follow(after="", timeout=0) as all_of_them:
            store.apply("a", {"x": 1, "y": [2]}, t=20)
            store.apply("b", {"x": 1})
            store.apply("a", {"x": (operator.add, 1)}, t=30)
            store.apply("a", {"x": 0}, t=10)
            store.apply("a", {"y": (operator.delitem, None)})
            new = [*later]
            assert [change for change in new if change.key == "b"] == store_history(store, "b")
            assert seen(change for change in new if change.key == "a") == [
                ("a", 2, 20, "x", 1),
                ("a", 2, 20, "y", [2]),
                ("a", 3, 30, "x", 1),
                ("a", 4, 10, "x", 0),
                ("a", 5, new[-1].t if new[-1].key == "a" else new[-2].t, "y", None),
            ]
            assert commits(all_of_them) == [("a", n) for n in range(1, 6)] + [("b", 1)]
        assert [*later] == []  # a follower that has ended stays so

    @pickled
    def test_which_sequences(self, store: Store) -> None:
        keys = ["a", "a.1", "a.2", "b", "é"]
        asked: list[tuple[tuple[str, ...], str | None]] = [
            ((), None), ((), ""), (("a",), None), (("b", "nothing", "b"), None), ((), "a"), ((), "a."), (("b",), "a"),
            (("a", "a.1"), "a."), (("é",), None), ((), "nothing"),
        ]  # fmt: skip
        follows = [store.follow(*keys, prefix=prefix, timeout=0) for keys, prefix in asked]
        for key in keys:
            store.apply(key, {"x": 1})
        for (chosen, prefix), changes in zip(asked, follows, strict=True):
            with about((chosen, prefix)):
                everything = not chosen and prefix is None
                wanted = {
                    key
                    for key in keys
                    if everything or key in chosen or (prefix is not None and key.startswith(prefix))
                }
                assert {change.key for change in changes} == wanted

    @pickled
    def test_a_cursor_goes_on_behind_each_change(self, store: Store) -> None:
        for i in range(4):
            store.apply(f"k{i % 2}", {"a": i, "b": i, "c": i})
        store.apply("k0", {"b": 9}, t=5)
        told = [*store.follow(after="", timeout=0)]
        assert len(told) == 13
        for i, change in enumerate(told):
            with store.follow(after=change.cursor, timeout=0) as changes:
                rest = [*changes]
                assert seen(rest) == seen(told[i + 1 :])
                assert rest == told[i + 1 :]  # with the values before and behind them
                assert changes.cursor == told[-1].cursor
        again = pickle.loads(pickle.dumps(told[3]))  # noqa: S301 - our own
        assert again == told[3]
        assert (again.key, again.cursor) == (told[3].key, told[3].cursor)
        assert len(told[-1].cursor) < 80

    @pickled
    def test_values_before_and_behind_are_those_of_the_commit(self, store: Store) -> None:
        dice = random.Random(18)
        with store.follow("k", timeout=0) as changes:
            state: dict[str, Any] = {}
            for i in range(120):
                item = dice.choice("abc")
                change: Any = (operator.add, 1) if item in state and i % 3 else 10 * i
                t = None if i % 4 else dice.randrange(1, 10**6)
                known = state
                try:
                    state = store.apply("k", {item: change}, t) or {}
                except Exception:  # noqa: BLE001 - in the past of the item's first value
                    state = store.current("k") or {}
                    continue
                if i % 10 == 9 or t is not None:
                    told = [*changes_at_hand(changes)]
                    assert (told[-1].item, told[-1].before, told[-1].after) == (item, known.get(item), state[item])

    @plain
    def test_a_long_sequence_with_changes_in_the_past(self, store: Store) -> None:
        with store.transaction() if self.transactional else nullcontext(store) as writer:
            for i in range(1, 2501):
                writer.apply(
                    "long", {f"i{i % 5}": i}, t=10**6 if i == 5 else 10 * i
                )  # the last one in time: i0 stays 5
        logs = store._writer.events  # noqa: SLF001 - no verb packs a sequence at once
        logs.rewrite("long", *ALL)
        assert len(logs.view("long").chunks) > 1
        first = [*store.follow("long", after="", timeout=0)]
        assert [change.n for change in first] == [*range(1, 2501)]
        assert all(change.after == (5 if change.item == "i0" else change.value) for change in first)
        with store.follow("long", after=first[600].cursor, timeout=0) as changes:
            assert [*islice(changes, 1500)] == first[601:2101]
            middle = changes.cursor
        with store.follow("long", after=middle, timeout=0) as changes:
            store.apply("long", {"i1": -1}, t=15)
            store.apply("long", {"i2": (operator.add, 5)})
            store.apply("long", {"i3": (operator.add, 5)}, t=24_981)
            logs.rewrite("long", *ALL)
            rest = [*changes]
        assert [change.n for change in rest] == [*range(2102, 2504)]
        assert [(change.before, change.after) for change in rest[-3:]] == [(2496, 2496), (2497, 2502), (2498, 2503)]
        assert [*store.follow("long", after=rest[-2].cursor, timeout=0)] == rest[-1:]

    @pickled
    def test_a_prune_of_what_was_told_is_not_seen(self, store: Store) -> None:
        with store.follow(timeout=0) as changes:
            for i in range(5):
                store.apply("k", {"a": i})
            assert commits(changes_at_hand(changes)) == [("k", n) for n in range(1, 6)]
            assert store.prune("k") == 4
            store.apply("k", {"a": (operator.add, 1), "b": 2})
            told = changes_at_hand(changes)
            assert [(change.n, change.before, change.after) for change in told] == [(6, 4, 5), (6, None, 2)]

    @pickled
    def test_a_prune_of_what_was_not_told_is_an_error_once(self, store: Store) -> None:
        store.apply("k", {"a": 0})
        store.apply("other", {"a": 0})
        cursor = next(store.follow("k", "other", after="")).cursor
        for i in range(3):
            store.apply("k", {"a": i})
        store.prune("k")
        store.apply("k", {"a": 10})
        for _ in range(2):
            with store.follow("k", "other", after=cursor, timeout=0) as changes:
                with pytest.raises(HorizonError) as raised:
                    next(changes)
                assert raised.value.key == "k"
        with store.follow("k", "other", after=cursor, timeout=0) as changes:
            with pytest.raises(HorizonError):
                next(changes)
            behind = changes.cursor
            assert commits(changes) == [("k", 5), ("other", 1)]
        assert commits(store.follow("k", "other", after=behind, timeout=0)) == [("k", 5), ("other", 1)]

    @pickled
    def test_what_pruning_has_left_is_told_from_the_beginning(self, store: Store) -> None:
        store.apply("k", {"a": 1, "b": 1})
        store.apply("k", {"a": 5}, t=5)
        store.apply("k", {"a": 2})
        store.apply("k", {"b": (operator.add, 1)})
        assert store.prune("k") == 2
        store.apply("k", {"b": (operator.add, 1)})
        told = [*store.follow("k", after="", timeout=0)]
        assert [(change.n, change.item, change.after) for change in told] == [
            (1, "b", 1), (3, "a", 2), (4, "b", 2), (5, "b", 3),
        ]  # fmt: skip
        for i, change in enumerate(told):
            assert [*store.follow("k", after=change.cursor, timeout=0)] == told[i + 1 :]
        store.apply("k", {"b": 0})
        store.prune("k")
        with pytest.raises(HorizonError):
            next(store.follow("k", after=told[0].cursor, timeout=0))

    @pickled
    def test_a_sequence_is_removed_and_made_again(self, store: Store) -> None:
        store.apply("k", {"a": 1})
        store.apply("stays", {"a": 1})
        with store.follow(timeout=PATIENCE_S) as changes:
            cursor = changes.cursor
            store.apply("k", {"a": (operator.delitem, None)})
            assert commits([next(changes)]) == [("k", 2)]
            store.prune("k")
            with pytest.raises(HorizonError, match="'k'"):
                next(changes)
            store.apply("k", {"b": 1})
            assert seen([next(changes)])[0][:2] == ("k", 1)
        with store.follow(after=cursor, timeout=0) as changes:
            with pytest.raises(HorizonError):
                next(changes)
            assert commits(changes) == [("k", 1)]
            assert [*store.follow(after=changes.cursor, timeout=0)] == []

    @plain
    def test_a_sequence_is_made_again_between_two_looks(self, store: Store) -> None:
        def make_again() -> None:
            store.apply("k", {"a": (operator.delitem, None)})
            store.prune("k")
            for i in range(5):
                store.apply("k", {"a": i})

        store.apply("k", {"a": 0})
        with store.follow(timeout=0) as changes:
            make_again()
            with pytest.raises(HorizonError, match="'k'"):
                next(changes)
            assert commits(changes_at_hand(changes)) == [("k", n) for n in range(1, 6)]
            store.apply("k", {"a": 9})
            changes._look_once()  # noqa: SLF001 - the next step reads what is gone by then
            make_again()
            store.apply("k", {"b": 0})
            store.apply("k", {"c": 0})
            assert changes.at_hand() is None
            with pytest.raises(HorizonError, match="'k'"):
                next(changes)
            assert commits(changes) == [("k", n) for n in range(1, 8)]

    @pickled
    def test_a_namespace_is_discarded_and_followed_on(self, store: Store) -> None:
        store.apply("k", {"a": 1})
        with store.follow(timeout=PATIENCE_S) as changes:
            before = changes.cursor
            store.discard()
            with pytest.raises(HorizonError):
                next(changes)
            store.apply("k", {"a": 2})
            change = next(changes)
            assert seen([change])[0][:2] == ("k", 1)
        with pytest.raises(InvalidValueError, match="another store or namespace"):
            store.follow(after=before)
        assert [*store.follow(after=change.cursor, timeout=0)] == []

    @pickled
    def test_a_cursor_of_something_else(self, store: Store, opener: Opener) -> None:
        store.apply("k", {"a": 1})
        cursor = store.follow("k", timeout=0).cursor
        with opener("other") as other, pytest.raises(InvalidValueError, match="another store or namespace"):
            other.follow("k", after=cursor)
        for keys, prefix in (((), None), (("k", "l"), None), (("k",), "k"), ((), "k"), (("l",), None)):
            with about((keys, prefix)), pytest.raises(InvalidValueError, match="other keys"):
                store.follow(*keys, prefix=prefix, after=cursor)
        damaged: list[str] = ["x", "é", cursor[:-1], cursor[1:], cursor + "A", "=" * 8, "\0", " " + cursor, "A" * 10**5]
        damaged += [cursor[:i] + ("A" if cursor[i] != "A" else "B") + cursor[i + 1 :] for i in range(len(cursor))]
        for one in damaged:
            with about(one[:60]), pytest.raises(InvalidValueError):
                store.follow("k", after=one)
        wrong: Any
        for wrong in (1, b"", True, 1.5, [cursor]):
            with pytest.raises(InvalidTypeError):
                store.follow("k", after=wrong)
        for wrong in ((1,), (None,), (b"k",)):
            with pytest.raises(InvalidTypeError):
                store.follow(*wrong)
        for name in ("", "k" * 2049, "a\0b"):
            with pytest.raises(InvalidValueError):
                store.follow(name)
        with pytest.raises(InvalidTypeError):
            store.follow(timeout="1")  # type: ignore[arg-type]
        with pytest.raises(StoreClosedError):
            opener().follow()

    @pickled
    def test_a_frozen_store_follows_and_projects_nothing(self, store: Store, opener: Opener) -> None:
        with opener(frozen=True) as frozen, frozen.follow("k", timeout=PATIENCE_S) as changes:
            for i in range(3):
                store.apply("k", {"a": i})
                assert next(changes).value == i
            with pytest.raises(Exception, match="read-only"):
                frozen.project("p", min)

    @plain
    def test_a_follower_is_woken_and_waits_without_working(self, store: Store) -> None:
        changes = store.follow()
        with waiting(changes) as outcome:  # type: ignore[arg-type]
            committed = time.monotonic()
            store.apply("k", {"a": 1})
        assert outcome[0].item == "a"
        assert outcome[1] - committed < 1.0  # milliseconds, on a machine that does nothing else
        began, cpu = time.monotonic(), time.process_time()
        with store.follow(timeout=1) as idle:
            assert next(idle, None) is None
        assert time.monotonic() - began >= 1
        assert time.process_time() - cpu < 0.2
        changes.close()
        assert next(changes, None) is None

    @plain
    def test_the_store_is_closed_or_in_a_transaction(self, opener: Opener, store: Store) -> None:
        with opener() as other:
            changes = other.follow()
            with waiting(changes) as outcome:  # type: ignore[arg-type]
                other.close()
            assert isinstance(outcome[0], StoreClosedError)
            other.open()
        if self.transactional:
            with store.follow(timeout=0) as followed:
                with store.transaction() as tx:
                    tx.apply("k", {"a": 1})
                    tx.apply("k", {"a": 2})
                    tx.apply("l", {"a": 2})
                    for verb in (lambda: next(followed), store.follow, lambda: store.project("p", min)):
                        with pytest.raises(NotSupportedError):
                            verb()
                    assert not hasattr(tx, "follow")
                assert sorted(commits(followed)) == [("k", 1), ("k", 2), ("l", 1)]

    @sealed
    def test_several_write_while_followers_are_killed_and_go_on(
        self, store: Store, opener: Opener, flavour: Flavour
    ) -> None:
        if not self.persistent:
            pytest.skip("no other process sees the store")
        told: list[tuple[str, int, str]] = []
        after, dice = store.follow(timeout=0).cursor, random.Random(1)
        with ExitStack() as stack:
            writers = [stack.enter_context(Worker()) for _ in range(2)]
            for who, writer in enumerate(writers):
                writer.open(flavour, opener.dsn, durability="normal")
                writer.start(add_up, who, N_WRITES)
            for _ in range(6):
                with Worker() as follower:
                    follower.open(flavour, opener.dsn, durability="normal")
                    some, after = follower.run(follow_for, after, dice.randrange(1, 25))
                    told += some
                    if dice.random() < 0.5:  # what this one gets to know is lost with it
                        follower.start(follow_for, after, 1000)
                        time.sleep(dice.random() / 10)
                    follower.kill()
            for writer in writers:
                writer.wait()
            told += [(change.key, change.n, change.item) for change in store.follow(after=after, timeout=0)]
        written = {key: store_history(store, key) for key in store.eventsources()}
        for key, history in written.items():
            wanted = [(key, change.n, change.item) for change in sorted(history, key=operator.attrgetter("n"))]
            assert [one for one in told if one[0] == key] == wanted


def store_history(store: Store, key: str) -> list[Change]:
    """Return the history of a sequence."""
    return [*store.history(key)]


def changes_at_hand(changes: Follow) -> list[Followed]:
    """Return the changes that were committed until now, and leave the follower open."""
    changes._look_once()  # noqa: SLF001 - to be woken takes a while
    return [*iter(changes.at_hand, None)]
