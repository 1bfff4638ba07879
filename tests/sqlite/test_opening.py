"""Obstacles to opening a file, and to using it later: each is named, and none is a raw error."""

from __future__ import annotations

import os
import resource
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Generator
from contextlib import closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import programs
import pytest
from processes import Program, check_file
from sqlite_faults import Faulty

from rstore import OutcomeUnknownError, Store, StoreError, StoreNotAvailableError
from rstore.backends.sqlite.transport.file import SqliteFile


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


@contextmanager
def no_descriptors(left: int = 0) -> Generator[None, None, None]:
    """Use up all file descriptors that this process may have, but for some."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    held: list[int] = []
    in_use = max(int(one.name) for one in Path("/dev/fd").iterdir())  # servers of earlier tests among them
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(in_use + 100, limits[0]), limits[1]))
    try:
        try:
            while True:
                held.append(os.open(os.devnull, os.O_RDONLY))
        except OSError:
            pass
        for _ in range(left):
            os.close(held.pop())
        yield
    finally:
        for descriptor in held:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


@pytest.mark.parametrize("frozen", [True, False])
def test_no_descriptors_are_left(path: Path, frozen: bool) -> None:
    with Store(path, frozen=False) as store:
        store["a"] = 1
        other = Store(path, frozen=frozen)
        with no_descriptors():
            with pytest.raises(StoreNotAvailableError, match=r"(?i)too many open files"):
                other.open()
            assert store["a"] == 1
        with other:
            assert other["a"] == 1
        store["a"] = 2
    check_file(path)


_LOCK_ALL = """
import fcntl, sys
with open(sys.argv[1], "r+b") as file:
    fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 510, 0x40000002)
"""


@pytest.mark.parametrize("left", range(7))
def test_few_descriptors_are_left(path: Path, left: int) -> None:
    """Whoever opens a store with the last descriptors keeps others from taking the file for unused."""
    Store(path, frozen=False).open().close()
    store = Store(path, frozen=False)
    with no_descriptors(left):
        try:
            store.open()
        except StoreNotAvailableError:
            return
    try:
        taken = subprocess.run([sys.executable, "-c", _LOCK_ALL, path], capture_output=True, text=True, check=False)
        assert "BlockingIOError" in taken.stderr
        store["a"] = 1
    finally:
        store.close()
    check_file(path)


@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.parametrize("name", ["y" * 256, "d/" * 2500 + "x", "loop.db", "plain/x.db", "no/x.db"])
def test_a_path_that_leads_nowhere(tmp_path: Path, name: str, frozen: bool) -> None:
    (tmp_path / "loop.db").symlink_to("pool.db")
    (tmp_path / "pool.db").symlink_to("loop.db")
    (tmp_path / "plain").touch()
    with pytest.raises(StoreNotAvailableError):
        Store(tmp_path / name, frozen=frozen).open()


def test_what_is_not_a_file_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for name in (tmp_path / "fifo", "/dev/zero", "/dev/null"):
        with pytest.raises(StoreNotAvailableError, match="regular file"):
            Store(name).open()


def test_a_directory_that_may_not_be_searched_any_more() -> None:
    with Program(programs.lose_the_directory) as program:
        (said,) = program.end()
    assert said == "nothing raw"


@pytest.mark.parametrize("code", [13, 40, 5])
def test_reading_says_that_the_file_cannot_be_reached(tmp_path: Path, path: Path, code: int) -> None:
    """Rather than that nothing is there: it may have been replaced."""
    with Faulty(tmp_path, "stat") as faulty, Store(path, frozen=False, timeout=1) as store:
        store["a"] = 1
        answers: list[object] = []

        def work() -> None:  # in a thread that has no connection yet
            for ask in (lambda: store.get("a"), store.keys, lambda: store.has("a"), lambda: store.delete("a")):
                try:
                    answers.append(ask())
                except StoreError as error:
                    answers.append(type(error))

        faulty.arm(1, 10**9, code)
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        faulty.disarm()
        assert set(answers) <= {StoreNotAvailableError, OutcomeUnknownError}
        assert len(answers) == 4
        assert store["a"] == 1


def test_a_copy_of_a_live_file_without_its_log(path: Path) -> None:
    copy = path.with_name("copy.db")
    with Store(path, frozen=False) as store:
        store["a"] = 1
        copy.write_bytes(path.read_bytes())
    with pytest.raises(StoreNotAvailableError, match=r"its -wal was not copied .* backup\(\)"):
        Store(copy).open()


def test_a_transaction_that_was_broken_off_before_the_log_was_there(path: Path) -> None:
    """A hot journal: to read the file it has to be undone, which a frozen store does not."""
    with Store(path, frozen=False) as store:
        store["a"] = 1
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("PRAGMA journal_mode = DELETE")
        other.execute("PRAGMA cache_size = 1")
        other.execute("BEGIN")
        other.execute("UPDATE records SET record = zeroblob(9)")
        other.execute("CREATE TABLE more AS SELECT zeroblob(900) FROM records, sqlite_schema a, sqlite_schema b")
        copies = {end: Path(f"{path}{end}").read_bytes() for end in ("", "-journal")}
        assert copies["-journal"]
    crashed = path.with_name("crashed.db")
    for end, data in copies.items():
        Path(f"{crashed}{end}").write_bytes(data)
    with pytest.raises(StoreNotAvailableError, match="frozen=False"):
        Store(crashed).open()
    with Store(crashed, frozen=False) as store:
        assert dict(store) == {"a": 1}
    check_file(crashed)


def turn(link: Path, target: Path) -> None:
    other = link.with_suffix(".other")
    other.symlink_to(target)
    other.replace(link)


def turn_and_resolve(
    resolve: Callable[[str], str], left: list[int], link: Path, target: Path, name: str, **_: object
) -> str:
    left[0] -= 1
    if left[0] == 0:
        turn(link, target)
    return resolve(name)


@pytest.mark.parametrize("important", ["text", "empty store"])
def test_discarding_through_a_link_that_is_turned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, important: str
) -> None:
    """At each moment at which the name is resolved: no file goes but the one whose namespace was discarded."""
    mine, theirs, link = tmp_path / "mine.db", tmp_path / "theirs.db", tmp_path / "link.db"
    moments = 1
    while True:
        if important == "text":
            theirs.write_text("important")
        else:
            with Store(theirs, frozen=False) as store:
                session: Any = store._session  # noqa: SLF001
                file: SqliteFile = session.backend._file  # noqa: SLF001
                file.write(lambda connection: connection.execute("DELETE FROM namespaces").fetchall())
        before = theirs.read_bytes()
        link.unlink(missing_ok=True)
        link.symlink_to(mine)
        with Store(link, frozen=False, timeout=1) as store:
            store["a"] = 1
            turned = [moments]
            monkeypatch.setattr(os.path, "realpath", partial(turn_and_resolve, os.path.realpath, turned, link, theirs))
            with suppress(StoreError):
                store.discard()
            monkeypatch.undo()
        assert theirs.read_bytes() == before
        if turned[0] > 0:
            break
        moments += 1
        mine.unlink(missing_ok=True)
    assert moments > 1


def test_a_memory_error_behind_the_commit(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Packing comes behind it: what was stored is stored, and packed some other time."""
    with Store(path, frozen=False) as store:
        session: Any = store._session  # noqa: SLF001
        logs = session.series

        def fail(*_: object) -> None:
            raise MemoryError("secret")

        monkeypatch.setattr(logs, "pack", fail)
        monkeypatch.setattr("rstore.log.packing.HOT_ROWS", 10)
        monkeypatch.setattr("rstore.log.packing.CHECK_EVERY", 5)
        logs._until_check = 5  # noqa: SLF001
        for t in range(100):
            assert store.extend("s", (t, t)) == 1
        assert len(store.range("s")) == 100
        assert "the packing of 's' in namespace 'default' is put off: MemoryError" in caplog.text
        assert "secret" not in caplog.text
        monkeypatch.undo()
        store.compact("s")
        assert len(store.range("s")) == 100


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_who_asks_the_program_to_stop_is_heard(
    path: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    with Store(path, frozen=False) as store:
        session: Any = store._session  # noqa: SLF001
        logs = session.series

        def fail(*_: object) -> None:
            raise error

        monkeypatch.setattr(logs, "pack", fail)
        monkeypatch.setattr("rstore.log.packing.HOT_ROWS", 1)
        logs._until_check = 0  # noqa: SLF001
        with pytest.raises(error):
            store.extend("s", (1, 1))
        assert store.range("s") == [(1, 1)]
    check_file(path)


@pytest.mark.parametrize("error", [MemoryError, RuntimeError])
def test_a_sweep_that_fails_behind_the_commit(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: type[Exception]
) -> None:
    with Store(path, frozen=False) as store:
        session: Any = store._session  # noqa: SLF001

        def fail(_: int) -> int:
            raise error

        monkeypatch.setattr(session.backend, "sweep", fail)
        session.records._until_sweep = 0  # noqa: SLF001
        store["a"] = 1
        assert f"a sweep of namespace 'default' is put off: {error.__name__}" in caplog.text
        assert store["a"] == 1
