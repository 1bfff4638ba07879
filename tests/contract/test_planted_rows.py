"""Rows and chunks that a database writer puts into a log are refused, and do no harm afterwards.

A planted chunk is one that the log once had: it opens under the key, at its own place.
"""

from __future__ import annotations

import operator
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import pytest

from rstore import CorruptionError, PlaintextError, Store, StoreError, TamperedError
from rstore.backends.types import FIRST, Chunk, Commit, Head, Log, Model, Row, ViewQuery
from rstore.codec.chunk_meta import pack_meta
from rstore.codec.chunks import pack_chunk
from rstore.codec.envelope import Cell, at_run
from rstore.codec.segments import Segment
from rstore.log.reader import mark_of
from rstore.testing.flavours import pickled, plain, sealed
from rstore.testing.suite import Opener, Suite, about

_POINTS: Final = 40_000
_CHANGES: Final = 300
_ADDED: Final = {"n": (operator.add, 1)}

SERIES_VERBS: Final[dict[str, Callable[[Store], Any]]] = {
    "range": lambda s: s.range("s"),
    "range from": lambda s: s.range("s", 1, n=39_000),
    "range freq": lambda s: s.range("s", freq=7),
    "range_many": lambda s: s.range_many(["s"]),
    "range_columns": lambda s: s.range_columns("s"),
    "batches": lambda s: list(s.batches("s")),
    "tail": lambda s: s.tail("s", 39_000),
    "span": lambda s: s.span("s"),
    "resample": lambda s: s.resample("s", 10**6, ["sum", "count", "mean", "std", "twa"]),
    "resample median": lambda s: s.resample("s", 10**6, "median"),
    "missing": lambda s: s.missing("s", 0, 50_000, freq=1),
    "iscomplete": lambda s: s.iscomplete("s", 0, 39_999, freq=1),
    "gaps": lambda s: s.gaps("s", freq=1),
    "at": lambda s: s.at("s", list(range(0, 39_999, 100)), "linear"),
    "replace_range": lambda s: s.replace_range("s", [(100, 1)], 1, 39_000),
    "remove": lambda s: s.remove("s", start=1, end=39_000),
    "extend_many": lambda s: s.extend_many("s", ((t, 9) for t in range(1, 39_000))),
    "compact": lambda s: s.compact("s"),
}
EVENT_VERBS: Final[dict[str, Callable[[Store], Any]]] = {
    "current": lambda s: s.current("e"),
    "past": lambda s: s.past("e", 250),
    "events": lambda s: s.events("e"),
    "apply": lambda s: s.apply("e", _ADDED),
    "apply in the past": lambda s: s.apply("e", _ADDED, 155),
    "undo": lambda s: s.undo("e", 200),
    "revert": lambda s: s.revert("e", 155),
    "apply_many": lambda s: s.apply_many([("e", 10**15, _ADDED)]),
    "apply_many in the past": lambda s: s.apply_many([("e", 155, _ADDED)]),
    "prune": lambda s: s.prune("e"),
}


LIES: Final[dict[str, Callable[[Chunk], Chunk]]] = {
    "more rows than there is room for": lambda chunk: chunk._replace(n=chunk.n + 1),
    "more rows than a chunk has": lambda chunk: chunk._replace(last=(2**40, 0), n=2**31 - 1),
    "one row, from here to there": lambda chunk: chunk._replace(n=1),
    "sequence numbers": lambda chunk: chunk._replace(last=(chunk.last[0], 1)),
    "its end before its begin": lambda chunk: chunk._replace(last=(-5, 0)),
}
"""The chunk of 3,000 points from 0 on, and what is wrong with it."""


def _segment(store: Store, model: Model, key: str) -> Segment:
    """Return all rows of a log that is in one chunk, or the first chunk of several."""
    session = store._writer
    logs = session.series if model is Model.SERIES else session.events
    return next(logs.read(key, ViewQuery()))


def _seal(store: Store, model: Model, key: str, rows: Segment, *, claim: Segment | None = None) -> Chunk:
    """Return rows as a chunk, which says that it is one of `claim`."""
    claim = claim or rows
    first, last, n = claim.position(0), claim.position(len(claim) - 1), len(claim)
    session = store._writer
    head = (session.series if model is Model.SERIES else session.events).view(key, ViewQuery(limit=1)).head
    envelope, place = session.envelope, at_run(first, last, n) + mark_of(model, head)
    series = model is Model.SERIES
    body = envelope.seal_block(pack_chunk(rows), envelope.where(Cell.POINTS if series else Cell.CHANGES, key), place)
    meta = envelope.seal_block(pack_meta(claim), envelope.where(Cell.META, key), place) if series else b""
    return Chunk(first, last, n, meta, body)


def _commit(store: Store, model: Model, key: str, commit: Commit) -> None:
    session = store._writer
    assert session.backend.commit(Log(model, key), commit, session.incarnation)


def _fill(store: Store) -> None:
    store.extend_many("s", ((t, t % 100) for t in range(_POINTS)))
    store.apply("e", {"n": 0}, 0)
    for t in range(1, _CHANGES):
        store.apply("e", _ADDED, t)
    events = store._writer.events
    events.pack("e", events.view("e", ViewQuery(bodies=False)))


def _plant(opener: Opener, model: Model, key: str, start: int, stop: int) -> Chunk:
    """Put a part of a log's rows into it once more, as a chunk of their own."""
    with opener() as store:
        rows = _segment(store, model, key)
        planted = _seal(store, model, key, rows.slice(start, stop))
        _commit(store, model, key, Commit(put_chunks=[planted], drop_checkpoints_from=FIRST))
    return planted


def _uproot(opener: Opener, model: Model, key: str, commit: Commit) -> None:
    with opener() as store:
        _commit(store, model, key, commit)


def _refuses_all(opener: Opener, verbs: dict[str, Callable[[Store], Any]], key: str) -> None:
    model = "series" if key == "s" else "events"
    with opener() as store:  # another one than that which wrote it, and may know the state
        for name, verb in verbs.items():
            with about(name), pytest.raises(_error(opener), match=repr(key)):
                verb(store)
        found = store.check()
        assert found
        assert {(one.model, one.key) for one in found} == {(model, key)}


def _error(opener: Opener) -> type[StoreError]:
    return CorruptionError if opener.flavour.key is None else TamperedError


class PlantingSuite(Suite):
    """Rows and chunks that are in a log and do not belong there."""

    @pickled
    def test_points_are_not_counted_twice(self, opener: Opener) -> None:
        with opener() as store:
            _fill(store)
            before = store.range("s")
        planted = _plant(opener, Model.SERIES, "s", 100, 5000)
        _refuses_all(opener, SERIES_VERBS, "s")
        _uproot(opener, Model.SERIES, "s", Commit(drop_chunks=[planted.first]))
        with opener(frozen=True) as frozen:
            assert frozen.range("s") == before
            assert frozen.check() == []

    @pickled
    def test_changes_are_not_applied_twice_and_no_checkpoint_keeps_what_they_would_come_to(
        self, opener: Opener
    ) -> None:
        with opener() as store:
            _fill(store)
        planted = _plant(opener, Model.EVENTS, "e", 100, 200)
        _refuses_all(opener, EVENT_VERBS, "e")
        with opener() as store:
            for _ in range(200):
                with pytest.raises(_error(opener)):
                    store.apply("e", _ADDED)
        _uproot(opener, Model.EVENTS, "e", Commit(drop_chunks=[planted.first]))
        with opener(frozen=True) as frozen:
            assert frozen.current("e") == {"n": _CHANGES - 1}
            assert len(frozen.events("e") or ()) == _CHANGES
            assert frozen.check() == []

    @pickled
    def test_a_point_has_no_sequence_number(self, opener: Opener) -> None:
        with opener() as store:
            store.extend("s", (0, 10), (2, 20))
            session = store._writer
            view = session.series.view("s")
            copies = [Row(t, 1, body) for t, _, body in view.rows]
            assert view.head is not None
            assert session.backend.append(Log(Model.SERIES, "s"), view.head, copies, session.incarnation)
        elsewhere = {"range from", "replace_range", "remove", "extend_many"}
        few = {name: verb for name, verb in SERIES_VERBS.items() if name not in elsewhere}
        _refuses_all(opener, few | {"last": lambda s: s.last("s"), "latest": lambda s: s.latest("s")}, "s")
        _uproot(opener, Model.SERIES, "s", Commit(drop_rows=copies))
        with opener(frozen=True) as frozen:
            assert frozen.range("s") == [(0, 10), (2, 20)]
            assert frozen.check() == []

    @pickled
    @pytest.mark.parametrize("lie", LIES.values(), ids=LIES)
    def test_a_chunk_that_is_impossible(self, opener: Opener, lie: Callable[[Chunk], Chunk]) -> None:
        with opener() as store:
            store.extend_many("s", ((t, t) for t in range(3000)))
            (true,) = store._writer.series.view("s").chunks
            _commit(store, Model.SERIES, "s", Commit(drop_chunks=[true.first], put_chunks=[lie(true)]))
        with opener() as store:
            for verb in (lambda: store.range("s"), lambda: store.span("s"), lambda: store.compact("s")):
                with pytest.raises((CorruptionError, TamperedError)):
                    verb()
            assert {found.key for found in store.check()} == {"s"}

    @plain
    @pytest.mark.parametrize("kind", ["longer than it says", "shifted", "in reverse", "the same time twice"])
    def test_a_chunk_whose_rows_are_others_than_it_says(self, opener: Opener, kind: str) -> None:
        with opener() as store:
            store.extend_many("s", ((t, t) for t in range(3000)))
            rows = _segment(store, Model.SERIES, "s")
            t = rows.t.copy()
            if kind == "longer than it says":
                t[-1] += 1
            elif kind == "shifted":
                t += 1
            elif kind == "in reverse":
                t[1:-1] = t[1:-1][::-1].copy()
            else:
                t[10] = t[11]
            planted = _seal(store, Model.SERIES, "s", Segment(t, None, rows.column), claim=rows)
            _commit(store, Model.SERIES, "s", Commit(drop_chunks=[(0, 0)], put_chunks=[planted]))
        with opener() as store:
            if kind in ("longer than it says", "shifted"):
                for name in ("range", "range_columns", "remove"):
                    with about(name), pytest.raises(CorruptionError, match="'s'"):
                        SERIES_VERBS[name](store)
            assert {found.key for found in store.check()} == {"s"}
            for name, use in SERIES_VERBS.items():  # a checksum that was computed anew vouches for the order of rows
                with about(name), suppress(StoreError):
                    use(store)

    @sealed
    def test_what_was_removed_with_its_series_cannot_be_put_back(self, opener: Opener) -> None:
        with opener() as store:
            _fill(store)
            old = store._writer.series.view("s").chunks
            store.remove("s")
            store.extend_many("s", ((t, 1) for t in range(2000)))
            _commit(store, Model.SERIES, "s", Commit(put_chunks=old[1:]))
        with opener() as store:
            after = {"last": lambda s: s.last("s"), "latest": lambda s: s.latest("s"), "tail": lambda s: s.tail("s", 1)}
            for name, verb in (after | {name: SERIES_VERBS[name] for name in ("range", "span", "resample")}).items():
                with about(name), pytest.raises(TamperedError):
                    verb(store)
            assert {found.key for found in store.check()} == {"s"}
        _uproot(opener, Model.SERIES, "s", Commit(drop_chunks=[chunk.first for chunk in old[1:]]))
        with opener(frozen=True) as frozen:
            assert frozen.range("s") == [(t, 1) for t in range(2000)]
            assert frozen.check() == []

    @sealed
    @pytest.mark.parametrize("kind", ["row", "chunk", "checkpoint"])
    def test_what_was_pruned_away_cannot_be_put_back(self, opener: Opener, kind: str) -> None:
        with opener() as store:
            for t in range(_CHANGES):
                store.apply("e", {"n": t} if t % 100 == 0 else _ADDED, t)
            session = store._writer
            if kind == "chunk":
                session.events.pack("e", session.events.view("e", ViewQuery(bodies=False)))
            old = session.events.view("e")
            states = list(session.backend.checkpoints(Log(Model.EVENTS, "e")))
            assert store.prune("e") == 200
            planted = {
                "row": Commit(put_rows=old.rows[100:101]),
                "chunk": Commit(put_chunks=old.chunks),
                "checkpoint": Commit(drop_checkpoints_from=FIRST, put_checkpoints=states[:1]),
            }[kind]
            _commit(store, Model.EVENTS, "e", planted)
        with opener() as store:
            for name in ["events"] if kind == "row" else ["current", "apply"]:  # the row lies before a checkpoint
                with about(name), pytest.raises(TamperedError):
                    EVENT_VERBS[name](store)
            assert {found.key for found in store.check()} == {"e"}

    @sealed
    @pytest.mark.parametrize("kind", ["a row", "some rows", "a chunk", "a stale checkpoint", "the version"])
    def test_a_sequence_of_which_changes_are_missing_is_refused(self, opener: Opener, kind: str) -> None:
        with opener() as store:
            store.apply("e", {"n": 0}, 0)
            for t in range(1, _CHANGES):
                store.apply("e", _ADDED, t * 10)
            session = store._writer
            log = Log(Model.EVENTS, "e")
            stale = next(session.backend.checkpoints(log))
            store.apply("e", _ADDED, 15)
            if kind == "a chunk":
                session.events.pack("e", session.events.view("e", ViewQuery(bodies=False)))
            view = session.events.view("e")
            assert view.head is not None
            newest = next(session.backend.checkpoints(log))
            behind = [row for row in view.rows if (row.t, row.seq) > (newest.t, newest.seq)]
            planted = {
                "a row": Commit(drop_rows=(behind or view.rows)[1:2], drop_checkpoints_from=FIRST),
                "some rows": Commit(drop_rows=view.rows[1:50], drop_checkpoints_from=FIRST),
                "a chunk": Commit(drop_chunks=[chunk.first for chunk in view.chunks], drop_checkpoints_from=FIRST),
                "a stale checkpoint": Commit(drop_checkpoints_from=FIRST, put_checkpoints=[stale]),
                "the version": Commit(version=b"of one's own"),
            }[kind]
            _commit(store, Model.EVENTS, "e", planted)
        with opener() as store:
            for name in (
                "current",
                "apply",
                "apply in the past",
                *(["events"] if kind != "a stale checkpoint" else []),
            ):
                with about(name), pytest.raises((TamperedError, PlaintextError)):
                    EVENT_VERBS[name](store)
            assert {found.key for found in store.check()} == {"e"}
        _uproot(
            opener, Model.EVENTS, "e",
            Commit(
                version=view.head.version, put_rows=planted.drop_rows, drop_checkpoints_from=FIRST,
                put_chunks=view.chunks if kind == "a chunk" else (),
            ),
        )  # fmt: skip
        with opener() as store:
            assert store.current("e") == {"n": _CHANGES}
            assert store.apply("e", _ADDED) == {"n": _CHANGES + 1}
            assert store.check() == []

    @sealed
    @pytest.mark.parametrize("kind", ["in the middle", "of another branch"])
    def test_a_sequence_with_an_older_version_and_changes_that_were_never_all_it_had(
        self, opener: Opener, kind: str
    ) -> None:
        """As many changes as the version tells of, and not those."""
        with opener() as store:
            for t, amount in enumerate((100, -80)):
                store.apply("e", {"n": amount} if t == 0 else {"n": (operator.add, amount)}, t)
            older = store._writer.events.view("e").head
            store.apply("e", _ADDED, 2)
            first, second, third = store._writer.events.view("e").rows
            assert older is not None
            _commit(store, Model.EVENTS, "e", Commit(version=older.version, drop_rows=[third]))
        with opener() as store:
            assert store.current("e") == {"n": 20}  # as it once was
            if kind == "of another branch":
                store.apply("e", {"n": (operator.mul, 2)}, 3)
            _commit(store, Model.EVENTS, "e", Commit(drop_rows=[second], put_rows=[third]))
        with opener() as store:
            for name in ("current", "events", "apply", "apply in the past", "prune"):
                with about(name), pytest.raises(TamperedError):
                    EVENT_VERBS[name](store)
            assert {found.key for found in store.check()} == {"e"}
            _commit(store, Model.EVENTS, "e", Commit(drop_rows=[third], put_rows=[first, second]))
        with opener() as store:
            assert store.current("e") == {"n": 40 if kind == "of another branch" else 20}
            assert store.check() == []

    @plain
    @pytest.mark.parametrize("facts", [b"", b"x", b"\xff" * 8, b"z" * 100])
    def test_a_lease_that_lasts_for_ever_is_taken_over(self, opener: Opener, facts: bytes) -> None:
        with opener() as store:
            head = Head(bytes(16), bytes(16), sealed=False, facts=facts)
            _commit(store, Model.LEASES, "k", Commit(create=head, if_version=None))
            assert store.get_or_set("k", lambda: 5) == 5


class TestMemory(PlantingSuite):
    @pytest.fixture
    def dsn(self) -> str:
        return f"memory://{uuid.uuid4()}"


class TestSqlite(PlantingSuite):
    @pytest.fixture
    def dsn(self, tmp_path: Path) -> str:
        return f"sqlite://{tmp_path}/store.db"


class TestPostgresql(PlantingSuite):
    @pytest.fixture
    def dsn(self, postgresql_dsn: str) -> str:
        return postgresql_dsn


class TestRedis(PlantingSuite):
    @pytest.fixture
    def dsn(self, redis_dsn: str) -> str:
        return redis_dsn


class TestRedisCluster(PlantingSuite):
    @pytest.fixture
    def dsn(self, redis_cluster_dsn: str) -> str:
        return f"{redis_cluster_dsn}?buckets=16"
