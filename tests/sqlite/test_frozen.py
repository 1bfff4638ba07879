"""Frozen stores: they change nothing, see what others write, and work where nothing can be written."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import programs
import pytest
from processes import Program, Remote, public_directory, snapshot

from rstore import FrozenStoreError, InvalidArgumentError, Store
from rstore.testing.opening import READS, WRITES

HELD = [["k", "late"], [[1, 1]], {"a": 1}]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


@pytest.fixture
def public() -> Iterator[Path]:
    with public_directory() as directory:
        yield directory


def fill(store: Store) -> None:
    store.set("k", 1)
    store.extend("s", (1, 1))
    store.apply("e", {"a": 1}, 1)


def test_it_changes_nothing(path: Path) -> None:
    with Store(path, frozen=False) as store:
        fill(store)
    before = snapshot(path.parent)
    with Store(path) as frozen:
        for read in READS.values():
            try:
                read(frozen)
            except (LookupError, InvalidArgumentError):  # what is asked about is not there
                continue
        for write in WRITES.values():
            with pytest.raises(FrozenStoreError):
                write(frozen)
    assert snapshot(path.parent) == before


def test_it_changes_nothing_of_a_log_that_a_killed_writer_has_left(path: Path) -> None:
    with Remote(path) as remote:
        remote("set", "k", 1)
        remote.kill()
    before = snapshot(path.parent)
    assert set(before) == {"store.db", "store.db-wal"}
    with Store(path) as frozen:
        assert frozen["k"] == 1
    after = snapshot(path.parent)
    assert after["store.db"] == before["store.db"]
    assert after["store.db-wal"] == before["store.db-wal"]


def test_it_sees_what_others_commit(path: Path) -> None:
    with Remote(path) as remote, Store(path) as frozen:
        for i in range(5):
            remote("set", "k", i)
            remote("extend", "s", [i, i])
            remote("apply", "e", {"i": i})
            assert (frozen["k"], frozen.last("s"), frozen.current("e")) == (i, (i, i), {"i": i})
        remote.end()
        assert frozen["k"] == 4
        with Store(path, frozen=False) as store:
            store.set("k", 5)
        assert frozen["k"] == 5


# -- where nothing can be written -------------------------------------------------------------------------------------


def read_only(directory: Path, file_mode: int = 0o444) -> None:
    for file in directory.iterdir():
        if not file.is_symlink():
            file.chmod(file_mode)
    directory.chmod(0o555)


def as_nobody(path: Path, how: str = "frozen") -> object:
    with Program(programs.read_as_nobody, path, how) as program:
        (said,) = program.end()
    return json.loads(said)


def leave(path: Path, elsewhere: Path, *suffixes: str) -> None:
    """Leave a store elsewhere as if its writer had been killed, without what a crash or a copy may lose."""
    with Store(path, frozen=False) as store:
        fill(store)
    with Remote(path) as remote:
        remote("set", "late", 1)
        remote.kill()
    for suffix in ("", *suffixes):
        shutil.copy(f"{path}{suffix}", f"{elsewhere}{suffix}")


def test_a_read_only_directory(public: Path) -> None:
    with Store(public / "store.db", frozen=False) as store:
        fill(store)
        store.set("late", 1)
    read_only(public)
    before = snapshot(public)
    assert as_nobody(public / "store.db") == HELD
    assert snapshot(public) == before
    assert set(before) == {"store.db"}


def test_a_read_only_directory_after_frozen_use(public: Path) -> None:
    with Store(public / "store.db", frozen=False) as store:
        fill(store)
        store.set("late", 1)
    with Store(public / "store.db") as frozen:
        assert frozen["late"] == 1
    read_only(public)
    assert as_nobody(public / "store.db") == HELD


@pytest.mark.slow
@pytest.mark.parametrize("suffixes", [("-wal", "-shm"), ("-wal",)], ids=["with its index", "without its index"])
@pytest.mark.parametrize("linked", [False, True], ids=["by its name", "by a link"])
def test_a_read_only_directory_with_a_log_that_was_left(
    path: Path, public: Path, suffixes: tuple[str, ...], linked: bool
) -> None:
    real = public / "store.db"
    leave(path, real, *suffixes)
    assert real.with_name("store.db-wal").stat().st_size > 0
    if linked:
        (public / "link.db").symlink_to(real)
    read_only(public)
    before = snapshot(public)
    said = as_nobody(public / ("link.db" if linked else "store.db"))
    # The rows in the log are read, or it is said that they cannot be; they are never left out.
    assert said == HELD or (isinstance(said, list) and said[0] == "StoreNotAvailableError" and "log" in said[1])
    assert snapshot(public) == before


def test_a_read_only_directory_with_an_empty_log(public: Path) -> None:
    with Store(public / "store.db", frozen=False) as store:
        fill(store)
        store.set("late", 1)
    (public / "store.db-wal").touch()
    read_only(public)
    assert as_nobody(public / "store.db") == HELD


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="needs a second user")
def test_a_read_only_directory_in_which_somebody_else_writes(public: Path) -> None:
    path = public / "store.db"
    with Store(path, frozen=False) as store:
        fill(store)
        store.set("late", 1)
        read_only(public)
        assert as_nobody(path) == HELD
        store.set("later", 1)
    path.with_name("store.db").chmod(0o444)
    assert as_nobody(path) == [["k", "late", "later"], *HELD[1:]]


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="needs a second user")
def test_a_read_only_directory_in_which_somebody_else_has_written(public: Path) -> None:
    path = public / "store.db"
    with Store(path, frozen=False) as store:
        store.update({f"{i:05}": "old" * 50 for i in range(3000)})
        store.extend_many("s", ((t, 0) for t in range(5000)))
    read_only(public)
    with Program(programs.watch_as_nobody, path) as program:
        assert json.loads(program.hear()) == ["old" * 50, [4999, 0], 3000]
        for round_ in range(1, 4):
            with Store(path, frozen=False) as store:  # moves its log into the file at the end, and takes it away
                store.update({f"{i:05}": f"{round_}" * 50 for i in range(3000 + round_)})
                store.extend("s", (5000 + round_, round_))
            program.tell()
            assert json.loads(program.hear()) == [f"{round_}" * 50, [5000 + round_, round_], 3000 + round_]


def test_writing_in_a_read_only_directory(public: Path) -> None:
    with Store(public / "store.db", frozen=False) as store:
        fill(store)
    read_only(public)
    before = snapshot(public)
    for name in ("store.db", "new.db"):
        said = as_nobody(public / name, "writable")
        assert isinstance(said, list)
        assert said[0] == "StoreNotAvailableError"
        assert str(public / name) in said[1]
    assert snapshot(public) == before


@pytest.mark.parametrize("how", ["frozen", "writable"])
def test_a_file_that_may_not_be_read(public: Path, how: str) -> None:
    with Store(public / "store.db", frozen=False) as store:
        fill(store)
    (public / "store.db").chmod(0)
    said = as_nobody(public / "store.db", how)
    assert isinstance(said, list)
    assert said[0] == "StoreNotAvailableError"
    assert str(public / "store.db") in said[1]


def test_a_file_that_may_be_read_but_not_written(public: Path) -> None:
    with Store(public / "store.db", frozen=False) as store:
        fill(store)
    (public / "store.db").chmod(0o444)
    before = snapshot(public)
    said = as_nobody(public / "store.db", "writable")
    assert isinstance(said, list)
    assert said[0] == "StoreNotAvailableError"
    assert as_nobody(public / "store.db") == [["k"], *HELD[1:]]
    assert snapshot(public)["store.db"] == before["store.db"]
