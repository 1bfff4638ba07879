"""Paths and modes of files: every name means the file that bears it, and new files are their owner's alone."""

from __future__ import annotations

import fcntl
import os
import stat
import struct
import subprocess
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import apsw
import pytest
from processes import check_file, descriptors, linux

from rstore import InvalidArgumentError, Store, StoreNotAvailableError

NAMES = [
    "plain.db",
    "no suffix",
    "50%.db",
    "%41.db",
    "a?b=c",
    "#hash#",
    "ö→😀.db",
    "it's",
    'say "x"',
    "-",
    "a;b",
    "a:b",
]


@contextmanager
def umask(mask: int) -> Generator[None, None, None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


def names(directory: Path) -> set[str]:
    return {file.name for file in directory.iterdir()}


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_taken_as_written(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    for dsn in (path, str(path), f"sqlite://{path}", os.fspath(path)):
        with Store(dsn, frozen=False) as store:
            store.set("k", store.get("k", 0) + 1)
            assert names(tmp_path) == {name, f"{name}-wal", f"{name}-shm"}
        assert names(tmp_path) == {name}
        with Store(dsn) as store:
            assert store["k"] >= 1
        # A frozen store may leave an empty log and its index: it is not allowed to remove them.
        assert names(tmp_path) - {f"{name}-wal", f"{name}-shm"} == {name}
    with Store(path, frozen=False) as store:
        assert store["k"] == 4
        store.discard()
    assert names(tmp_path) == set()


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_taken_as_written_where_nothing_can_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    # What is opened as immutable is opened by a URI, in which some characters mean something.
    with Store(tmp_path / name, frozen=False) as store:
        store.set("k", 1)
    real = apsw.Connection

    def refuse(path: str, flags: int = 0, **options: Any) -> apsw.Connection:
        if not flags & apsw.SQLITE_OPEN_URI:
            raise apsw.CantOpenError
        return real(path, flags, **options)

    monkeypatch.setattr(apsw, "Connection", refuse)
    with Store(tmp_path / name) as store:
        assert store["k"] == 1


def test_a_relative_path_stays_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    with Store("store.db", frozen=False) as store, Store("sqlite://./store.db", frozen=False) as same:
        store.set("k", 1)
        monkeypatch.chdir("elsewhere")
        threads = [threading.Thread(target=store.set, args=(f"{i}", i)) for i in range(3)]  # a connection each
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(same) == 4
        (tmp_path / "store.db").unlink()
        store.set("again", 1)
        assert (tmp_path / "store.db").exists()
    with store:  # entered again, in another directory
        assert store["again"] == 1
    assert names(tmp_path / "elsewhere") == set()


def test_a_path_goes_by_links_as_the_system_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "real" / "sub").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "real" / "sub")
    monkeypatch.chdir(tmp_path)
    with Store("link/../store.db", frozen=False) as store:
        store.set("k", 1)
    assert (tmp_path / "real" / "store.db").exists()
    assert not (tmp_path / "store.db").exists()


def test_a_path_that_names_a_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgumentError, match="directory"):
        Store(f"{tmp_path}/new/", frozen=False)
    assert list(tmp_path.iterdir()) == []


def test_a_relative_path_in_a_directory_that_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(StoreNotAvailableError, match="directory"):
        Store("store.db", frozen=False)


def test_a_link_leads_to_the_file(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    link, real = tmp_path / "link.db", tmp_path / "real" / "store.db"
    link.symlink_to(real)
    with Store(link, frozen=False) as store, Store(real, frozen=False) as same:
        store.set("k", 1)
        assert same["k"] == 1
        same.set("l", 2)
        assert store["l"] == 2
    assert names(tmp_path) == {"link.db", "real"}
    assert names(tmp_path / "real") == {"store.db"}
    with Store(link, frozen=False) as store:
        store.discard()
    assert names(tmp_path / "real") == set()
    with Store(link, frozen=False) as store:
        store.set("k", 1)
    assert names(tmp_path / "real") == {"store.db"}


def test_a_path_that_is_not_unicode_is_refused(tmp_path: Path) -> None:
    for dsn in (os.fsdecode(b"\xff.db"), "sqlite://\ud800"):
        with pytest.raises(InvalidArgumentError), Store(str(tmp_path / dsn) if "//" not in dsn else dsn, frozen=False):
            pass
    assert names(tmp_path) == set()


@pytest.mark.parametrize("mask", [0, 0o022], ids=oct)
def test_new_files_are_their_owners_alone(tmp_path: Path, mask: int) -> None:
    path = tmp_path / "store.db"
    with umask(mask), Store(path, frozen=False) as store:
        store.set("k", 1)
        modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in tmp_path.iterdir()}
        expected = 0o600 & ~mask
        assert modes == {"store.db": expected, "store.db-wal": expected, "store.db-shm": expected}


def test_the_mode_of_a_file_that_is_there_stays(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    path.touch()
    path.chmod(0o640)
    with umask(0), Store(path, frozen=False) as store:
        store.set("k", 1)
        modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in tmp_path.iterdir()}
        assert modes == {"store.db": 0o640, "store.db-wal": 0o640, "store.db-shm": 0o640}


def setting(connection: apsw.Connection) -> tuple[object, object]:
    return connection.pragma("journal_mode"), connection.pragma("synchronous")


@pytest.mark.parametrize("durability", ["full", "normal"])
def test_durability(tmp_path: Path, durability: Literal["full", "normal"]) -> None:
    path = tmp_path / "store.db"
    made: list[apsw.Connection] = []
    apsw.connection_hooks.append(made.append)
    try:
        with Store(path, frozen=False, durability=durability) as store:
            store.set("k", 1)
            settings = [setting(made[0])]

            def work() -> None:
                store.set("l", 2)
                settings.append(setting(made[1]))  # here: it is closed when the thread ends

            thread = threading.Thread(target=work)
            thread.start()
            thread.join()
        with Store(path, durability=durability) as frozen:
            assert dict(frozen) == {"k": 1, "l": 2}
    finally:
        apsw.connection_hooks.remove(made.append)
        del made[:]
    assert len(settings) == 2
    assert set(settings) == {("wal", 2 if durability == "full" else 1)}
    check_file(path)


@pytest.mark.parametrize("durability", ["", "FULL", "off", None, True, 2, ["full"]], ids=repr)
def test_a_durability_that_there_is_not(tmp_path: Path, durability: Any) -> None:
    with pytest.raises(InvalidArgumentError):
        Store(tmp_path / "store.db", frozen=False, durability=durability)
    assert names(tmp_path) == set()


def test_the_log_stays_small_while_a_file_is_written_again_and_again(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    with Store(path, frozen=False, durability="normal") as store:
        for turn in range(12):
            store.set_many({f"{i:05}": [turn, i] for i in range(20_000)})  # some 700 pages each time
        log = path.with_name("store.db-wal").stat().st_size
    assert path.stat().st_size < 4_000_000
    assert 4_000_000 < log < 24_000_000  # or all of it is moved at each call, or none
    assert names(tmp_path) == {"store.db"}


# -- descriptors ------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not linux, reason="looks into /proc")
def test_a_connection_goes_with_its_thread(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    with Store(path, frozen=False) as store, Store(path) as frozen:
        store.set("k", 0)
        assert frozen["k"] == 0
        before = len(list(Path("/proc/self/fd").iterdir()))
        for i in range(50):
            for target, arguments in ((store.set, ("k", i)), (frozen.get, ("k",))):
                thread = threading.Thread(target=target, args=arguments)
                thread.start()
                thread.join()
        assert frozen["k"] == 49
        # SQLite keeps a few for reuse: a descriptor that is closed drops the locks of the whole process on the file.
        assert len(list(Path("/proc/self/fd").iterdir())) < before + 10
    assert descriptors(path) == []


@pytest.mark.skipif(not linux, reason="looks into /proc")
def test_nothing_stays_open(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    store, frozen = Store(path, frozen=False), Store(path)
    before: int | None = None
    for i in range(100):
        with store:
            store.set("k", i)
            with frozen:
                assert frozen["k"] == i
        with Store(path, f"{i % 3}", frozen=False, durability="normal"):
            pass
        with pytest.raises(Exception, match="nowhere"), Store(path, "nowhere"):
            pass
        assert descriptors(path) == []
        before = before or len(list(Path("/proc/self/fd").iterdir()))
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    check_file(path)


_LOCK = """
import fcntl, struct, sys
with open(sys.argv[1], 'r+b') as file:
    lock = struct.pack('hhqqi', fcntl.F_WRLCK, 0, 0x40000002, 510, 0)
    print(struct.unpack('hhqqi', fcntl.fcntl(file, fcntl.F_GETLK, lock))[0] == fcntl.F_UNLCK)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="asks for the locks that Linux keeps")
def test_opening_a_second_handle_drops_no_lock_of_the_first(tmp_path: Path) -> None:
    # Closing any descriptor of a file drops all locks that the process has on it. The bytes are those that SQLite locks
    # to say that somebody uses the file; without that lock, another process may believe that it is alone with it.
    path = tmp_path / "store.db"

    def may_be_locked() -> str:
        return subprocess.run(
            [sys.executable, "-c", _LOCK, str(path)], capture_output=True, text=True, check=True
        ).stdout

    with Store(path, frozen=False) as first:
        first.set("k", 1)
        assert may_be_locked() == "False\n"
        with Store(path, frozen=False) as second:
            second.set("k", 2)
            assert may_be_locked() == "False\n"
        thread = threading.Thread(target=first.set, args=("k", 3))
        thread.start()
        thread.join()
        assert may_be_locked() == "False\n"
    assert may_be_locked() == "True\n"
    assert struct.calcsize("hhqqi")
    assert fcntl.F_UNLCK == 2
