"""Sequences changed in the file, behind the store's back: `verify` notices, by itself or by a digest kept elsewhere."""

from __future__ import annotations

import operator
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apsw
import pytest
from small import shrink

from rstore import CorruptionError, EncryptionError, HorizonError, Store, StoreError, TamperedError, generate_key
from rstore.backends.types import FIRST, LAST, Commit, Log, Model, ViewQuery
from rstore.codec.changes import Step, StoredChange, Tally, Tip, next_digest, pack_change
from rstore.events.checkpoints import open_checkpoint, seal_checkpoint
from rstore.events.heads import open_tip, seal_tip
from rstore.events.passage import Layout, passage
from rstore.events.state import Run
from rstore.log.packing import Logs
from rstore.log.writer import new_stamp

KEY = generate_key()
ALIKE = b"of the same length "
_LOG = "log = (SELECT id FROM logs WHERE key = 'k')"


@pytest.fixture(params=[None, KEY], ids=["plain", "sealed"])
def key(request: pytest.FixtureRequest) -> str | None:
    key: str | None = request.param
    return key


@pytest.fixture
def path(tmp_path: Path, key: str | None, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a file with a sequence that has chunks, hot rows among and behind them, and checkpoints."""
    shrink(monkeypatch.setattr)
    path = tmp_path / "store.db"
    with Store(path, frozen=False, key=key, durability="normal") as store:
        for t in range(0, 400, 10):
            store.apply("k", {"a": (operator.add, 1) if t else 0, f"{t % 4}": f"{ALIKE.decode()}{t:03}"}, t)
        for t in (15, 395, 401):
            store.apply("k", {"late": f"{t:03}"}, t)
        assert store.verify("k") == store.digest("k")
    for table, least in (("hot", 3), ("chunks", 4), ("checkpoints", 5)):
        [(n,)] = edit(path, f"SELECT count(*) FROM {table} WHERE {_LOG}")
        assert n >= least, table
    return path


def edit(path: Path, sql: str, *values: Any) -> list[Any]:
    connection = apsw.Connection(f"{path}")
    try:
        return [*connection.execute(sql, values)]
    finally:
        connection.close()


def flip(table: str, at: int, which: int = 0) -> Callable[[Path], None]:
    def work(path: Path) -> None:
        place, body = _bodies(path, table)[which]
        edited = bytearray(body)
        edited[at] ^= 1
        edit(path, f"UPDATE {table} SET body = ? WHERE {_LOG} AND {place}", bytes(edited))

    return work


def _bodies(path: Path, table: str) -> list[tuple[str, bytes]]:
    names = ("first_t", "first_seq") if table == "chunks" else ("t", "seq")
    found = edit(path, f"SELECT {names[0]}, {names[1]}, body FROM {table} WHERE {_LOG} ORDER BY 1, 2")
    return [(f"{names[0]} = {t} AND {names[1]} = {seq}", body) for t, seq, body in found]


def swap(table: str) -> Callable[[Path], None]:
    def work(path: Path) -> None:
        (one, body), (other, another), *_ = _bodies(path, table)
        edit(path, f"UPDATE {table} SET body = ? WHERE {_LOG} AND {one}", another)
        edit(path, f"UPDATE {table} SET body = ? WHERE {_LOG} AND {other}", body)

    return work


def drop(table: str, which: int) -> Callable[[Path], None]:
    def work(path: Path) -> None:
        place, _ = _bodies(path, table)[which]
        edit(path, f"DELETE FROM {table} WHERE {_LOG} AND {place}")

    return work


def move(path: Path) -> None:
    edit(path, f"UPDATE hot SET t = 402 WHERE {_LOG} AND t = 395")


def double(path: Path) -> None:
    edit(path, f"INSERT INTO hot SELECT log, 402, seq, body FROM hot WHERE {_LOG} AND t = 401")


def move_chunk(path: Path) -> None:
    [(rowid, t)] = edit(path, f"SELECT rowid, first_t FROM chunks WHERE {_LOG} ORDER BY first_t DESC LIMIT 1")
    edit(path, "UPDATE chunks SET first_t = ? WHERE rowid = ?", t + 1, rowid)


def empty_facts(path: Path) -> None:
    edit(path, "UPDATE logs SET facts = zeroblob(46) WHERE key = 'k'")


def flip_version(path: Path) -> None:
    [(version,)] = edit(path, "SELECT version FROM logs WHERE key = 'k'")
    edit(path, "UPDATE logs SET version = ? WHERE key = 'k'", version[:40] + bytes((version[40] ^ 1,)) + version[41:])


EDITS: dict[str, Callable[[Path], None]] = {
    "a hot row is edited": flip("hot", -1),
    "the last hot row is edited": flip("hot", -1, -1),  # behind all states that are kept
    "two hot rows are swapped": swap("hot"),
    "a hot row is moved": move,
    "a hot row is doubled": double,
    "the first hot row is dropped": drop("hot", 0),
    "the last hot row is dropped": drop("hot", -1),
    "a chunk is edited": flip("chunks", 200),
    "two chunks are swapped": swap("chunks"),
    "a chunk is moved": move_chunk,
    "the first chunk is dropped": drop("chunks", 0),
    "a chunk is dropped": drop("chunks", 1),
    "a kept state is edited": flip("checkpoints", -1),
    "two kept states are swapped": swap("checkpoints"),
    "the facts are others": empty_facts,
    "the head is edited": flip_version,
}


@pytest.mark.parametrize("change", EDITS.values(), ids=EDITS)
def test_what_is_edited_is_noticed(path: Path, key: str | None, change: Callable[[Path], None]) -> None:
    change(path)
    with Store(path, key=key) as store:
        with pytest.raises(CorruptionError if key is None else EncryptionError) as noticed:
            store.verify("k")
        assert "'k'" in f"{noticed.value}"


@pytest.mark.parametrize("some", [[5, 250], [operator.add]])
def test_an_iterator_is_not_taken_for_empty_where_what_it_asks_for_was_altered(
    path: Path, key: str | None, some: list[Any]
) -> None:
    for table in ("hot", "chunks"):
        for i, _ in enumerate(_bodies(path, table)):
            flip(table, -20, i)(path)
    for given in (some, iter(some)):
        with Store(path, key=key) as store, pytest.raises((TamperedError, CorruptionError)):
            store.events("k", ops=given) if operator.add in some else store.past("k", given)


def test_verify_joins_a_text_that_grew_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Store(tmp_path / "store.db", frozen=False, durability="normal") as store:
        store.apply_many(("k", t, {"text": (operator.concat, "x") if t else ""}) for t in range(500))
        joined: list[Run] = []
        whole = Run.whole

        def counted(run: Run) -> Any:
            joined.append(run)
            return whole(run)

        monkeypatch.setattr(Run, "whole", counted)
        assert store.verify("k") == store.digest("k")
        assert len(joined) < 50


def forge(path: Path, key: str | None, change: Callable[[list[StoredChange]], list[StoredChange]]) -> None:
    """Write other changes into a sequence, with all checksums, hashes and counts that go with them."""
    with Store(path, frozen=False, key=key, durability="normal") as store:
        logs: Logs = store._writer.events  # noqa: SLF001
        envelope = logs.envelope
        with logs.snapshot("k", FIRST, (2**63 - 1, 2**31 - 1)) as snapshot:
            view = snapshot.view
            assert view.head is not None
            head = view.head
            forged = change([*passage(logs, "k", snapshot)])
        layout, digest = Layout(logs, "k", head), Tip().digest
        for one in forged:
            layout.add(one)
        for one in sorted(forged, key=lambda one: one.n):
            digest = next_digest(digest, one.t, one.seq, pack_change(one), tagged=one.tag > 0)
        rows, chunks = layout.finish()
        tip = open_tip(envelope, "k", head)._replace(digest=digest, tally=Tally.of_all(forged))
        commit = Commit(
            version=seal_tip(envelope, "k", head, tip._replace(n=len(forged))),
            epoch=new_stamp(),
            drop_rows=view.rows,
            drop_chunks=[chunk.first for chunk in view.chunks],
            put_rows=rows,
            put_chunks=chunks,
            drop_checkpoints_from=FIRST,
        )
        assert store._writer.backend.commit(Log(Model.EVENTS, "k"), commit, logs.incarnation)  # noqa: SLF001


def edited(changes: list[StoredChange]) -> list[StoredChange]:
    step = changes[7].steps[-1]
    encoded = (step.encoded or b"").replace(ALIKE, ALIKE.upper())
    changes[7] = changes[7]._replace(steps=[*changes[7].steps[:-1], Step(step.item, step.op, encoded)])
    return changes


def swapped(changes: list[StoredChange]) -> list[StoredChange]:
    changes[7], changes[9] = changes[7]._replace(steps=changes[9].steps), changes[9]._replace(steps=changes[7].steps)
    return changes


def reordered(changes: list[StoredChange]) -> list[StoredChange]:
    changes[7], changes[9] = changes[7]._replace(n=changes[9].n), changes[9]._replace(n=changes[7].n)
    return changes


def dropped(changes: list[StoredChange]) -> list[StoredChange]:
    gone = changes.pop(7)
    return [change._replace(n=change.n - (change.n > gone.n)) for change in changes]


@pytest.mark.parametrize("change", [edited, swapped, reordered, dropped])
def test_a_forger_who_computes_all_hashes_is_noticed_by_a_digest(
    path: Path, key: str | None, change: Callable[[list[StoredChange]], list[StoredChange]]
) -> None:
    """In a sealed sequence only the holder of the key can do that."""
    with Store(path, key=key) as store:
        kept = store.digest("k")
    forge(path, key, change)
    with Store(path, key=key) as store:
        if change is not reordered:  # where the recorded times need not fit
            assert store.verify("k") == store.digest("k") != kept
        with pytest.raises(CorruptionError if key is None else TamperedError):
            store.verify("k", kept)


def test_a_forged_state_is_noticed(path: Path, key: str | None) -> None:
    """In a sealed sequence only the holder of the key can do that."""
    with Store(path, frozen=False, key=key, durability="normal") as store:
        logs: Logs = store._writer.events  # noqa: SLF001
        view = logs.view("k", ViewQuery(from_checkpoint=LAST))
        assert view.head is not None
        assert view.checkpoint is not None
        found = open_checkpoint(logs.envelope, store._writer.codec, "k", view.head, view.checkpoint, None)  # noqa: SLF001
        assert found is not None
        state, tally = found
        state.fold([Step("a", "setitem", store._writer.codec.encode(10**6))], None)  # noqa: SLF001
        at = view.checkpoint[:2]
        forged = seal_checkpoint(logs.envelope, "k", view.head, at, state, tally)
        assert logs.commit("k", Commit(put_checkpoints=[forged]), logs.incarnation)
    with Store(path, key=key) as store:
        assert store.past("k", 10**6)["a"] > 10**5  # type: ignore[index]  # no reader notices it
        with pytest.raises((CorruptionError, TamperedError), match="not what its changes come to"):
            store.verify("k")


def test_a_gap_is_noticed_where_the_hashes_fit(path: Path, key: str | None) -> None:
    forge(path, key, lambda changes: [change._replace(n=change.n + (change.n > 9)) for change in changes])
    with Store(path, key=key) as store, pytest.raises((CorruptionError, TamperedError), match="commit 10 is missing"):
        store.verify("k")


def test_a_recorded_time_that_goes_back_is_noticed(path: Path, key: str | None) -> None:
    forge(path, key, lambda changes: [one._replace(recorded=one.recorded - 10**6 * (one.n == 9)) for one in changes])
    with Store(path, key=key) as store, pytest.raises((CorruptionError, TamperedError), match="commit 9 was recorded"):
        store.verify("k")


def test_an_older_state_of_the_store_is_noticed_by_a_digest_alone(path: Path, key: str | None, tmp_path: Path) -> None:
    older = tmp_path / "older.db"
    shutil.copy(path, older)
    with Store(path, frozen=False, key=key) as store:
        store.apply("k", {"a": (operator.add, 1)})
        kept = store.digest("k")
    with Store(older, key=key) as store:
        assert store.verify("k") == store.digest("k")
        with pytest.raises(StoreError, match="before the digest was taken"):
            store.verify("k", kept)


@pytest.mark.parametrize("before", [None, 200])
def test_what_a_prune_left_is_guarded_as_well(path: Path, key: str | None, before: int | None) -> None:
    with Store(path, frozen=False, key=key) as store:
        older = store.digest("k")
        store.prune("k", before=before)
        kept = store.digest("k")
        store.apply("k", {"a": (operator.add, 1)}, 500)
        assert store.verify("k", kept) == store.digest("k")
        with pytest.raises(HorizonError):
            store.verify("k", older)
    for change in (swap("chunks"), drop("chunks", 0), drop("hot", -1)):
        copy = path.with_name("copy.db")
        shutil.copy(path, copy)
        change(copy)
        with Store(copy, key=key) as store, pytest.raises((TamperedError, CorruptionError)):
            store.verify("k")


def test_a_sealed_sequence_that_is_replaced_by_a_plain_one(path: Path, key: str | None) -> None:
    if key is None:
        return
    with Store(path, "other", frozen=False, durability="normal") as store:
        store.apply("k", {"a": 1})
    edit(path, "UPDATE logs SET key = 'old' WHERE sealed")
    edit(path, "UPDATE logs SET ns = (SELECT ns FROM logs WHERE key = 'old') WHERE key = 'k'")
    with Store(path, key=key) as store, pytest.raises(StoreError, match="encrypted"):
        store.verify("k")


def test_a_sequence_whose_name_is_no_text_is_a_named_error(tmp_path: Path) -> None:
    with Store(tmp_path / "store.db", frozen=False) as store:
        store.apply("k", {"a": 1})
    edit(tmp_path / "store.db", "UPDATE logs SET key = CAST(x'ff' AS TEXT)")
    with Store(tmp_path / "store.db") as store, pytest.raises(CorruptionError, match="is damaged"):
        store.follow()
