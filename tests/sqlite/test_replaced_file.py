"""A file that is deleted, replaced or renamed underneath an open store: writes go to the file that bears the name."""

from __future__ import annotations

import errno
import json
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import programs
import pytest
from processes import Program, Remote, check_file
from waiting import until

from rstore import OutcomeUnknownError, Passphrase, Store, StoreBusyError, StoreNotAvailableError
from rstore.backends.sqlite.transport.file import SqliteFile
from rstore.backends.sqlite.transport.slot import Slot

WRITES: dict[str, Callable[[Store], object]] = {
    "set": lambda store: store.set("new", 1),
    "update": lambda store: store.update(new=1, newer=2),
    "extend": lambda store: store.extend("new", (1, 1)),
    "many": lambda store: store.extend_many("new", ((t, t) for t in range(5000))),
    "apply": lambda store: store.apply("new", {"a": 1}),
}
NEW = {"set": ["new"], "update": ["new", "newer"], "extend": ["new"], "many": ["new"], "apply": ["new"]}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


def fill(store: Store, n: int = 200) -> None:
    # Larger than the cache of pages, smaller than what is moved from the log to the file on the way.
    store.update({f"old {i}": "x" * 900 for i in range(n)})
    store.extend("old", (1, 1))


def make_other(path: Path) -> Path:
    other = path.with_name("other.db")
    with Store(other, frozen=False) as store:
        store.update({f"other {i}": "y" * 900 for i in range(300)})
        store.extend_many("other", ((t, t) for t in range(6000)))
    return other


def is_other(store: Store) -> bool:
    return len(store.find("other *")) == 300 and len(store.range("other")) == 6000 and not store.find("old *")


def contents(store: Store) -> list[str]:
    return [*store.keys(), *store.timeseries(), *store.eventsources()]


@pytest.mark.parametrize("suffixes", [("",), ("", "-wal", "-shm")], ids=["the file", "all files"])
@pytest.mark.parametrize("verb", WRITES)
def test_a_deleted_file_is_made_again(path: Path, verb: str, suffixes: tuple[str, ...]) -> None:
    with Store(path, frozen=False) as store:
        fill(store)
        for suffix in suffixes:
            Path(f"{path}{suffix}").unlink()
        WRITES[verb](store)
        with Store(path) as other:
            assert contents(other) == NEW[verb]
        assert contents(store) == NEW[verb]
    with Store(path) as store:
        assert contents(store) == NEW[verb]
    check_file(path)


@pytest.mark.parametrize("verb", WRITES)
def test_a_replaced_file_is_written_and_keeps_what_it_held(path: Path, verb: str) -> None:
    with Store(path, frozen=False) as store:
        fill(store)
        make_other(path).replace(path)
        WRITES[verb](store)
        assert is_other(store)
        assert set(NEW[verb]) <= set(contents(store))
    with Store(path) as store:
        assert is_other(store)
        assert set(NEW[verb]) <= set(contents(store))
    check_file(path)


@pytest.mark.slow
@pytest.mark.parametrize("look", [None, lambda store: store.get("nothing")], ids=["at once", "after a look"])
def test_what_is_written_into_another_file_is_sealed_for_that(
    path: Path, look: Callable[[Store], object] | None
) -> None:
    """Which has a salt of its own."""
    key, other = Passphrase("secret"), path.with_name("other.db")
    with Store(other, key=key, frozen=False) as store:
        store["there"] = 1
    with Store(path, key=key, frozen=False) as store:
        store["old"] = 1
        other.replace(path)
        if look is not None:
            time.sleep(1.1)  # so that it sees the other file, and finds the namespace by its number there
            look(store)
        store["new"] = 1
        store.set("newer", 1, ttl=1000)
    with Store(path, key=key) as store:
        assert dict(store) == {"there": 1, "new": 1, "newer": 1}


@pytest.mark.slow
def test_a_reader_of_a_writable_store_notices(path: Path) -> None:
    with Store(path, frozen=False) as store:
        fill(store)
        make_other(path).replace(path)
        until(lambda: is_other(store), "nobody notices")
        path.unlink()
        until(lambda: contents(store) == [], "something is left")
        assert not path.exists()
        store.set("k", 1)
        assert store.keys() == ["k"]
    check_file(path)


@pytest.mark.slow
def test_a_frozen_store_notices(path: Path) -> None:
    with Store(path, frozen=False) as store:
        fill(store)
    with Store(path) as frozen:
        assert len(frozen) == 200
        make_other(path).replace(path)
        until(lambda: is_other(frozen), "nobody notices")
        path.unlink()

        def refused() -> bool:
            try:
                return frozen.get("other 1") is None
            except StoreNotAvailableError as error:
                assert str(path) in str(error)  # noqa: PT017 - it may take a while
                return True

        until(refused, "nobody notices")
        assert not path.exists()
        with Store(path, frozen=False) as store:
            store.set("k", 1)
            until(lambda: frozen.get("k") == 1, "what was written is not seen")


def test_a_renamed_file_takes_along_what_it_held(path: Path) -> None:
    elsewhere = path.with_name("elsewhere.db")
    with Store(path, frozen=False) as store:
        fill(store)
        path.rename(elsewhere)
        store.set("new", 1)
        assert contents(store) == ["new"]
    with Store(path) as store:
        assert contents(store) == ["new"]
    with Store(
        elsewhere
    ) as store:  # "new" may be in it too: it was moved in the middle of that write, for all one knows
        assert [key for key in contents(store) if key != "new"] == [*sorted(f"old {i}" for i in range(200)), "old"]
    check_file(path)
    check_file(elsewhere)


@pytest.mark.slow
def test_two_handles_and_two_processes_meet_in_the_new_file(path: Path) -> None:
    for replace in (False, True):
        with Store(path, frozen=False) as one, Store(path, frozen=False) as two, Remote(path) as remote:
            fill(one)
            fill(two)
            remote("set", "old 0", 1)
            if replace:
                make_other(path).replace(path)
            else:
                path.unlink()
            for i in range(5):
                one.set(f"one {i}", i)
                assert remote("set", f"remote {i}", i) is None
                two.set(f"two {i}", i)
            remote.end()
        with Store(path) as store:
            assert is_other(store) is replace
            for who in ("one", "remote", "two"):
                assert store.find(f"{who} *") == [(f"{who} {i}", i) for i in range(5)]
        check_file(path)


def test_two_threads_meet_in_the_new_file(path: Path) -> None:
    with Store(path, frozen=False) as store:
        fill(store)
        turn = threading.Barrier(2)

        def work() -> None:
            store.set("thread", 0)
            for i in range(3):
                turn.wait()
                turn.wait()
                store.set("thread", i)

        thread = threading.Thread(target=work)
        thread.start()
        for i in range(3):
            turn.wait()
            path.unlink()
            store.set("main", i)
            turn.wait()
            until(lambda i=i: store.get("thread") == i, "what was written is not seen")  # type: ignore[misc]
            assert store["main"] == i
        thread.join()
    with Store(path) as store:
        assert contents(store) == ["main", "thread"]
    check_file(path)


@pytest.mark.parametrize("verb", WRITES)
def test_a_log_that_cannot_be_removed(path: Path, verb: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is of the file that was deleted, and would be taken for that of the next one."""
    unlink = os.unlink

    def refuse(name: Any, *args: Any, **options: Any) -> None:
        if os.fspath(name).endswith(("-wal", "-shm")):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), name)
        unlink(name, *args, **options)

    with Store(path, frozen=False) as store:
        store["old"] = 1
        path.unlink()
        with monkeypatch.context() as patched:
            patched.setattr(os, "unlink", refuse)
            for _ in range(2):
                with pytest.raises((StoreNotAvailableError, OutcomeUnknownError), match=r"-wal.*Permission denied"):
                    WRITES[verb](store)
            assert not path.exists()
        WRITES[verb](store)
        assert contents(store) == NEW[verb]
    check_file(path)


@pytest.mark.parametrize("verb", WRITES)
def test_a_transaction_of_another_thread_is_not_waited_for_without_end(path: Path, verb: str) -> None:
    began, go_on = threading.Event(), threading.Event()
    with Store(path, frozen=False, timeout=0.3) as store:

        def stay_inside() -> None:
            with store.transaction() as tx:
                tx["old"] = 1
                began.set()
                go_on.wait(30)

        def work() -> None:
            with pytest.raises(StoreNotAvailableError, match="nothing was applied"):
                stay_inside()

        thread = threading.Thread(target=work)
        thread.start()
        began.wait(30)
        path.unlink()
        try:
            started = time.monotonic()
            with pytest.raises(StoreBusyError):
                WRITES[verb](store)
            assert time.monotonic() - started < 5
        finally:
            go_on.set()
            thread.join()
        WRITES[verb](store)
        assert contents(store) == NEW[verb]
    check_file(path)


@pytest.mark.parametrize("how", ["unlink", "replace"])
@pytest.mark.parametrize("verb", WRITES)
def test_another_thread_is_faster_in_seeing_it(
    path: Path, verb: str, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It closes the connection of this one, whose commit went into the file that was there."""
    other, stays = make_other(path), SqliteFile.stays

    def late(file: SqliteFile, *strayed: Any) -> bool:
        monkeypatch.undo()
        thread = threading.Thread(target=store.set, args=("meanwhile", 1))
        thread.start()
        thread.join()
        return stays(file, *strayed)

    with Store(path, frozen=False) as store:
        fill(store)
        if how == "replace":
            other.replace(path)
        else:
            path.unlink()
        monkeypatch.setattr(SqliteFile, "stays", late)
        WRITES[verb](store)
        assert SqliteFile.stays is stays
        assert is_other(store) is (how == "replace")
        assert {"meanwhile", *NEW[verb]} <= set(contents(store))
    check_file(path)


@pytest.mark.parametrize("verb", WRITES)
def test_it_happens_once_more_before_a_thread_has_left(path: Path, verb: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What another thread has written into the second file must not be taken for a part of the third."""
    other, stays = make_other(path), SqliteFile.stays
    with Store(path, frozen=False) as store, ThreadPoolExecutor(1) as another:
        fill(store)

        def late(file: SqliteFile, *strayed: Any) -> bool:
            monkeypatch.undo()
            another.submit(fill, store).result()
            other.replace(path)
            return stays(file, *strayed)

        path.unlink()
        monkeypatch.setattr(SqliteFile, "stays", late)
        WRITES[verb](store)
        assert is_other(store)
        assert set(NEW[verb]) <= set(contents(store))
    check_file(path)


@pytest.mark.parametrize("how", ["unlink", "replace"])
@pytest.mark.parametrize("verb", WRITES)
def test_it_happens_while_the_file_is_opened(path: Path, verb: str, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection to the file that was there must not count as one to the file that bears the name since."""
    other, settle, opened = make_other(path), Slot.settle, [str(path)]

    def happen(slot: Slot, *, check_always: bool) -> None:
        if slot.path in opened:
            opened.remove(slot.path)
            if how == "replace":
                other.replace(path)
            else:
                path.unlink()
        settle(slot, check_always=check_always)

    monkeypatch.setattr(Slot, "settle", happen)
    with Store(path, frozen=False) as store:
        WRITES[verb](store)
        WRITES[verb](store)
        assert is_other(store) is (how == "replace")
    assert not opened
    with Store(path) as store:
        assert is_other(store) is (how == "replace")
        assert set(NEW[verb]) <= set(contents(store))
    check_file(path)


@pytest.mark.slow
def test_a_frozen_store_notices_what_happens_while_it_opens_the_file(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Store(path, frozen=False) as store:
        fill(store)
    other, settle = make_other(path), Slot.settle

    def happen(slot: Slot, *, check_always: bool) -> None:
        if other.exists() and slot.path == str(path):
            other.replace(path)
        settle(slot, check_always=check_always)

    monkeypatch.setattr(Slot, "settle", happen)
    with Store(path) as store:
        until(lambda: is_other(store), "the other file is not seen")


@pytest.mark.slow
@pytest.mark.parametrize("how", ["unlink", "unlink all", "replace"])
def test_threads_write_while_it_happens_again_and_again(path: Path, how: str) -> None:
    with Program(programs.replace_underneath, path, how) as program:  # a mixture of two files can end in a bus error
        (said,) = program.end()
    # SQLite finds logs by the name of their file: under several writers at once, a new file of that name can get frames
    # of the old one, and is found damaged. What is not found damaged must hold what was acknowledged at last.
    errors, lost, _ = json.loads(said)
    assert {error.partition("(")[0] for error in errors} <= {
        "CorruptionError",
        "StoreNotAvailableError",
        "StoreBusyError",
    }
    if how == "replace":
        assert lost in ([], None)
    else:
        assert lost == []
        check_file(path)


def test_a_transaction_begins_on_the_file_that_bears_the_name(path: Path) -> None:
    with Store(path, frozen=False) as store:
        store["old"] = 1
        store.backup(path.with_name("copy.db"))
        store["lost"] = 1
        path.with_name("copy.db").replace(path)
        with store.transaction() as tx:
            tx["new"] = 1
        assert store.keys() == ["new", "old"]
    check_file(path)
