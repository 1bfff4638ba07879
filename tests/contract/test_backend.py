"""The contract of backends, below the public verbs: what the layers above ask for, compared with the reference."""

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from backends import make_backend
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rstore.backends.contract import Backend, ReadTransaction
from rstore.backends.types import (
    FIRST,
    HEAD_BYTES,
    IDS_HEAD,
    KEEP,
    LAST,
    MAX_SEQ,
    MIN_INT64,
    Chunk,
    Commit,
    Head,
    Log,
    Model,
    NamespaceGone,
    Options,
    Position,
    RolledBack,
    Row,
    ScanQuery,
    View,
    ViewQuery,
    Write,
    ids_of,
    version_of,
)

WRITABLE = Options(frozen=False, durability="normal", timeout_s=5)
SERIES = Log(Model.SERIES, "s")
HEAD = Head(b"e" * 16, b"v" * 16, sealed=False)


_SERVERS = {
    "postgresql": "{postgresql_dsn}",
    "redis": "{redis_dsn}",
    "redis in buckets": "{redis_dsn}?buckets=256",
    "redis+cluster": "{redis_cluster_dsn}",
}


def _dsn(name: str, request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if name in _SERVERS:
        fixture = _SERVERS[name][1:].partition("}")[0]
        return _SERVERS[name].format(**{fixture: request.getfixturevalue(fixture)})
    return "memory://contract" if name == "memory" else str(tmp_path / "contract.db")


@pytest.fixture(params=["memory", "sqlite", *_SERVERS])
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Backend]:
    backend = make_backend(_dsn(request.param, request, tmp_path), "default", WRITABLE)
    backend.open()
    yield backend
    backend.discard()
    backend.close()


def record(stamp: int, size: int = 1) -> bytes:
    return b"\x01" + stamp.to_bytes(8, "big") + b"x" * size


@pytest.fixture
def pass_ms(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Let time pass: where the clock is this process's by moving it, on a server by waiting."""
    if type(backend).__name__ not in ("MemoryBackend", "SqliteBackend"):
        return lambda ms: time.sleep(ms / 1000)
    now_s = [1_000_000.0]
    monkeypatch.setattr("time.time", lambda: now_s[0])

    def step(ms: int) -> None:
        now_s[0] += ms / 1000

    return step


def test_an_expired_record_is_absent_for_every_method(backend: Backend, pass_ms: Callable[[int], None]) -> None:
    incarnation = backend.create()
    backend.write(
        [
            Write("kept", record(1), 400),
            Write("gone", record(2), 400),
            Write("soon", record(3), 100_000),
            Write("k", record(9), 400),
        ],
        incarnation,
    )
    backend.write([Write("large", record(4, 5000), 400)], incarnation)
    assert backend.write_if(Write("k", record(8), KEEP), version_of(record(9)), incarnation)
    assert backend.write_if(Write("new", record(7), 400), None, incarnation)
    assert backend.touch("kept", None)
    pass_ms(401)
    assert backend.get("gone") is backend.get("large") is backend.get("k") is backend.get("new") is None
    assert not backend.has("gone")
    assert not backend.touch("gone", 1000)
    assert not backend.touch("gone", None)
    assert backend.get("soon") == record(3)
    assert backend.count() == 2
    assert (backend.count("g", "l"), backend.count("gone"), backend.count("kept"), backend.count("l")) == (1, 2, 2, 1)
    assert [one[:2] for one in backend.scan(ScanQuery(limit=10)).records] == [("kept", record(1)), ("soon", record(3))]
    assert [key for key, _, _ in backend.fetch(["gone", "soon", "large"])] == ["soon"]
    assert backend.delete_range("g", "l") == 1
    assert backend.delete(["gone", "large", "soon"]) == 1
    assert not backend.write_if(Write("gone", record(5)), version_of(record(2)), incarnation)
    assert backend.write_if(Write("gone", record(6)), None, incarnation)
    assert backend.get("gone") == record(6)


def test_what_sets_an_expiry_and_what_clears_it(backend: Backend) -> None:
    incarnation = backend.create()

    def expiry(key: str) -> int | None:
        ((_, _, expires_ms),) = backend.fetch([key])
        assert [one[2] for one in backend.scan(ScanQuery(start=key, limit=1)).records] == [expires_ms]
        return None if expires_ms is None else round((expires_ms - backend.view(SERIES).now_ms) / 10_000) * 10

    backend.write(
        [Write("k", record(1), 100_000), Write("l", record(9, 5000), 100_000), Write("m", record(8))], incarnation
    )
    assert (expiry("k"), expiry("l"), expiry("m")) == (100, 100, None)
    assert backend.write_if(Write("k", record(2, 5000), KEEP), version_of(record(1)), incarnation)
    assert backend.write_if(Write("m", record(7), KEEP), version_of(record(8)), incarnation)
    assert (expiry("k"), expiry("m"), backend.get("k")) == (100, None, record(2, 5000))
    assert backend.write_if(Write("k", record(3), 200_000), version_of(record(2)), incarnation)
    assert expiry("k") == 200
    assert backend.touch("k", 300_000)
    assert (expiry("k"), backend.get("k")) == (300, record(3))
    assert backend.touch("k", None)
    assert expiry("k") is None
    assert backend.touch("k", 400_000)
    assert backend.write_if(Write("k", record(4)), version_of(record(3)), incarnation)
    assert expiry("k") is None
    assert backend.touch("k", 1)
    assert backend.touch("l", 500_000)
    backend.write([Write("k", record(5)), Write("l", record(6))], incarnation)
    assert (expiry("k"), expiry("l")) == (None, None)


@pytest.mark.parametrize("backend", ["memory", "sqlite"], indirect=True)
def test_a_record_expires_at_its_millisecond(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    incarnation = backend.create()
    monkeypatch.setattr("time.time", lambda: 1000.0)
    backend.write([Write("k", record(1), 2)], incarnation)
    assert backend.fetch(["k"]) == [("k", record(1), 1_000_002)]
    monkeypatch.setattr("time.time", lambda: 1000.001)
    assert backend.get("k") == record(1)
    monkeypatch.setattr("time.time", lambda: 1000.002)
    assert backend.get("k") is None


def test_a_sweep_reclaims_what_has_expired_and_nothing_else(backend: Backend, pass_ms: Callable[[int], None]) -> None:
    incarnation = backend.create()
    assert backend.sweep(10) == 0
    keys = [f"{i}" for i in range(40)]
    backend.write([Write(key, record(i), 400) for i, key in enumerate(keys)], incarnation)
    backend.write(
        [Write("stays", record(1)), Write("later", record(2), 100_000), Write("large", record(3, 5000), 400)],
        incarnation,
    )
    assert backend.touch("0", 100_000)
    assert backend.touch("1", None)
    assert backend.write_if(Write("2", record(5)), version_of(record(2)), incarnation)
    assert backend.sweep(1000) == 0
    pass_ms(401)
    swept = []
    while n := backend.sweep(10):
        swept.append(n)
    # A server may reclaim some by itself in the meantime; one in buckets takes as many of each.
    assert 0 < sum(swept) <= 38
    assert sorted(key for key, _, _ in backend.scan(ScanQuery(limit=100)).records) == ["0", "1", "2", "later", "stays"]
    assert backend.count() == 5
    backend.write([Write(key, record(9)) for key in keys], incarnation)
    assert backend.count() == 42


def test_many_expired_records_in_a_range(backend: Backend, pass_ms: Callable[[int], None]) -> None:
    incarnation = backend.create()
    backend.write([Write(f"b{i:04}", record(i), 300) for i in range(1500)], incarnation)
    backend.write([Write(key, record(1)) for key in ("a", "b", "b0007", "b0800\x01", "c", "é")], incarnation)
    pass_ms(301)
    assert (backend.count("b", "c"), backend.count("b0"), backend.count()) == (3, 4, 6)
    while backend.sweep(1000):
        pass
    assert (backend.count("b", "c"), backend.count("b0"), backend.count()) == (3, 4, 6)
    assert backend.delete_range("b0", "c") == 2
    assert [key for key, _, _ in backend.scan(ScanQuery(limit=10)).records] == ["a", "b", "c", "é"]


@pytest.mark.parametrize(("start", "stop"), [("", None), ("b", None), ("", "c"), ("b", "d"), ("bb", "c"), ("x", "a")])
def test_a_range_is_counted_and_deleted(backend: Backend, start: str, stop: str | None) -> None:
    incarnation = backend.create()
    keys = sorted("".join(word) for n in (1, 2) for word in itertools.product("abcdé\U0001f600", repeat=n))
    backend.write([Write(key, record(i)) for i, key in enumerate(keys)], incarnation)
    inside = [key for key in keys if start <= key and (stop is None or key < stop)]
    assert backend.count(start, stop) == len(inside)
    assert backend.delete_range(start, stop) == len(inside)
    assert [key for key, _, _ in backend.scan(ScanQuery(limit=100)).records] == [
        key for key in keys if key not in inside
    ]
    assert backend.delete_range(start, stop) == backend.count(start, stop) == 0


def test_a_fetch_finds_all_that_is_there(backend: Backend) -> None:
    incarnation = backend.create()
    assert backend.fetch(["a"]) == []
    held = {f"é{i}": record(i, 2_000_000 if i % 1000 == 0 else 1) for i in range(4500)}
    backend.write([Write(key, one) for key, one in held.items()], incarnation)
    assert backend.fetch([]) == []
    found = backend.fetch(["nothing", *held])
    assert {key: one for key, one, _ in found} == held
    assert len(found) == len(held)
    heads = backend.fetch(["nothing", *held], heads=True)
    assert {key: head for key, head, _ in heads} == {key: one[:HEAD_BYTES] for key, one in held.items()}
    backend.discard()
    assert backend.fetch(["é1"]) == []


def test_a_scan_of_heads_leaves_the_rest_of_records_behind(backend: Backend) -> None:
    incarnation = backend.create()
    held = {f"{i}": record(i, size) for i, size in enumerate((1, 50, 60, 1000, 5000, 6_000_000, 2))}
    backend.write([Write(key, one, 100_000) for key, one in held.items()], incarnation)
    page = backend.scan(ScanQuery(limit=10, heads=True))
    assert [(key, head) for key, head, _ in page.records] == [(key, one[:HEAD_BYTES]) for key, one in held.items()]
    assert all(expires_ms for _, _, expires_ms in page.records)
    assert not page.more


@pytest.mark.parametrize("size", [1, 5000], ids=["small", "large"])
def test_a_conditional_write_happens_only_to_the_version_it_expects(backend: Backend, size: int) -> None:
    incarnation = backend.create()
    sealed = b"\xc1\x01" + bytes(48) + b"nonce of 12." + b"x" * size
    assert backend.write_if(Write("k", record(1, size)), None, incarnation)
    assert not backend.write_if(Write("k", record(2, size)), None, incarnation)
    assert not backend.write_if(Write("k", record(2, size)), version_of(record(3)), incarnation)
    assert backend.write_if(Write("k", sealed), version_of(record(1)), incarnation)
    assert version_of(sealed) == b"nonce of 12."
    assert not backend.write_if(Write("k", None), version_of(record(1)), incarnation)
    assert backend.write_if(Write("k", None), version_of(sealed), incarnation)
    assert not backend.write_if(Write("k", None), version_of(sealed), incarnation)
    assert backend.get("k") is None


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(("start", "stop"), [("", None), ("b", None), ("b", "d"), ("bb", "c"), ("x", "a")])
def test_a_scan_goes_on_where_its_last_page_ended(
    backend: Backend, start: str, stop: str | None, *, reverse: bool
) -> None:
    incarnation = backend.create()
    keys = sorted("".join(word) for n in (1, 2) for word in itertools.product("abcdé\U0001f600", repeat=n))
    backend.write([Write(key, record(i)) for i, key in enumerate(keys)], incarnation)
    expected = [key for key in keys if start <= key and (stop is None or key < stop)]
    for keys_only, heads in ((False, False), (True, False), (False, True)):
        found: list[str] = []
        after = None
        while True:
            page = backend.scan(
                ScanQuery(
                    start=start, after=after, stop=stop, limit=3, reverse=reverse, keys_only=keys_only, heads=heads
                )
            )
            assert len(page.records) <= 3
            assert all(bool(one) != keys_only for _, one, _ in page.records)
            found += (key for key, _, _ in page.records)
            if not page.more:
                break
            after = found[-1]
        assert found == (expected[::-1] if reverse else expected)


def test_a_page_of_large_records_is_short_and_holds_at_least_one(backend: Backend) -> None:
    incarnation = backend.create()
    backend.write([Write(f"{i}", record(i, 3_000_000)) for i in range(4)], incarnation)
    page = backend.scan(ScanQuery(limit=100))
    assert page.more
    assert 1 <= len(page.records) < 4
    backend.write([Write("0", record(9, 9_000_000))], incarnation)
    assert len(backend.scan(ScanQuery(limit=100)).records) == 1


def test_nothing_is_created_in_a_namespace_that_is_gone(backend: Backend) -> None:
    incarnation = backend.create()
    backend.write([Write("k", record(1))], incarnation)
    backend.discard()
    row = Row(1, 0, b"\x01")
    for write in (
        lambda: backend.write([Write("k", record(2))], incarnation),
        lambda: backend.write([Write("k", record(2)), Write("l", record(3, 5000))], incarnation),
        lambda: backend.write_if(Write("k", record(2)), None, incarnation),
        lambda: backend.append(SERIES, HEAD, [row], incarnation),
        lambda: backend.append(SERIES, HEAD, [row, Row(2, 0, b"\x01")], incarnation),
        lambda: backend.commit(SERIES, Commit(create=HEAD, put_rows=[row]), incarnation),
        lambda: backend.add_fact("f", b"1", incarnation),
    ):
        with pytest.raises(NamespaceGone):
            write()
    assert (backend.count(), backend.logs(Model.SERIES), backend.facts()) == (0, [], (None, {}))
    incarnation = backend.create()
    backend.write([Write("k", record(2))], incarnation)
    assert backend.count() == 1


def test_a_fact_is_kept_once(backend: Backend) -> None:
    incarnation = backend.create()
    assert backend.facts()[1] == {}
    assert backend.add_fact("f", b"1", incarnation) == backend.add_fact("f", b"2", incarnation) == b"1"
    assert backend.facts()[1] == {"f": b"1"}


def test_a_fact_of_one_incarnation_does_not_come_into_the_next(backend: Backend) -> None:
    """It may be sealed for the first one, as key facts are: the next would be taken for one under another key."""
    incarnation = backend.create()
    backend.discard()
    later = backend.create()
    with pytest.raises(NamespaceGone):
        backend.add_fact("f", b"1", incarnation)
    assert backend.facts() == (later, {})
    assert backend.add_fact("f", b"2", later) == b"2"
    with pytest.raises(NamespaceGone):
        backend.add_fact("f", b"1", incarnation)
    assert backend.facts()[1] == {"f": b"2"}


def test_a_commit_happens_whole_or_not_at_all(backend: Backend) -> None:
    incarnation = backend.create()
    a, b = Row(1, 0, b"a"), Row(2, 0, b"b")
    assert not backend.commit(SERIES, Commit(put_rows=[a]), incarnation)
    assert not backend.commit(SERIES, Commit(create=HEAD, if_epoch=b"other", put_rows=[a]), incarnation)
    assert backend.view(SERIES).head is None
    assert backend.commit(SERIES, Commit(create=HEAD, if_epoch=None, if_version=None, put_rows=[a, b]), incarnation)
    assert not backend.commit(SERIES, Commit(create=HEAD, if_epoch=None, put_rows=[]), incarnation)
    assert not backend.commit(SERIES, Commit(if_epoch=HEAD.epoch, if_version=b"other", drop_rows=[a, b]), incarnation)
    assert backend.view(SERIES).rows == [a, b]
    chunk = Chunk((1, 0), (2, 0), 2, b"meta", b"body")
    assert backend.commit(
        SERIES,
        Commit(if_epoch=HEAD.epoch, epoch=b"n", facts=b"f", drop_rows=[a, b._replace(body=b"?")], put_chunks=[chunk]),
        incarnation,
    )
    view = backend.view(SERIES)
    assert (view.head, view.rows, view.chunks) == (Head(b"n", HEAD.version, sealed=False, facts=b"f"), [b], [chunk])
    assert backend.hot(SERIES) == (1, 1)
    assert not backend.append(SERIES, HEAD._replace(sealed=True), [a], incarnation)
    assert not backend.drop(SERIES, if_version=b"other")
    assert backend.commit(SERIES, Commit(drop_rows=[b], drop_if_empty=True), incarnation)
    assert backend.view(SERIES).chunks == [chunk]
    assert backend.commit(SERIES, Commit(drop_chunks=[(1, 0)], drop_if_empty=True), incarnation)
    assert backend.view(SERIES).head is None
    assert not backend.drop(SERIES)


def test_an_id_goes_into_the_commit_once(backend: Backend) -> None:
    incarnation = backend.create()
    log, ids = Log(Model.EVENTS, "e"), Log(Model.IDS, "e")
    assert ids_of(log) == ids
    first, second, low = Row(5, 7, b"first"), Row(5, 7, b"second"), Row(MIN_INT64, MAX_SEQ, b"low")

    def commit(create: Head, *put: Row, drop: Sequence[Row] = (), **other: Any) -> bool:
        row = Row(len(backend.view(log).rows), 0, b"row")
        return backend.commit(
            log, Commit(create=create, put_rows=[row], put_ids=put, drop_ids=drop, **other), incarnation
        )

    assert not commit(HEAD, first, if_version=b"other")
    assert backend.view(ids).head is None
    assert commit(HEAD, first, low, if_version=None)
    view = backend.view(ids, ViewQuery((5, 0), LAST, limit=4, bodies=False))
    assert (view.head, view.rows) == (IDS_HEAD, [first])
    assert backend.view(ids).rows == [low, first]
    assert backend.logs(Model.IDS) == ["e"]
    # One that is there, another one under its position, and one new one beside it: nothing is done.
    for put in ([first], [second], [Row(1, 1, b"new"), second]):
        assert not commit(HEAD, *put, if_version=HEAD.version)
    assert not commit(HEAD, second, drop=[first._replace(body=b"other")], if_version=HEAD.version)
    assert (backend.view(ids).rows, len(backend.view(log).rows)) == ([low, first], 1)
    assert commit(HEAD, second, drop=[first, low], if_version=HEAD.version)
    assert (backend.view(ids).rows, len(backend.view(log).rows)) == ([second], 2)
    # It outlives the sequence, and is in the way of one that begins anew.
    assert backend.drop(log)
    assert not commit(HEAD, first, if_version=None)
    assert backend.view(log).head is None
    assert backend.drop(ids)
    assert commit(HEAD, first, if_version=None)
    assert list(backend.findings()) == []
    backend.discard()
    backend.create()
    assert (backend.view(ids).head, backend.logs(Model.IDS)) == (None, [])


@pytest.mark.parametrize("backend", ["memory", "sqlite", "postgresql", "redis"], indirect=True)
def test_ids_in_a_transaction(backend: Backend) -> None:
    incarnation = backend.create()
    log, ids = Log(Model.EVENTS, "e"), Log(Model.IDS, "e")
    first, second = Row(5, 7, b"first"), Row(5, 7, b"second")
    begin = Commit(create=HEAD, put_rows=[Row(1, 0, b"row")], put_ids=[first])
    with suppress(ZeroDivisionError), backend.transaction() as tx:
        assert tx.commit(log, begin, incarnation)
        assert tx.view(ids).rows == [first]
        raise ZeroDivisionError
    assert (backend.view(log).head, backend.view(ids).head) == (None, None)
    with backend.transaction() as tx:
        assert tx.commit(log, begin, incarnation)
    assert backend.view(ids).rows == [first]
    with backend.transaction() as tx:
        other = Commit(put_rows=[Row(2, 0, b"row")], put_ids=[second], drop_ids=[first])
        assert tx.commit(log, other, incarnation)
        assert tx.view(ids, ViewQuery((5, 0), limit=1)).rows == [second]
    assert (backend.view(ids).rows, len(backend.view(log).rows)) == ([second], 2)
    with suppress(RolledBack), backend.transaction() as tx:  # or it is the transaction that cannot go on
        assert not tx.commit(log, Commit(put_rows=[Row(3, 0, b"row")], put_ids=[first]), incarnation)
    assert (backend.view(ids).rows, len(backend.view(log).rows)) == ([second], 2)


@pytest.mark.parametrize("backend", ["memory", "sqlite", "postgresql", "redis"], indirect=True)
def test_a_transaction_is_done_whole_or_not_at_all(backend: Backend) -> None:
    """Steps within steps."""
    incarnation = backend.create()
    other = Log(Model.EVENTS, "other")
    for log in (SERIES, other):
        assert backend.commit(log, Commit(create=HEAD, put_rows=[Row(1, 0, b"row")]), incarnation)

    def logs(reader: ReadTransaction) -> tuple[list[str], list[str]]:
        return reader.logs(Model.SERIES), reader.logs(Model.EVENTS)

    with suppress(ZeroDivisionError), backend.transaction() as tx:
        assert tx.drop(SERIES)
        assert logs(tx) == ([], ["other"])
        raise ZeroDivisionError
    assert logs(backend) == (["s"], ["other"])
    with backend.transaction() as tx:
        with suppress(ZeroDivisionError), tx.transaction() as part:
            assert part.drop(SERIES)
            raise ZeroDivisionError
        assert logs(tx) == (["s"], ["other"])
        with tx.transaction(create=False) as part, part.exclusive(other) as alone:
            assert alone.drop(other)
    assert logs(backend) == (["s"], [])


def test_a_view_leaves_behind_what_has_not_changed(backend: Backend) -> None:
    incarnation = backend.create()
    rows, chunk = [Row(5, 0, b"row")], Chunk((1, 0), (2, 0), 2, b"meta", b"body")
    checkpoint = Row(3, 0, b"state")
    log = Log(Model.EVENTS, "e")
    commit = Commit(create=HEAD, put_rows=rows, put_chunks=[chunk], put_checkpoints=[checkpoint])
    assert backend.commit(log, commit, incarnation)
    view = backend.view(log, ViewQuery(unless_version=HEAD.version))
    assert view == View(view.now_ms, HEAD)
    view = backend.view(log, ViewQuery(from_checkpoint=LAST, unless_version=HEAD.version))
    assert view == View(view.now_ms, HEAD)
    view = backend.view(log, ViewQuery(unless_version=b"another"))
    assert (view.head, view.rows, view.chunks) == (HEAD, rows, [chunk])
    view = backend.view(log, ViewQuery(limit=1, reverse=True, from_checkpoint=LAST, unless_version=b"another"))
    assert (view.head, view.rows, view.checkpoint) == (HEAD, rows, checkpoint)
    assert backend.view(log._replace(key="none"), ViewQuery(unless_version=HEAD.version)).head is None


def test_views_are_those_of_the_single_logs(backend: Backend) -> None:
    incarnation = backend.create()
    logs = [Log(Model.SERIES, key) for key in ("b", "a", "none", "b")]
    for log in logs[:2]:
        chunks = [Chunk((t, 0), (t + 1, 0), 2, b"meta", log.key.encode()) for t in (0, 10)]
        assert backend.commit(log, Commit(create=HEAD, put_rows=[Row(20, 0, b"row")], put_chunks=chunks), incarnation)
    for query in (ViewQuery(), ViewQuery((5, 0), (15, 0)), ViewQuery(limit=1, reverse=True, bodies=False)):
        found = [(view.head, view.rows, view.chunks) for view in backend.views(logs, query)]
        assert found == [(one.head, one.rows, one.chunks) for one in (backend.view(log, query) for log in logs)]
    with backend.log_snapshot(logs[0], (5, 0), (15, 0)) as snapshot:
        (chunk,) = snapshot.view.chunks
        assert chunk.body == b""
        assert snapshot.bodies([chunk]) == [chunk._replace(body=b"b")]


positions = st.tuples(st.integers(-6, 6), st.integers(0, 2))
bounds = positions | st.sampled_from([FIRST, LAST])


@given(
    edges=st.sets(positions, max_size=10),
    rows=st.sets(positions, max_size=8),
    checkpoints=st.sets(positions, max_size=3),
    lo=bounds,
    hi=bounds,
    limit=st.none() | st.integers(1, 6),
    reverse=st.booleans(),
    bodies=st.booleans(),
    neighbours=st.booleans(),
    from_checkpoint=st.none() | bounds,
)
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@pytest.mark.parametrize("name", ["sqlite", "postgresql", "redis"])
def test_a_view_is_a_view_of_the_reference(
    name: str,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    edges: set[Position],
    rows: set[Position],
    checkpoints: set[Position],
    **ask: Any,
) -> None:
    """Chunks of any shape and rows anywhere; the limits count what a chunk says it holds."""
    ask["lo"], ask["hi"] = sorted((ask["lo"], ask["hi"]))
    ask["reverse"] = ask["reverse"] and ask["limit"] is not None
    ask["neighbours"] = ask["neighbours"] and ask["limit"] is ask["from_checkpoint"] is None
    log = Log(Model.EVENTS, "e")
    ends = sorted(edges)[: len(edges) // 2 * 2]
    runs = list(zip(ends[::2], ends[1::2], strict=True))
    commit = Commit(
        create=HEAD,
        put_rows=[Row(*position, b"row") for position in rows],
        put_chunks=[Chunk(first, last, 2, b"meta", b"body") for first, last in runs],
        put_checkpoints=[Row(*position, b"state") for position in checkpoints],
    )
    views = []
    for dsn in ("memory://views", _dsn(name, request, tmp_path)):
        backend = make_backend(dsn, "default", WRITABLE)
        backend.open()
        assert backend.commit(log, commit, backend.create())
        view = backend.view(log, ViewQuery(**ask))
        views.append((view.head, view.rows, view.chunks, view.checkpoint))
        backend.drop(log)
        backend.close()
    assert views[0] == views[1]


def test_a_watcher_is_woken_by_every_write(backend: Backend) -> None:
    incarnation = backend.create()
    with backend.watcher(["other"], "k") as watcher, backend.watcher([], "k") as second:
        every_s = watcher.every_s

        def wakes(write: Callable[[], object]) -> bool:
            while watcher.wait(0.0):
                pass
            write()
            return watcher.wait(0.9)  # what is not heard is looked for after a second

        assert every_s is None or every_s >= 1
        assert wakes(lambda: backend.write([Write("k", record(1))], incarnation))
        assert wakes(lambda: backend.write([Write("k", record(2), 100_000)], incarnation))
        assert wakes(lambda: backend.write([Write(f"k{i}", record(i)) for i in range(2100)], incarnation))
        assert wakes(lambda: backend.write_if(Write("k", record(3)), version_of(record(2)), incarnation))
        assert wakes(lambda: backend.touch("k", 100_000))
        assert wakes(lambda: backend.delete(["k"]))
        assert wakes(lambda: backend.delete_range("k1", "k2"))
        assert wakes(backend.clear)
        assert wakes(lambda: backend.write([Write("k", record(4))], incarnation))
        assert wakes(backend.discard)
        assert wakes(lambda: backend.write([Write("k", record(5))], backend.create()))
        assert second.wait(0.9)
        while second.wait(0.01):
            pass
        assert not second.wait(0.01)


def test_a_wait_ends_as_soon_as_something_is_written(backend: Backend) -> None:
    incarnation = backend.create()
    with backend.watcher(["k"], None) as watcher, ThreadPoolExecutor(1) as pool:
        while watcher.wait(0.0):
            pass
        began = time.monotonic()
        waiting = pool.submit(watcher.wait, 5.0)
        time.sleep(0.01)
        backend.write([Write("k", record(1))], incarnation)
        assert waiting.result()
        assert time.monotonic() - began < 1
