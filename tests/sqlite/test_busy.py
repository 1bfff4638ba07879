"""Locks that others hold: a verb waits for as long as it may, then raises, and has done nothing."""

from __future__ import annotations

import operator
import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import apsw
import programs
import pytest
from processes import Program, check_file

from rstore import CorruptionError, Store, StoreBusyError, StoreClosedError
from rstore.backends.sqlite.transport.file import SqliteFile
from rstore.backends.sqlite.transport.lockwait import LockWait
from rstore.backends.sqlite.transport.watcher import SqliteWatcher
from rstore.backends.types import Options

WRITES: dict[str, Callable[[Store], object]] = {
    "set": lambda store: store.set("a", 2),
    "large": lambda store: store.set("a", "x" * 5000),
    "update": lambda store: store.update(a=2, b=2),
    "setdefault": lambda store: store.setdefault("b", 2),
    "pop": lambda store: store.pop("a"),
    "popitem": lambda store: store.popitem(),
    "delete": lambda store: store.delete("a"),
    "clear": lambda store: store.clear(),
    "point": lambda store: store.extend("s", (1, 2)),
    "points": lambda store: store.extend("s", (1, 2), (2, 2)),
    "many": lambda store: store.extend_many("s", ((t, 2) for t in range(5000))),
    "remove": lambda store: store.remove("s"),
    "remove a range": lambda store: store.remove("s", start=1, end=1),
    "apply": lambda store: store.apply("e", {"a": (operator.add, 1)}),
    "apply in the past": lambda store: store.apply("e", {"a": 7}, 0),
    "prune": lambda store: store.prune("e"),
    "discard": lambda store: store.discard(),
}


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "store.db"
    with Store(path, frozen=False) as store:
        store.set("a", 1)
        store.extend("s", (1, 1), (3, 3))
        store.apply("e", {"a": 1}, 1)
        store.apply("e", {"a": 2}, 2)
    yield path
    if path.exists():
        check_file(path)


def holds(store: Store) -> bool:
    return (dict(store), store.range("s"), store.current("e"), len(store.events("e") or ())) == (
        {"a": 1},
        [(1, 1), (3, 3)],
        {"a": 2},
        2,
    )


@pytest.mark.slow
def test_a_lock_that_is_held_too_long(path: Path) -> None:
    with Store(path, frozen=False, timeout=0.05) as store, Program(programs.hold, path, "BEGIN IMMEDIATE") as holder:
        assert holder.hear() == "held"
        for verb, write in WRITES.items():
            with pytest.raises(StoreBusyError, match=r"busy|locked"):
                write(store)
            assert holds(store), verb  # readers do not wait
            with Store(path) as frozen:
                assert holds(frozen), verb
        holder.tell()
        assert holder.hear() == "released"
        assert holds(store)
        for verb in ("set", "many", "apply", "prune", "discard"):
            WRITES[verb](store)


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["set", "update", "many", "apply", "discard"])
def test_a_lock_that_is_let_go_in_time(path: Path, verb: str) -> None:
    with Store(path, frozen=False, timeout=60) as store, Program(programs.hold, path, "BEGIN IMMEDIATE") as holder:
        assert holder.hear() == "held"
        done: list[bool] = []

        def write() -> None:
            WRITES[verb](store)
            done.append(True)

        thread = threading.Thread(target=write)
        thread.start()
        time.sleep(0.1)
        assert (done, thread.is_alive()) == ([], True)
        holder.tell()
        thread.join()
        assert done == [True]
        assert not holds(store)


def test_without_patience(path: Path) -> None:
    with Store(path, frozen=False, timeout=0) as store:
        store.set("a", 2)
        with Program(programs.hold, path, "BEGIN IMMEDIATE") as holder:
            assert holder.hear() == "held"
            with pytest.raises(StoreBusyError):
                store.set("a", 3)
        store.set("a", 4)
        assert store["a"] == 4


@pytest.mark.slow
@pytest.mark.parametrize("frozen", [True, False])
def test_opening_a_file_that_is_locked_in_another_journal_mode(tmp_path: Path, frozen: bool) -> None:
    path = tmp_path / "locked.db"
    with Store(path, frozen=False) as store:
        store.set("k", 1)
    connection = apsw.Connection(str(path))
    assert connection.pragma("journal_mode", "delete") == "delete"
    connection.close()
    with Program(programs.hold, path, "BEGIN EXCLUSIVE") as holder:
        assert holder.hear() == "held"
        with pytest.raises(StoreBusyError), Store(path, frozen=frozen, timeout=0.1):
            pass
        opened: list[object] = []

        def enter() -> None:
            with Store(path, frozen=frozen, timeout=60) as store:
                opened.append(store["k"])

        thread = threading.Thread(target=enter)
        thread.start()
        time.sleep(0.1)
        assert opened == []
        holder.tell()
        thread.join()
        assert opened == [1]


def test_opening_a_fresh_file_that_is_locked(tmp_path: Path) -> None:
    path = tmp_path / "fresh.db"
    with Program(programs.hold, path, "BEGIN EXCLUSIVE") as holder:
        assert holder.hear() == "held"
        with pytest.raises(StoreBusyError), Store(path, frozen=False, timeout=0.1):
            pass
    with Store(path, frozen=False) as store:
        store.set("k", 1)
    check_file(path)


def test_a_new_namespace_in_a_locked_file(path: Path) -> None:
    with Program(programs.hold, path, "BEGIN IMMEDIATE") as holder:
        assert holder.hear() == "held"
        with pytest.raises(StoreBusyError), Store(path, "new", frozen=False, timeout=0.1):
            pass
        with Store(path, frozen=False, timeout=0.1) as store:  # one that exists needs no lock
            assert holds(store)
    with pytest.raises(Exception, match="new"), Store(path, "new"):
        pass


def test_a_reader_does_not_keep_writers_waiting(path: Path) -> None:
    with Store(path, frozen=False, timeout=0.1) as store:
        store.update({f"{i:05}": i for i in range(3000)})
        scan = iter(store.items())
        first = next(scan)
        store.set("zz", 1)
        with Store(path, frozen=False, timeout=0.1) as other:
            other.set("zzz", 1)
        assert first == ("00000", 0)
        assert len(dict(scan)) >= 3000


def test_pauses_are_short_for_as_long_as_others_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s, pauses = 100.0, list[float]()

    def sleep(pause_s: float) -> None:
        nonlocal now_s
        now_s += pause_s
        pauses.append(pause_s)

    monkeypatch.setattr(time, "monotonic", lambda: now_s)
    monkeypatch.setattr(time, "sleep", sleep)
    wait = LockWait(2.0)
    while not wait.is_over:
        wait.pause()
        assert max(pauses) <= (0.003 if now_s < 100.5 else 0.02)
    assert now_s == pytest.approx(102.0)
    assert len(set(pauses)) > 100  # at random: two that met would meet again
    assert LockWait(0.0).is_over


def test_waiting_takes_nothing_from_the_random_numbers_of_the_program(path: Path) -> None:
    with Store(path, frozen=False, timeout=0.05) as store, Program(programs.hold, path, "BEGIN IMMEDIATE") as holder:
        assert holder.hear() == "held"
        state = random.getstate()
        with pytest.raises(StoreBusyError):
            store.set("a", 2)
        assert random.getstate() == state
        holder.tell()
        assert holder.hear() == "released"


@contextmanager
def on_signal(handler: Callable[[], object]) -> Generator[None]:
    """Call a function in this thread, in the middle of whatever it does in 0.1 s."""
    before = signal.signal(signal.SIGALRM, lambda *_: handler())
    signal.setitimer(signal.ITIMER_REAL, 0.1)
    try:
        yield
    finally:
        signal.signal(signal.SIGALRM, before)


BLOCKED: dict[str, Callable[[Store], object]] = {
    "set": lambda store: store.set("a", 2),
    "set_many": lambda store: store.set_many({"a": 2, "b": 3}),
    "extend_many": lambda store: store.extend_many("s", ((t, 2) for t in range(5000))),
    "transaction": lambda store: store.run(lambda tx: tx.set("a", 2)),
}


@pytest.mark.slow
@pytest.mark.parametrize("verb", BLOCKED)
def test_a_signal_handler_that_uses_the_store_while_it_waits(path: Path, verb: str) -> None:
    """Whatever it stores is stored, and the call goes on."""
    done: list[object] = []

    def handler() -> None:
        done.append(store.get("a"))
        threading.Thread(target=let_go).start()
        done.append(store.set("signal", 1))
        store.set_many({"signals": 2})

    def let_go() -> None:
        time.sleep(0.1)
        holder.tell()

    with Store(path, frozen=False, timeout=60) as store, Program(programs.hold, path, "BEGIN IMMEDIATE") as holder:
        assert holder.hear() == "held"
        with on_signal(handler):
            BLOCKED[verb](store)
        assert holder.hear() == "released"
        assert done[0] == 1
        assert (store["signal"], store["signals"]) == (1, 2)
        if verb == "extend_many":
            assert len(store.range("s")) == 5000
        else:
            assert store["a"] == 2


INTERRUPTED: dict[str, tuple[Callable[[Store], object], Callable[[Store], bool]]] = {
    "in place of what expires": (lambda store: store.set("short", "new"), lambda store: store["short"] == "new"),
    "in place of what is large": (lambda store: store.set("long", "new"), lambda store: store["long"] == "new"),
    "something large": (lambda store: store.set("k", "k" * 3000), lambda store: store["k"] == "k" * 3000),
    "many": (
        lambda store: store.update({f"k{i}": i for i in range(200)}, short="new"),
        lambda store: store["short"] == "new" and store["k199"] == 199,
    ),
    "a first point": (lambda store: store.extend("s", (1, 2)), lambda store: store.range("s") == [(1, 2)]),
    "one more point": (lambda store: store.extend("old", (1, 2)), lambda store: store.last("old") == (1, 2)),
    "points": (lambda store: store.extend("s", (1, 2), (2, 3)), lambda store: len(store.range("s")) == 2),
    "a first change": (lambda store: store.apply("e", {"n": 1}), lambda store: store.current("e") == {"n": 1}),
}


@pytest.mark.parametrize("verb", INTERRUPTED)
def test_a_signal_handler_that_stores_something_behind_any_statement(tmp_path: Path, verb: str) -> None:
    """What it changes and inserts is not taken for what the statement did."""
    write, is_done = INTERRUPTED[verb]
    n, left = 0, 0
    while left == 0:  # until it has come behind each one
        n += 1
        left = n
        with Store(tmp_path / f"{n}.db", frozen=False, durability="normal") as store:
            store.set("short", "old", ttl=1000)
            store.update(long="o" * 3000, other=1)
            store.extend("old", (0, 0))

            def profile(frame: FrameType, event: str, function: Any) -> None:
                nonlocal left
                if (
                    event == "c_return"
                    and function.__name__.startswith("execute")
                    and "sqlite" in frame.f_code.co_filename
                ):
                    left -= 1
                    if left == 0:
                        sys.setprofile(None)
                        store.set("other", "h" * 5000)
                        store.extend("its own", (5, 5))
                        store.apply("of its own", {"n": 5})

            sys.setprofile(profile)
            try:
                write(store)
            finally:
                sys.setprofile(None)
            assert is_done(store)
            if left == 0:
                assert (store["other"], store.range("its own")) == ("h" * 5000, [(5, 5)])
                assert store.current("of its own") == {"n": 5}
            assert store["long"] in ("o" * 3000, "new")
            assert store.check() == []
    assert n > 1


def test_a_signal_handler_that_closes_the_store_while_it_waits(path: Path) -> None:
    with Program(programs.hold, path, "BEGIN IMMEDIATE") as holder:
        assert holder.hear() == "held"
        for write in BLOCKED.values():
            store = Store(path, frozen=False, timeout=60).open()
            with on_signal(store.close), pytest.raises(StoreClosedError):
                write(store)
        holder.tell()
        assert holder.hear() == "released"
    with Store(path) as store:
        assert holds(store)


def test_an_interrupt_ends_the_wait(path: Path) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    with Store(path, frozen=False, timeout=60) as store, Program(programs.hold, path, "BEGIN IMMEDIATE") as holder:
        assert holder.hear() == "held"
        for write in BLOCKED.values():
            with on_signal(interrupt), pytest.raises(KeyboardInterrupt):
                write(store)
        assert holds(store)
        holder.tell()
        assert holder.hear() == "released"
        store.set("a", 1)


@pytest.mark.parametrize("verb", ["set_many", "transaction"])
def test_an_interrupt_that_comes_together_with_the_turn_leaves_nothing_open(path: Path, verb: str) -> None:
    """As when a group of processes is interrupted, of which one has the file locked."""
    main = threading.get_ident()

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    other = apsw.Connection(str(path))
    try:
        with Store(path, frozen=False, timeout=60) as store:
            for i in range(20):
                other.execute("BEGIN IMMEDIATE")

                def go(delay_s: float = 0.002 + i * 0.0002) -> None:
                    time.sleep(delay_s)
                    signal.pthread_kill(main, signal.SIGALRM)
                    other.execute("ROLLBACK")

                thread = threading.Thread(target=go)
                try:
                    thread.start()
                    BLOCKED[verb](store)
                    time.sleep(0.1)  # until the signal comes, if it was late
                except KeyboardInterrupt:
                    pass
                thread.join()
                other.execute("BEGIN IMMEDIATE; ROLLBACK")  # nobody has it locked
    finally:
        other.close()
        signal.signal(signal.SIGALRM, before)


def test_vacuum_waits_no_longer_than_it_may_and_can_be_interrupted(path: Path) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    reader = apsw.Connection(str(path))
    reader.execute("BEGIN; SELECT count(*) FROM records").fetchall()
    with Store(path, frozen=False, timeout=60) as store:
        store.set("a", 1)
        with on_signal(interrupt), pytest.raises(KeyboardInterrupt):
            store.vacuum()
    with Store(path, frozen=False, timeout=0.1) as store:
        with pytest.raises(StoreBusyError, match="older state"):
            store.vacuum()
        reader.close()
        store.vacuum()


def test_who_has_waited_is_still_told_apart_from_what_is_damaged(path: Path) -> None:
    """What looks damaged is looked at once more, on a new connection, also behind a wait."""
    for damaged in (1, 2):
        errors: list[apsw.Error] = [apsw.BusyError("locked"), *[apsw.CorruptError("mixed up")] * damaged]

        def work(_: apsw.Connection, errors: list[apsw.Error] = errors) -> str:
            if errors:
                raise errors.pop(0)
            return "done"

        file = SqliteFile(str(path), Options(frozen=False, durability="normal", timeout_s=60))
        file.open()
        if damaged == 1:
            assert file.write(work) == "done"
        else:
            with pytest.raises(CorruptionError):
                file.write(work)
        file.close()


class Locked:
    """A connection whose next questions meet a lock."""

    def __init__(self, connection: apsw.Connection, times: int) -> None:
        self._connection = connection
        self.times = times

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def pragma(self, name: str) -> Any:
        if self.times:
            self.times -= 1
            raise apsw.BusyError("locked")
        return self._connection.pragma(name)


def test_who_watches_waits_for_a_lock_as_well(path: Path) -> None:
    """As of another process that puts the log in order after a crash."""
    file = SqliteFile(str(path), Options(frozen=False, durability="normal", timeout_s=60))
    file.open()
    watcher = SqliteWatcher(file)
    slot: Any = watcher._slot  # noqa: SLF001
    locked = slot.connection = Locked(slot.connection, 3)
    assert watcher._data_version()[1] == watcher._seen[1]  # noqa: SLF001
    assert locked.times == 0
    file.close()


@pytest.mark.parametrize("verb", ["read", "write"])
def test_a_connection_that_is_closed_in_the_middle_is_opened_again(path: Path, verb: str) -> None:
    """As a fork in a signal handler closes it."""
    file = SqliteFile(str(path), Options(frozen=False, durability="normal", timeout_s=60))
    file.open()
    closed: list[apsw.Connection] = []

    def work(connection: apsw.Connection) -> int:
        if not closed:
            closed.append(connection)
            file.local.slot.close()
        return int(connection.execute("SELECT count(*) FROM records").get)

    assert getattr(file, verb)(work) == 1
    file.close()
