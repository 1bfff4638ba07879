"""Calls of the contract as data, so that the same can be asked of two backends, inside of a transaction or not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, TypeAlias

import pytest
from backends import make_backend
from hypothesis import strategies as st

from rstore.backends.contract import Backend, WriteTransaction
from rstore.backends.types import (
    ANY,
    FIRST,
    HEAD_ONLY,
    KEEP,
    LAST,
    Chunk,
    Commit,
    Head,
    Log,
    Model,
    Options,
    Position,
    Row,
    ScanQuery,
    View,
    ViewQuery,
    Write,
    version_of,
)

WRITABLE = Options(frozen=False, durability="normal", timeout_s=5)
HEAD = Head(b"e" * 16, b"v" * 16, sealed=False)
KEYS = ["a", "ab", "b", "c", "é", "\U0001f600"]
LOG = Log(Model.EVENTS, "log")
OTHER = Log(Model.EVENTS, "other")
LOGS = [Log(Model.SERIES, "s"), Log(Model.SERIES, "t"), Log(Model.EVENTS, "s")]

Work: TypeAlias = Callable[[WriteTransaction], object]

keys = st.sampled_from(KEYS)
stops = st.none() | keys
ttls = st.none() | st.just(100_000)
positions = st.tuples(st.integers(-6, 6), st.integers(0, 2))
ends = positions | st.sampled_from([FIRST, LAST])
ranges = st.tuples(ends, ends).map(lambda pair: tuple(sorted(pair)))
logs = st.sampled_from(LOGS)
rows = st.lists(st.builds(Row, st.integers(-6, 6), st.integers(0, 2), st.sampled_from([b"x", b"yy"])), max_size=4)


@st.composite
def views(draw: st.DrawFn) -> dict[str, Any]:
    limit = draw(st.none() | st.integers(1, 4))
    from_checkpoint = draw(st.none() | ends)
    return {
        "limit": limit,
        "reverse": limit is not None and draw(st.booleans()),
        "rows": draw(st.booleans()),
        "bodies": draw(st.booleans()),
        "neighbours": limit is None and from_checkpoint is None and draw(st.booleans()),
        "from_checkpoint": from_checkpoint,
    }


reads = st.one_of(
    st.tuples(st.just("get"), keys),
    st.tuples(st.just("has"), keys),
    st.tuples(st.just("fetch"), st.lists(keys, unique=True)),
    st.tuples(st.just("count"), st.just("") | keys, stops),
    st.tuples(
        st.just("scan"), st.just("") | keys, stops, st.integers(1, 4), st.booleans(), st.booleans(), st.none() | keys
    ),
    st.tuples(st.just("view"), logs, ranges, views()),
    st.tuples(st.just("views"), ranges, st.none() | st.integers(1, 3), st.booleans()),
    st.tuples(st.just("log_snapshot"), logs, ranges),
    st.tuples(st.just("logs"), st.sampled_from([Model.SERIES, Model.EVENTS])),
    st.tuples(st.just("same version"), logs),
)
writes = st.one_of(
    st.tuples(
        st.just("write"), st.lists(st.tuples(keys, st.booleans(), ttls), min_size=1, unique_by=lambda one: one[0])
    ),
    st.tuples(
        st.just("write_if"), keys, st.sampled_from(["right", "wrong", "absent"]), st.sampled_from([None, 9, KEEP])
    ),
    st.tuples(st.just("touch"), keys, ttls),
    st.tuples(st.just("delete"), st.lists(keys)),
    st.tuples(st.just("delete_range"), keys, stops),
    st.tuples(st.just("clear")),
    st.tuples(st.just("append"), logs, st.sampled_from([False, False, False, True]), rows),
    st.tuples(st.just("commit"), logs, st.sampled_from(["any", "epoch", "version", "none"]), rows, st.booleans()),
    st.tuples(st.just("rewrite"), logs, ranges, st.booleans()),
    st.tuples(st.just("checkpoint"), logs, positions, st.none() | positions),
    st.tuples(st.just("drop"), logs, st.booleans()),
)
calls: st.SearchStrategy[Any] = st.recursive(
    reads | writes, lambda inner: st.tuples(st.just("block"), st.lists(inner, max_size=5), st.booleans()), max_leaves=8
)


class Caller:
    """Makes calls of one backend. What a call is to draw at random is counted, so that two of them draw the same."""

    def __init__(self, backend: WriteTransaction) -> None:
        self.backend = backend
        self._n = 0

    def _stamp(self) -> bytes:
        self._n += 1
        return self._n.to_bytes(16, "big")

    def _record(self) -> bytes:
        return b"\x01" + self._stamp()[8:] + b"value"

    def make(self, call: Sequence[Any]) -> Any:
        """Make a call and return what two backends must agree on."""
        name, *arguments = call
        method = getattr(self, "_" + name.replace(" ", "_"), None)
        return getattr(self.backend, name)(*arguments) if method is None else method(*arguments)

    def everything(self) -> Any:
        """Return all that there is."""
        return (
            [(key, one, expires_ms is None) for key, one, expires_ms in self.backend.scan(ScanQuery(100)).records],
            [self.make(("logs", model)) for model in (Model.SERIES, Model.EVENTS)],
            [
                self.make(("view", log, (FIRST, LAST), {"from_checkpoint": until}))
                for log in LOGS
                for until in (None, LAST)
            ],
        )

    def _block(self, inner: Sequence[Any], fails: bool, look: Callable[[], None] = lambda: None) -> Any:
        results: list[Any] = []
        outer = self.backend
        try:
            with suppress(ZeroDivisionError), outer.transaction() as self.backend:
                results += map(self.make, inner)
                look()
                if fails:
                    raise ZeroDivisionError
        finally:
            self.backend = outer
        return results

    def _fetch(self, some: Sequence[str]) -> Any:
        return sorted((key, one, expires_ms is None) for key, one, expires_ms in self.backend.fetch(some))

    def _scan(self, start: str, stop: str | None, limit: int, reverse: bool, keys_only: bool, after: str | None) -> Any:
        found: list[Any] = []
        while True:
            page = self.backend.scan(ScanQuery(limit, start, stop, after, reverse, keys_only))
            assert len(page.records) == limit or not page.more
            found += ((key, one, expires_ms is None) for key, one, expires_ms in page.records)
            if not page.more:
                return found
            after = found[-1][0]

    def _view(self, log: Log, span: tuple[Position, Position], ask: dict[str, Any]) -> Any:
        return _timeless(self.backend.view(log, ViewQuery(*span, **ask)))

    def _views(self, span: tuple[Position, Position], limit: int | None, reverse: bool) -> Any:
        reverse = reverse and limit is not None
        return list(map(_timeless, self.backend.views(LOGS, ViewQuery(*span, limit, reverse))))

    def _log_snapshot(self, log: Log, span: tuple[Position, Position]) -> Any:
        with self.backend.log_snapshot(log, *span) as snapshot:
            return _timeless(snapshot.view), snapshot.bodies(snapshot.view.chunks)

    def _same_version(self, log: Log) -> Any:
        head = self.backend.view(log).head
        return head and _timeless(self.backend.view(log, ViewQuery(unless_version=head.version)))

    def _write(self, some: Sequence[tuple[str, bool, int | None]]) -> Any:
        writes = [Write(key, self._record() if puts else None, ttl_ms if puts else None) for key, puts, ttl_ms in some]
        return self.backend.write(writes, self.backend.create())

    def _write_if(self, key: str, which: str, ttl_ms: Any) -> Any:
        record = self.backend.get(key)
        if ttl_ms is KEEP and (record is None or which != "right"):
            ttl_ms = None
        right = None if record is None else version_of(record)
        version = {"right": right, "wrong": b"wrong", "absent": None}[which]
        ttl_ms = 100_000 if ttl_ms == 9 else ttl_ms
        return self.backend.write_if(Write(key, self._record(), ttl_ms), version, self.backend.create())

    def _append(self, log: Log, sealed: bool, some: Sequence[Row]) -> Any:
        head = Head(self._stamp(), self._stamp(), sealed=sealed)
        return self.backend.append(log, head, some or [Row(0, 0, b"x")], self.backend.create())

    def _commit(self, log: Log, condition: str, some: Sequence[Row], creates: bool) -> Any:
        head = self.backend.view(log, HEAD_ONLY).head or HEAD
        commit = Commit(
            create=Head(self._stamp(), self._stamp(), sealed=False, facts=b"new") if creates else None,
            if_epoch={"epoch": head.epoch, "none": None}.get(condition, ANY),
            if_version=head.version if condition == "version" else ANY,
            version=self._stamp(),
            facts=b"facts" if creates else None,
            put_rows=some,
        )
        return self.backend.commit(log, commit, self.backend.create())

    def _rewrite(self, log: Log, span: tuple[Position, Position], puts: bool) -> Any:
        view = self.backend.view(log, ViewQuery(*span))
        marks = [(row.t, row.seq) for row in view.rows]
        marks += [mark for chunk in view.chunks for mark in (chunk.first, chunk.last)]
        body = self._stamp()
        commit = Commit(
            if_epoch=None if view.head is None else view.head.epoch,
            epoch=body,
            drop_rows=[*view.rows, Row(7, 7, b"never there")],
            drop_chunks=[chunk.first for chunk in view.chunks],
            put_chunks=[Chunk(min(marks), max(marks), len(marks), b"meta", body)] if marks and puts else [],
            drop_if_empty=True,
        )
        return self.backend.commit(log, commit, self.backend.create())

    def _checkpoint(self, log: Log, at: Position, drop_from: Position | None) -> Any:
        commit = Commit(put_checkpoints=[Row(*at, self._stamp())], drop_checkpoints_from=drop_from)
        return self.backend.commit(log, commit, self.backend.create())

    def _drop(self, log: Log, right: bool) -> Any:
        head = self.backend.view(log, HEAD_ONLY).head
        return self.backend.drop(log, if_version=head.version if right and head else b"wrong" if right else ANY)


def _timeless(view: View) -> View:
    return view._replace(now_ms=0, rows=[*view.rows], chunks=[*view.chunks])


def record(stamp: int) -> bytes:
    return b"\x01" + stamp.to_bytes(8, "big") + b"x"


def opened(dsn: str, options: Options = WRITABLE) -> Backend:
    backend = make_backend(dsn, "default", options)
    backend.open()
    return backend


def put(backend: WriteTransaction, key: str, stamp: int, ttl_ms: int | None = None) -> None:
    backend.write([Write(key, record(stamp), ttl_ms)], backend.create())


def append(backend: WriteTransaction, log: Log, t: int) -> None:
    assert backend.append(log, HEAD, [Row(t, 0, b"%d" % t)], backend.create())


def rewrite(backend: WriteTransaction, log: Log) -> None:
    """Turn the rows of a log into a chunk."""
    rows = backend.view(log).rows
    chunk = Chunk((rows[0].t, 0), (rows[-1].t, 0), len(rows), b"meta", b"body")
    commit = Commit(if_epoch=HEAD.epoch, epoch=b"n" * 16, drop_rows=rows, put_chunks=[chunk])
    assert backend.commit(log, commit, backend.create())


def seed(backend: WriteTransaction) -> None:
    put(backend, "k", 1)
    put(backend, "l", 2)
    append(backend, LOG, 1)
    append(backend, LOG, 2)
    rewrite(backend, LOG)
    append(backend, LOG, 3)


def transact(backend: WriteTransaction, *steps: Work) -> None:
    """Do some steps in one transaction."""
    with backend.transaction() as inside:
        for step in steps:
            step(inside)


def fail(why: str) -> Work:
    return lambda _: pytest.fail(why)
