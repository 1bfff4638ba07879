"""Another SQLite library in this process, or a hand, takes the log away: what is acknowledged stays in the file."""

from __future__ import annotations

import shutil
import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Literal

import pytest
from processes import Remote, check_file, linux
from waiting import until

from rstore import OutcomeUnknownError, Store, StoreError
from rstore.backends.sqlite.transport import filelock

WRITES: dict[str, Callable[[Store, int], object]] = {
    "set": lambda store, n: store.set(f"set{n}", n),
    "large": lambda store, n: store.set(f"large{n}", "x" * 5000),
    "update": lambda store, n: store.update({f"many{n}": n, f"more{n}": n}),
    "incr": lambda store, _: store.incr("n"),
    "extend": lambda store, n: store.extend("s", (n, n)),
    "apply": lambda store, n: store.apply("e", {f"a{n}": n}),
    "transaction": lambda store, n: store.run(lambda tx: tx.set(f"tx{n}", n)),
}
EXPECTED = {
    **{f"set{n}": n for n in range(3)},
    **{f"large{n}": "x" * 5000 for n in range(3)},
    **{f"many{n}": n for n in range(3)},
    **{f"more{n}": n for n in range(3)},
    **{f"tx{n}": n for n in range(3)},
    "n": 3,
}


@pytest.fixture(params=["guarded", "not guarded"])
def guarded(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether locks of open file descriptions are put beside those of SQLite."""
    if request.param == "guarded" and not linux:
        pytest.skip("there are no locks of open file descriptions here")
    if request.param == "not guarded":
        monkeypatch.setattr(filelock, "_IS_POSSIBLE", False)
    return bool(request.param == "guarded")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


def look_in(path: Path) -> None:
    """Do what `pandas.read_sql` does."""
    with closing(sqlite3.connect(path)) as other:
        other.execute("SELECT count(*) FROM records").fetchone()


def remove_log(path: Path) -> None:
    Path(f"{path}-wal").unlink()
    Path(f"{path}-shm").unlink()


def contents(store: Store) -> tuple[dict[str, object], int, object]:
    return dict(store), len(store.range("s")), store.current("e")


def after_a_crash(path: Path) -> tuple[dict[str, object], int, object]:
    """Return the content that another store finds in a copy of all files of the store."""
    copy = path.with_name("copy.db")
    for end in ("", "-wal"):
        Path(f"{copy}{end}").unlink(missing_ok=True)
        with suppress(FileNotFoundError):
            shutil.copyfile(f"{path}{end}", f"{copy}{end}")
    check_file(copy)
    with Store(copy, frozen=False) as crashed:
        return contents(crashed)


@pytest.mark.slow
@pytest.mark.usefixtures("guarded")
@pytest.mark.parametrize(("how", "durability"), [(look_in, "full"), (look_in, "normal"), (remove_log, "full")])
def test_what_is_acknowledged_since_is_there_after_a_crash(
    path: Path, how: Callable[[Path], None], durability: Literal["full", "normal"]
) -> None:
    with Store(path, frozen=False, durability=durability) as store:
        store["n"] = 0
        for n in range(3):
            for write in WRITES.values():
                how(path)
                write(store, n)
                assert after_a_crash(path) == contents(store)
        assert after_a_crash(path) == (EXPECTED, 3, {"a0": 0, "a1": 1, "a2": 2})
    check_file(path)


def test_the_log_stays_where_another_library_closes_the_file(path: Path) -> None:
    if not linux:
        pytest.skip("there are no locks of open file descriptions here")
    with Store(path, frozen=False) as store:
        store["a"] = 1
        log = Path(f"{path}-wal").stat().st_ino
        look_in(path)
        assert Path(f"{path}-wal").stat().st_ino == log
        with Remote(path) as remote:  # and another process does not take us for gone
            remote("set", "b", 2)
            remote.end()
        store["c"] = 3
        assert Path(f"{path}-wal").stat().st_ino == log
        assert dict(store) == {"a": 1, "b": 2, "c": 3}
    assert [file.name for file in path.parent.iterdir()] == ["store.db"]  # the last one moves the log into the file
    check_file(path)


@pytest.mark.slow
def test_two_processes_do_not_part(path: Path, guarded: bool) -> None:
    with Store(path, frozen=False) as store:
        store["n"] = 0
        for i in range(3):
            look_in(path)
            with Remote(path) as remote:
                assert remote("incr", "n") == 2 * i + 1
                look_in(path)
                try:
                    assert store.incr("n") == 2 * i + 2
                except StoreError:
                    assert not guarded
                    return
                assert remote("get", "n") == 2 * i + 2
                remote.end()
        assert store["n"] == 6
    check_file(path)


def test_a_log_that_others_have_begun_meanwhile(path: Path) -> None:
    """Two logs cannot become one: the call says so, and the next one goes to the log that others find."""
    with Store(path, frozen=False) as store:
        store["mine"] = 1
        with Store(path, "other", frozen=False) as other:
            other["there"] = 1
        remove_log(path)
        with Remote(path) as remote:
            remote("set", "theirs", 1)
            with pytest.raises(OutcomeUnknownError, match="removed while it was in use"):
                store["new"] = 1
            assert remote("get", "theirs") == 1
            store["newer"] = 1
            assert remote("get", "newer") == 1
            assert store["theirs"] == 1
            remote.end()
    with Store(path) as store:
        assert store["theirs"] == store["newer"] == 1
        assert store.check() == []
    check_file(path)


@pytest.mark.usefixtures("guarded")
def test_threads_and_readers_notice(path: Path) -> None:
    with Store(path, frozen=False) as store, Store(path) as frozen:
        store["n"] = 0
        assert frozen["n"] == 0
        turn = threading.Barrier(2)
        failures: list[BaseException] = []

        def work() -> None:
            try:
                for _ in range(5):
                    turn.wait()
                    look_in(path)
                    store.incr("n")
                    turn.wait()
            except BaseException as error:
                failures.append(error)
                turn.abort()
                raise

        thread = threading.Thread(target=work)
        thread.start()
        for i in range(5):
            turn.wait()
            turn.wait()
            store.incr("n")
            assert after_a_crash(path)[0]["n"] == 2 * i + 2
        thread.join()
        assert failures == []
        until(lambda: frozen["n"] == 10, "it does not see what is written since")
    check_file(path)
