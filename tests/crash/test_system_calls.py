"""Calls of the system that fail, one by one: what was acknowledged is there, what was refused is not, once at most.

The ledger is kept by the test. After each call it is compared with what the store says, and with what another store
finds in a copy of the files, as after a crash.
"""

from __future__ import annotations

import errno
import operator
import os
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pytest
from processes import check_file
from sqlite_faults import KINDS, Faulty, Kind

from rstore import OutcomeUnknownError, Store, StoreError, StoreNotAvailableError
from rstore.backends.sqlite.transport import opening

MOST = 100


class Call(NamedTuple):
    """One verb: what it does to keys that end in n, and what the store says before and after."""

    begin: Callable[[Store, int], object]
    do: Callable[[Store, int], object]
    look: Callable[[Store, int], object]
    before: object
    after: object
    returns: object = None


def nothing(store: Store, n: int) -> None:
    """Begin with what is there."""


def in_transaction(store: Store, n: int) -> None:
    with store.transaction() as tx:
        tx[f"a{n}"] = 1
        tx.extend(f"s{n}", (1, 1))
        tx.apply(f"e{n}", {"a": 1}, t=1)


def conditional(store: Store, n: int) -> None:
    entry = store.entry(f"k{n}")
    assert entry is not None
    store.set(f"k{n}", 2, if_version=entry.version)


def value(store: Store, n: int) -> object:
    return store.get(f"k{n}")


def points(store: Store, n: int) -> object:
    return len(store.range(f"s{n}"))


def state(store: Store, n: int) -> object:
    return store.current(f"e{n}")


def put(store: Store, n: int) -> None:
    store[f"k{n}"] = 1


def prefixed(store: Store, n: int) -> list[str]:
    return [key for key in store.keys() if key.startswith(f"p{n}-")]  # noqa: SIM118 - a list of them


CALLS: dict[str, Call] = {
    "set": Call(put, lambda store, n: store.set(f"k{n}", 2) and None, value, 1, 2),
    "set new": Call(nothing, lambda store, n: store.set(f"k{n}", 2) and None, value, None, 2),
    "set large": Call(put, lambda store, n: store.set(f"k{n}", "x" * 5000) and None, value, 1, "x" * 5000),
    "set ttl": Call(put, lambda store, n: store.set(f"k{n}", 2, ttl=1000) and None, value, 1, 2),
    "set if": Call(put, conditional, value, 1, 2),
    "add": Call(nothing, lambda store, n: store.add(f"k{n}", 1), value, None, 1, True),
    "incr": Call(put, lambda store, n: store.incr(f"k{n}"), value, 1, 2, 2),
    "modify": Call(put, lambda store, n: store.modify(f"k{n}", lambda old: old + 1), value, 1, 2, 2),
    "get_or_set": Call(nothing, lambda store, n: store.get_or_set(f"k{n}", lambda: 1), value, None, 1, 1),
    "setdefault": Call(nothing, lambda store, n: store.setdefault(f"k{n}", 1), value, None, 1, 1),
    "pop": Call(put, lambda store, n: store.pop(f"k{n}"), value, 1, None, 1),
    "delete": Call(put, lambda store, n: store.delete(f"k{n}"), value, 1, None, 1),
    "delete many": Call(put, lambda store, n: store.delete(f"k{n}", "none"), value, 1, None, 1),
    "set_many": Call(
        nothing,
        lambda store, n: store.set_many({f"p{n}-{i}": i for i in range(200)}),
        lambda store, n: len(prefixed(store, n)),
        0,
        200,
    ),
    "delete_prefix": Call(
        lambda store, n: store.set_many({f"p{n}-{i}": i for i in range(20)}),
        lambda store, n: store.delete_prefix(f"p{n}-"),
        lambda store, n: len(prefixed(store, n)),
        20,
        0,
        20,
    ),
    "extend": Call(nothing, lambda store, n: store.extend(f"s{n}", (1, 1)), points, 0, 1, 1),
    "extend more": Call(
        lambda store, n: store.extend(f"s{n}", (1, 1)),
        lambda store, n: store.extend(f"s{n}", (2, 1)),
        points,
        1,
        2,
        1,
    ),
    "extend_many": Call(
        lambda store, n: store.extend(f"s{n}", (1, 1)),
        lambda store, n: store.extend_many(f"s{n}", ((t, t) for t in range(2000))),
        points,
        1,
        2000,
        2000,
    ),
    "remove": Call(
        lambda store, n: store.extend(f"s{n}", (1, 1), (2, 2)),
        lambda store, n: store.remove(f"s{n}", start=2),
        points,
        2,
        1,
    ),
    "apply": Call(nothing, lambda store, n: store.apply(f"e{n}", {"a": 1}, t=1), state, None, {"a": 1}, {"a": 1}),
    "apply more": Call(
        lambda store, n: store.apply(f"e{n}", {"a": 1}),
        lambda store, n: store.apply(f"e{n}", {"a": (operator.add, 1)}),
        state,
        {"a": 1},
        {"a": 2},
        {"a": 2},
    ),
    "transaction": Call(
        nothing,
        in_transaction,
        lambda store, n: (store.get(f"a{n}"), points(store, n), state(store, n)),
        (None, 0, None),
        (1, 1, {"a": 1}),
    ),
}


class CheckpointPolicy:
    """The states that a store may have after calls of one verb."""

    def __init__(self, path: Path, call: Call) -> None:
        self.path, self.call = path, call
        self.faults: list[str] = []
        self._copies = 0

    def judge(self, store: Store, n: int, what: str) -> None:
        """Do the call, and compare."""
        allowed: list[object]
        try:
            returned = self.call.do(store, n)
        except OutcomeUnknownError:
            said, allowed = "unknown", [self.call.before, self.call.after]
        except StoreError as error:
            said, allowed = f"refused ({type(error).__name__}: {error})", [self.call.before]
        except Exception as error:  # noqa: BLE001 - which it is, the test tells
            said, allowed = f"raw {error!r}", []
        else:
            said, allowed = "done", [self.call.after] if returned == self.call.returns else []
        self.said = said
        self._what, self._allowed = f"{what}: {said}", allowed

    def compare(self, store: Store, n: int) -> None:
        """Compare what the store says with what it may say, and what is in a copy of its files."""
        self._copies += 1
        copy = self.path.with_name(f"copy{self._copies}.db")
        for end in ("", "-wal"):
            with suppress(FileNotFoundError):
                shutil.copyfile(f"{self.path}{end}", f"{copy}{end}")
        with Store(copy, frozen=False) as crashed:
            found = self.call.look(crashed, n)
            if found not in self._allowed:
                self.faults.append(f"{self._what}, but after a crash: {found!r}")
        found = self.call.look(store, n)
        if found not in self._allowed:
            self.faults.append(f"{self._what}, but: {found!r}")
        for end in ("", "-wal", "-shm"):
            Path(f"{copy}{end}").unlink(missing_ok=True)
        with suppress(StoreError):
            store.set("again", n)
            if store.get("again") != n:
                self.faults.append(f"{self._what}; what was stored next is not there")
            return
        self.faults.append(f"{self._what}; and the store does not work again")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("verb", CALLS)
def test_each_call_of_the_system_fails_once(tmp_path: Path, verb: str, kind: Kind) -> None:
    ledger = CheckpointPolicy(tmp_path / "store.db", CALLS[verb])
    with Faulty(tmp_path, kind) as faulty, Store(ledger.path, frozen=False, timeout=2) as store:
        fired = 0
        for n in range(1, MOST):
            ledger.call.begin(store, n)
            faulty.arm(n)
            ledger.judge(store, n, f"{kind} {n}")
            fires = faulty.disarm()
            fired += fires
            assert n > 1 or kind != "sync" or ledger.said == "unknown"
            ledger.compare(store, n)
            if not fires:
                break
        else:
            pytest.fail(f"more than {MOST} calls of the system")
    assert ledger.faults == []
    assert ledger.said == "done"  # the last one, in which nothing failed
    assert fired or kind not in ("write", "sync", "stat")
    check_file(ledger.path)


@pytest.mark.parametrize("durability", ["full", "normal"])
@pytest.mark.parametrize("verb", CALLS)
def test_no_sync_succeeds_any_more(tmp_path: Path, verb: str, durability: Literal["full", "normal"]) -> None:
    """Nothing is acknowledged in "full" then; what is refused is not there, nor is anything done twice."""
    ledger = CheckpointPolicy(tmp_path / "store.db", CALLS[verb])
    options: dict[str, Any] = {"timeout": 2, "durability": durability}
    with Faulty(tmp_path, "sync") as faulty, Store(ledger.path, frozen=False, **options) as store:
        for n in range(3):
            ledger.call.begin(store, n)
        for n in range(3):
            faulty.arm(1, times=10**9)
            ledger.judge(store, n, f"call {n}")
            assert durability == "normal" or ledger.said != "done"
            assert n or durability == "normal" or ledger.said == "unknown"
            faulty.disarm()
            ledger.compare(store, n)
    assert ledger.faults == []
    check_file(ledger.path)


@pytest.mark.parametrize(("times", "code"), [(3, errno.EIO), (3, errno.ENOENT), (10**9, errno.EACCES)])
@pytest.mark.parametrize("verb", CALLS)
def test_the_file_cannot_be_looked_at_for_a_while(tmp_path: Path, verb: str, times: int, code: int) -> None:
    ledger = CheckpointPolicy(tmp_path / "store.db", CALLS[verb])
    with Faulty(tmp_path, "stat") as faulty, Store(ledger.path, frozen=False, timeout=2) as store:
        for n in range(1, 4):
            ledger.call.begin(store, n)
            faulty.arm(n, times, code)
            ledger.judge(store, n, f"stat {n}")
            faulty.disarm()
            ledger.compare(store, n)
    assert ledger.faults == []
    check_file(ledger.path)


@pytest.mark.parametrize("kind", ["sync", "write", "truncate"])
@pytest.mark.parametrize("verb", ["set", "incr", "extend", "apply", "transaction"])
def test_a_checkpoint_behind_the_commit_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str, kind: Kind
) -> None:
    """Which SQLite makes at once, here: what it cannot write is in the log still, and the commit is done."""
    monkeypatch.setattr(opening, "_CHECKPOINT_PAGES", 1)
    ledger, said = CheckpointPolicy(tmp_path / "store.db", CALLS[verb]), list[str]()
    with Faulty(tmp_path, kind) as faulty, Store(ledger.path, frozen=False, timeout=2) as store:
        for n in range(1, MOST):
            ledger.call.begin(store, n)
            faulty.arm(n)
            ledger.judge(store, n, f"{kind} {n}")
            if not faulty.disarm():
                break
            said.append(ledger.said)
            ledger.compare(store, n)
        else:
            pytest.fail("it never went through")
    assert ledger.faults == []
    assert kind == "sync" or "done" in said
    check_file(ledger.path)


@pytest.mark.parametrize("times", [1, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_discard_meets_it(tmp_path: Path, kind: Kind, times: int) -> None:
    """The removal of the file comes behind the commit, and is not the outcome."""
    with Faulty(tmp_path, kind) as faulty:
        for n in range(1, MOST):
            path = tmp_path / f"{n}.db"
            with Store(path, frozen=False, timeout=1) as store:
                store.set_many({f"k{i}": "x" * 3000 for i in range(8)})
                faulty.arm(n, times)
                allowed = [0]
                try:
                    store.discard()
                except OutcomeUnknownError:
                    allowed = [0, 8]
                except StoreError:
                    allowed = [8]
                fires = faulty.disarm()
                assert len(store) in allowed, n
                store["after"] = 1
                assert store["after"] == 1
            check_file(path)
            if not fires:
                return
    pytest.fail("it never went through")


@pytest.mark.parametrize("kind", KINDS)
def test_backup_meets_it(tmp_path: Path, kind: Kind) -> None:
    """The whole copy and no error, or an error and nothing of that name."""
    with Faulty(tmp_path, kind) as faulty, Store(tmp_path / "store.db", frozen=False, timeout=1) as store:
        store.set_many({f"k{i}": "x" * 3000 for i in range(8)})
        for n in range(1, MOST):
            copy = tmp_path / f"copy{n}.db"
            faulty.arm(n)
            try:
                store.backup(copy)
            except StoreError:
                assert faulty.disarm()
                assert [*tmp_path.glob("copy*")] == []
                continue
            fires = faulty.disarm()
            assert [*tmp_path.glob("copy*")] == [copy]
            with Store(copy) as same:
                assert len(same) == 8
            for left in tmp_path.glob("copy*"):
                left.unlink()
            if not fires:
                return
        pytest.fail("it never went through")


def test_backup_cannot_make_its_name_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The directory cannot be synced: nobody should rely on a name that a power cut may take."""
    with Store(tmp_path / "store.db", frozen=False) as store:
        store["a"] = 1
        directory = tmp_path.stat().st_ino
        fsync = os.fsync

        def fail(descriptor: int) -> None:
            if os.fstat(descriptor).st_ino == directory:
                raise OSError(errno.EIO, "it fails")
            fsync(descriptor)

        monkeypatch.setattr(os, "fsync", fail)
        with pytest.raises(StoreNotAvailableError, match="it fails"):
            store.backup(tmp_path / "copy.db")
        assert [*tmp_path.glob("copy*")] == []


@pytest.mark.parametrize("times", [1, 3])
def test_a_thread_that_may_only_read_at_first_can_write_later(tmp_path: Path, times: int) -> None:
    """For want of descriptors SQLite opens files for reading, and stays there."""
    path = tmp_path / "store.db"
    with Faulty(tmp_path, "writable") as faulty, Store(path, frozen=False, timeout=2) as store:
        store["n"] = 0
        for n in range(1, 6):
            said: list[str] = []
            thread = threading.Thread(target=write_twice, args=(store, faulty, n, times, said))
            thread.start()
            thread.join()
            assert said[-1] == "done", (n, said)
            assert store["n"] == n


def write_twice(store: Store, faulty: Faulty, n: int, times: int, said: list[str]) -> None:
    faulty.arm(n, times)
    for _ in range(2):
        try:
            store["n"] = n
        except StoreError as error:
            said.append(str(error))
        else:
            said.append("done")
        faulty.disarm()


def test_threads_count_while_syncs_fail(tmp_path: Path) -> None:
    """No call is done twice, and none that is acknowledged or refused is what it is not."""
    path, said = tmp_path / "store.db", Counter[str]()
    with Faulty(tmp_path, "sync") as faulty, Store(path, frozen=False, timeout=20) as store:
        store["n"] = 0
        end = threading.Event()

        def count() -> None:
            mine = Counter[str]()
            while not end.is_set():
                try:
                    store.incr("n")
                except OutcomeUnknownError:
                    mine["unknown"] += 1
                except StoreError as error:
                    mine[type(error).__name__] += 1
                else:
                    mine["done"] += 1
            said.update(mine)

        threads = [threading.Thread(target=count) for _ in range(4)]
        for thread in threads:
            thread.start()
        for n in range(1, 21):
            faulty.arm(n % 7 + 1)
            time.sleep(0.1)
        faulty.disarm()
        end.set()
        for thread in threads:
            thread.join()
        assert said["done"] <= store["n"] <= said["done"] + said["unknown"], said
        assert said["unknown"], said
    check_file(path)
    with Store(path) as store:
        assert said["done"] <= store["n"] <= said["done"] + said["unknown"], said
