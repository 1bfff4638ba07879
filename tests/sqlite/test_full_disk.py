"""A disk that is full: nothing is half applied, and the store goes on when there is room again."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import programs
import pytest
from processes import Program, check_file

from rstore import Store, StoreFullError, Transaction


def test_files_that_may_not_grow(tmp_path: Path) -> None:
    pytest.importorskip("resource")
    with Program(programs.outgrow_limit, tmp_path / "store.db") as program:
        assert program.end() == ["full", "free"]
    check_file(tmp_path / "store.db")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """Return a file system of 4 MB, where one may be mounted."""
    directory = tmp_path / "disk"
    directory.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(directory)]
    try:
        mounted = subprocess.run(mount, check=False, capture_output=True).returncode == 0
    except OSError:
        mounted = False
    if not mounted:
        pytest.skip("a small file system cannot be mounted here")
    try:
        yield directory
    finally:
        subprocess.run(["umount", str(directory)], check=True)  # noqa: S607 - as mount


def test_a_full_disk(disk: Path) -> None:
    with Program(programs.outgrow_disk, disk / "store.db") as program:
        assert program.end() == ["full", "free"]
    check_file(disk / "store.db")


def fill_one_by_one(tx: Transaction) -> None:
    for i in range(10_000):
        tx.set(f"{i}", "x" * 500)


def fill_by_many(tx: Transaction) -> None:
    tx.set_many({f"{i}": "x" * 500 for i in range(10_000)})


def undo(tx: Transaction) -> None:
    """Do what SQLite does when something is full."""
    transaction: Any = tx._get_writer().backend  # noqa: SLF001
    transaction._connection._connection.execute("ROLLBACK")  # noqa: SLF001
    tx.has("a")


AFTER: tuple[Callable[[Transaction], object], ...] = (
    lambda tx: tx.get("a"),
    lambda tx: tx.set("a", "newest"),
    lambda tx: tx.set("b", "newest", ttl=100),
)


@pytest.mark.parametrize("fill", [fill_one_by_one, fill_by_many, undo])
def test_nothing_is_done_without_the_transaction_that_was_undone(
    tmp_path: Path, fill: Callable[[Transaction], object]
) -> None:
    with Store(tmp_path / "store.db", frozen=False) as store:
        store["a"] = "old"
        session: Any = store._session  # noqa: SLF001
        connection = session.backend._file.local.slot.connection  # noqa: SLF001
        connection.execute(f"PRAGMA max_page_count = {connection.pragma('page_count') + 20}").fetchall()

        def inside(tx: Transaction) -> None:
            tx["a"] = "new"
            for verb in (fill, *AFTER) if fill is not undo else (fill, *AFTER[1:]):
                with pytest.raises(StoreFullError):
                    verb(tx)

        with pytest.raises(StoreFullError, match="nothing was applied"), store.transaction() as tx:
            inside(tx)
        connection.execute("PRAGMA max_page_count = 1000000").fetchall()
        assert dict(store) == {"a": "old"}
        store["a"] = "newer"
        assert store["a"] == "newer"


def test_opening_on_a_full_disk(disk: Path) -> None:
    ballast = disk / "ballast"
    try:
        with ballast.open("wb", buffering=0) as file:
            while True:
                file.write(b"\0" * 4096)
    except OSError:
        pass
    with pytest.raises(StoreFullError), Store(disk / "store.db", frozen=False):
        pass
    ballast.unlink()
    with Store(disk / "store.db", frozen=False) as store:
        store.set("k", 1)
    with Store(disk / "store.db") as store:
        assert store["k"] == 1
    check_file(disk / "store.db")


def test_reading_on_a_full_disk(disk: Path) -> None:
    with Store(disk / "store.db", frozen=False) as store:
        store.set("k", 1)
        written = 0
        try:
            for i in range(10_000):
                store.set(f"{i}", "x" * 100_000)
                written = i + 1
        except StoreFullError:
            pass
        else:
            pytest.fail("it never was full")
        assert store["k"] == 1
        with Store(disk / "store.db") as frozen:
            assert frozen["k"] == 1
            assert len(frozen) == len(store) == written + 1
    check_file(disk / "store.db")


def fill_up(tx: Transaction) -> None:
    for i in range(20_000):
        tx[f"large{i}"] = os.urandom(3000)


def go_on(tx: Transaction) -> None:
    tx["lost"] = 1
    with pytest.raises(StoreFullError):
        fill_up(tx)
    for verb in (lambda: tx.set("after", 1), tx.keys, lambda: tx.extend("s", (1, 1))):
        with pytest.raises(StoreFullError, match="nothing was applied"):
            verb()


def test_what_follows_in_a_transaction_that_a_full_disk_has_undone(disk: Path) -> None:
    with Store(disk / "store.db", frozen=False) as store:
        store["before"] = 1
        with pytest.raises(StoreFullError):
            store.run(go_on)
        assert (store.keys(), store.timeseries()) == (["before"], [])
        with store.transaction() as tx:
            tx["again"] = 1
        assert store.keys() == ["again", "before"]
    check_file(disk / "store.db")
