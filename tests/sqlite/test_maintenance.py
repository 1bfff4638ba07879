"""A SQLite file as a whole: each kind of damage is found, a backup is of one moment, and space is given back."""

from __future__ import annotations

import operator
import signal
import threading
from itertools import count
from pathlib import Path
from typing import Any, Literal

import apsw
import pytest

from rstore import (
    InvalidValueError,
    Store,
    StoreBusyError,
    StoreError,
    StoreFullError,
    StoreNotAvailableError,
    generate_key,
)
from rstore.backends.sqlite import maintenance
from rstore.backends.sqlite.maintenance import SqliteMaintenance
from rstore.backends.types import Row
from rstore.codec.changes import Step, StoredChange, Tally, pack_change, pack_state
from rstore.codec.chunk_meta import pack_meta
from rstore.codec.envelope import Cell, Envelope, at_position, at_run
from rstore.codec.segments import segment_of_rows

KEY = generate_key()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


def fill(path: Path, key: str | None = None) -> None:
    with Store(path, key=key, frozen=False) as store:
        store.update({"k": 1, "large": b"x" * 5000})
        store.extend("hot", (1, 1.5), (2, 2.5))
        store.extend_many("many", ((t, t * 2) for t in range(20_000)))
        store.extend_many("words", ((t, {"t": t}) for t in range(2000)))
        store.apply("log", {"a": 0, "b": 1}, 0)
        for t in range(1, 130):
            store.apply("log", {"a": (operator.add, t)}, t)
        store.apply("short", {"a": 1}, 1)
        store.apply("short", {"a": 2, "b": 1}, 2)
        store.prune("short")
        assert store.check() == []


def execute(path: Path, *sql: str | tuple[str, tuple[Any, ...]]) -> list[Any]:
    connection = apsw.Connection(f"{path}")
    found: list[Any] = []
    for one in sql:
        found += connection.execute(one) if isinstance(one, str) else connection.execute(*one)
    connection.close()
    return found


def findings(path: Path, key: str | None = None) -> list[tuple[str, str | None]]:
    with Store(path, key=key) as store:
        found = store.check()
    assert all(finding.problem for finding in found)
    return [(finding.model, finding.key) for finding in found]


FLIPPED = "CAST(substr(body, 1, length(body) - 9) || x'a55a' || substr(body, length(body) - 6) AS BLOB)"
BEGUN = "CAST(x'7f' || substr(body, 2) AS BLOB)"
LOG = "(SELECT id FROM logs WHERE key = '{}')"
DAMAGE: dict[str, tuple[str, tuple[str, str | None]]] = {
    "fact of nobody": ("INSERT INTO facts VALUES (99, 'f', x'00')", ("store", None)),
    "record of nobody": ("INSERT INTO records VALUES (99, 'k', x'00', NULL, NULL)", ("store", None)),
    "log of nobody": (
        "INSERT INTO logs (ns, model, key, epoch, version, sealed, facts) VALUES (99, 1, 'k', x'', x'', 0, x'')",
        ("store", None),
    ),
    "row of nobody": ("INSERT INTO hot VALUES (99, 1, 0, x'00')", ("store", None)),
    "chunk of nobody": ("UPDATE chunks SET log = 99 WHERE first_t = 0 AND n > 9000", ("store", None)),
    "checkpoint of nobody": ("UPDATE checkpoints SET log = 99", ("store", None)),
    "value of nobody": ("INSERT INTO blobs (record) VALUES (x'00')", ("store", None)),
    "value missing": ("DELETE FROM blobs", ("values", "large")),
    "no value": ("UPDATE records SET blob = NULL WHERE key = 'large'", ("values", "large")),
    "two values": ("UPDATE records SET record = (SELECT record FROM records WHERE key = 'k') WHERE key = 'large'",
                   ("values", "large")),
    "record flipped": (f"UPDATE records SET record = {BEGUN.replace('body', 'record')} WHERE key = 'k'",
                       ("values", "k")),
    "record cut": ("UPDATE records SET record = substr(record, 1, 8) WHERE key = 'k'", ("values", "k")),
    "row flipped": (f"UPDATE hot SET body = {BEGUN} WHERE t = 1 AND log = " + LOG.format("hot"),
                    ("series", "hot")),
    "row empty": ("UPDATE hot SET body = x'' WHERE t = 1 AND log = " + LOG.format("hot"), ("series", "hot")),
    "rows gone": ("DELETE FROM hot WHERE log = " + LOG.format("hot"), ("series", "hot")),
    "log of another kind": ("UPDATE logs SET sealed = 1 - sealed WHERE key = 'hot'", ("series", "hot")),
    "chunk flipped": (f"UPDATE chunks SET body = {FLIPPED} WHERE first_t = 0 AND n > 9000", ("series", "many")),
    "words flipped": (f"UPDATE chunks SET body = {FLIPPED} WHERE n = 2000", ("series", "words")),
    "meta flipped": (f"UPDATE chunks SET meta = {FLIPPED.replace('body', 'meta')} WHERE n = 2000", ("series", "words")),
    "chunk counts wrong": ("UPDATE chunks SET n = n + 1 WHERE n = 2000", ("series", "words")),
    "chunk ends elsewhere": ("UPDATE chunks SET last_t = last_t + 1 WHERE n = 2000", ("series", "words")),
    "chunks overlap": ("UPDATE chunks SET last_t = 19999 WHERE first_t = 0 AND n > 9000", ("series", "many")),
    "change flipped": (f"UPDATE hot SET body = {BEGUN} WHERE t = 9 AND log = " + LOG.format("log"),
                       ("events", "log")),
    "change gone": ("DELETE FROM hot WHERE t = 9 AND log = " + LOG.format("log"), ("events", "log")),
    "first change gone": ("DELETE FROM hot WHERE t = 0 AND log = " + LOG.format("log"), ("events", "log")),
    "checkpoint flipped": (f"UPDATE checkpoints SET body = {FLIPPED}", ("events", "log")),
    "horizon flipped": (f"UPDATE logs SET facts = {FLIPPED.replace('body', 'facts')} WHERE key = 'short'",
                        ("events", "short")),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("key", [None, KEY], ids=["plain", "sealed"])
def test_each_kind_of_damage_is_found(path: Path, tmp_path: Path, key: str | None) -> None:
    fill(path, key)
    content = path.read_bytes()
    for name, (sql, expected) in DAMAGE.items():
        damaged = tmp_path / f"{name}.db"
        damaged.write_bytes(content)
        execute(damaged, sql)
        assert expected in findings(damaged, key), name
        # Only what is damaged.
        assert {found for found in findings(damaged, key) if found[0] != "store"} <= {
            expected,
            ("values", None),
            ("series", "many"),
        }, name


def test_what_is_whole_and_wrong_is_found(path: Path) -> None:
    """With right checksums: it was put there by somebody who knows the format, or by a mistake of ours."""
    fill(path)
    envelope = Envelope("default")
    rows = [Row(t, 0, b"\x10" + t.to_bytes(8, "little")) for t in range(2000)]
    meta = pack_meta(segment_of_rows(rows, changes=False))
    ((first_t, last_t, n),) = execute(path, "SELECT first_t, last_t, n FROM chunks WHERE n = 2000")
    sealed = envelope.seal_block(meta, envelope.where(Cell.META, "words"), at_run((first_t, 0), (last_t, 0), n))
    execute(path, ("UPDATE chunks SET meta = ? WHERE n = 2000", (sealed,)))
    assert findings(path) == [("series", "words")]

    path = path.with_name("other.db")
    fill(path)
    ((t, seq),) = execute(path, "SELECT t, seq FROM checkpoints")
    state = pack_state([("a", b"\x10" + bytes(8)), ("b", b"\x10" + bytes(8))], Tally(2, 0, 2))
    block = envelope.seal_block(state, envelope.where(Cell.CHECKPOINT, "log"), at_position(t, seq))
    execute(path, ("UPDATE checkpoints SET body = ?", (block,)))
    assert ("events", "log") in findings(path)

    change = pack_change(StoredChange(2, 0, 3, 2, [Step("nothing", "add", b"\x10" + bytes(8))]))
    execute(path, ("UPDATE hot SET body = ? WHERE t = 2 AND log = " + LOG.format("short"), (change,)))
    assert ("events", "short") in findings(path)


@pytest.mark.parametrize("serializer", ["pickle", "json", "msgpack"])
def test_what_was_cut_short_is_found(path: Path, serializer: Literal["pickle", "json", "msgpack"]) -> None:
    with Store(path, serializer=serializer, frozen=False) as store:
        store["k"] = store["whole"] = {"a": [1, 2]}
        store.extend("hot", (1, {"a": [1, 2]}))
        store.apply("log", {"a": [1, 2]}, 0)
        assert store.check() == []
        execute(path, "UPDATE records SET record = CAST(substr(record, 1, length(record) - 1) AS BLOB) WHERE key = 'k'")
        execute(path, "UPDATE hot SET body = CAST(substr(body, 1, length(body) - 1) AS BLOB)")
        assert {finding[:2] for finding in store.check()} == {("values", "k"), ("series", "hot"), ("events", "log")}
        with pytest.raises(StoreError):
            store.get("k")


def test_chunks_that_are_whole_and_overlap_are_found(path: Path, tmp_path: Path) -> None:
    for place, first in ((path, 0), (tmp_path / "other.db", 500)):
        with Store(place, frozen=False) as store:
            store.extend_many("s", ((t, t) for t in range(first, first + 2000)))
    execute(
        path,
        f"ATTACH '{tmp_path}/other.db' AS other",
        "INSERT INTO chunks (log, first_t, first_seq, last_t, last_seq, n, meta, body) "
        "SELECT log, first_t, first_seq, last_t, last_seq, n, meta, body FROM other.chunks",
    )
    with Store(path) as store:
        (finding,) = store.check()
    assert (finding.model, finding.key) == ("series", "s")
    assert "overlap" in finding.problem


def test_what_only_sqlite_sees_is_found(path: Path) -> None:
    with Store(path, frozen=False) as store:
        store.set("k", 1, ttl=1000)
    execute(
        path,
        "PRAGMA writable_schema = ON",
        "UPDATE sqlite_schema SET sql = replace(sql, 'ns, expires_ms', 'expires_ms, ns') WHERE name = 'records_expiry'",
    )
    with Store(path) as store:
        entries, schema = store.check()
    assert (entries.model, entries.key) == (schema.model, schema.key) == ("store", None)
    assert "missing from index" in entries.problem
    assert "'records_expiry' was changed" in schema.problem


def test_damaged_pages_are_found(path: Path, tmp_path: Path) -> None:
    fill(path)
    content = path.read_bytes()
    found = 0
    for page in range(1, len(content) // 4096, 3):
        damaged = tmp_path / "damaged.db"
        damaged.write_bytes(content[: page * 4096] + b"\xff" * 4096 + content[(page + 1) * 4096 :])
        try:
            found += findings(damaged) != []
        except StoreError:
            found += 1
    assert found > len(content) // 4096 // 3 * 0.9  # some were not in use


@pytest.mark.parametrize(("durability", "synchronous"), [("full", "FULL"), ("normal", "NORMAL")])
def test_durability_is_that_of_the_connection(
    path: Path, durability: Literal["full", "normal"], synchronous: str
) -> None:
    with Store(path, durability=durability, frozen=False) as store:
        told = store.durability()
        assert told[:4] == (True, durability == "full", True, False)
        assert told.settings == {"journal_mode": "wal", "synchronous": synchronous}
        store.discard()
        assert store.durability()[:4] == told[:4]  # of what is written next
        store["k"] = 1
    with Store(path) as frozen:
        assert frozen.durability().survives_power_cut is None


# -- backups ----------------------------------------------------------------------------------------------------------


def write_on(store: Store, who: int, stop: threading.Event, done: list[int]) -> None:
    for n in count(1):
        store[f"n{who}"] = n
        store.extend(f"s{who}", (n, n))
        store.apply(f"e{who}", {"n": n}, n)
        done[who] = n
        if stop.is_set():
            return


def check_moment(copy: Store, who: int) -> int:
    """Assert that what one writer has written is there up to one moment, and return up to where."""
    n = copy.get(f"n{who}", 0)
    points = copy.range(f"s{who}")
    events = [event.timestamp for event in copy.events(f"e{who}") or ()]
    assert points == [(t, t) for t in range(1, len(points) + 1)]
    assert events == list(range(1, len(events) + 1))
    assert n >= len(points) >= len(events) >= n - 1
    return int(n)


def test_a_backup_is_of_one_moment_while_others_write(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(maintenance, "_PAGES_A_STEP", 4)
    with Store(path, frozen=False, durability="normal") as store, Store(path, "other", frozen=False) as other:
        store.update({f"k{i}": b"x" * 900 for i in range(5000)})
        other["k"] = 1
        stop, done = threading.Event(), [0, 0]
        threads = [threading.Thread(target=write_on, args=(store, who, stop, done)) for who in range(2)]
        for thread in threads:
            thread.start()
        before = done.copy()
        store.backup(tmp_path / "copy.db")
        after = done.copy()
        stop.set()
        for thread in threads:
            thread.join()
        assert sum(after) > sum(before), "the writers stood still"
    with Store(tmp_path / "copy.db") as copy:
        assert copy.check() == []
        assert copy.count("k") == 5000
        for who in range(2):
            assert before[who] <= check_moment(copy, who) <= after[who] + 1
    with Store(tmp_path / "copy.db", "other") as copy:
        assert copy["k"] == 1


def test_a_backup_that_is_broken_off_leaves_nothing(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def break_off(_: object, __: str) -> bool:
        raise KeyboardInterrupt

    monkeypatch.setattr(SqliteMaintenance, "save", break_off)
    with Store(path, frozen=False) as store:
        with pytest.raises(KeyboardInterrupt):
            store.backup(tmp_path / "copy.db")
        assert list(tmp_path.glob("copy*")) == []


def test_a_backup_that_finds_no_room_says_whose_file_it_is(path: Path, tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    with Store(path, frozen=False) as store:
        store.update({f"k{i}": b"x" * 900 for i in range(1000)})
        handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, before[1]))
        try:
            with pytest.raises(StoreFullError, match=r"copy\.db"):
                store.backup(tmp_path / "copy.db")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
            signal.signal(signal.SIGXFSZ, handler)
        assert list(tmp_path.glob("copy*")) == []


def test_a_backup_beside_a_directory_that_is_gone(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gone").mkdir()
    with Store(path, frozen=False) as store:
        monkeypatch.chdir(tmp_path / "gone")
        (tmp_path / "gone").rmdir()
        with pytest.raises(StoreNotAvailableError, match="current directory is gone"):
            store.backup("copy.db")


@pytest.mark.parametrize("end", ["-wal", "-journal"])
def test_a_log_that_another_file_of_the_name_left_behind_is_not_taken_for_that_of_the_copy(
    path: Path, tmp_path: Path, end: str
) -> None:
    left = tmp_path / f"copy.db{end}"
    left.write_bytes(b"what SQLite would put into the copy")
    with Store(path, frozen=False) as store:
        with pytest.raises(InvalidValueError, match=end):
            store.backup(tmp_path / "copy.db")
        assert sorted(tmp_path.glob("copy.db*")) == [left]
        left.unlink()
        store.backup(tmp_path / "copy.db")
    with Store(tmp_path / "copy.db") as copy:
        assert copy.check() == []


def test_a_file_that_comes_up_meanwhile_is_not_replaced(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = SqliteMaintenance.save

    def meanwhile(self: SqliteMaintenance, made: str) -> bool:
        (tmp_path / "copy.db").write_text("mine")
        return save(self, made)

    monkeypatch.setattr(SqliteMaintenance, "save", meanwhile)
    with Store(path, frozen=False) as store, pytest.raises(InvalidValueError, match="there already"):
        store.backup(tmp_path / "copy.db")
    assert [one.read_text() for one in tmp_path.glob("copy*")] == ["mine"]


# -- space ------------------------------------------------------------------------------------------------------------


def test_vacuum_gives_space_back_and_harms_no_reader(path: Path) -> None:
    with Store(path, frozen=False, timeout=0.1, durability="normal") as store:
        store.extend_many("s", ((t, f"{t * t}") for t in range(100_000)))
        store.update({f"k{i}": b"x" * 900 for i in range(2000)})
        store.clear()
        with Store(path) as reader:
            batches = reader.batches("s", size=1000)
            first = next(batches)
            with pytest.raises(StoreBusyError, match="called again"):
                store.vacuum()
            assert len(store.range("s")) == 100_000
            read = len(first[0]) + sum(len(times) for times, _ in batches)
            assert read == 100_000
        size = path.stat().st_size
        done = store.vacuum()
        assert done.bytes is not None
        assert done.bytes > 1_000_000
        assert path.stat().st_size < size - 1_000_000
        assert len(store.range("s")) == 100_000
        assert store.check() == []
