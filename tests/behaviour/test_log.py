"""What the log engine promises of its inside: what it reads, what it leaves alone, and how much it decodes."""

import operator
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import apsw
import pytest

from rstore import CorruptionError, Store, generate_key
from rstore.backends.contract import WriteTransaction
from rstore.backends.sqlite.backend import SqliteBackend
from rstore.backends.sqlite.transaction import SqliteTransaction
from rstore.backends.types import Commit, Log, View, ViewQuery
from rstore.codec.changes import Step
from rstore.events.state import State
from rstore.log.packing import CHECK_EVERY, HOT_CHANGES, HOT_ROWS, MERGE_CHUNKS

KEYS = {"plain": None, "sealed": generate_key()}


@pytest.fixture(params=["plain", "sealed"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "store.db", key=KEYS[request.param], frozen=False, durability="normal") as store:
        yield store


@pytest.fixture
def query(tmp_path: Path) -> Callable[..., list[Any]]:
    """What another program sees in the file."""

    def run(sql: str, *bindings: Any) -> list[Any]:
        connection = apsw.Connection(str(tmp_path / "store.db"))
        try:
            return list(connection.execute(sql, bindings))
        finally:
            connection.close()

    return run


def test_a_batch_is_packed_at_once_and_a_few_points_stay_hot(store: Store, query: Callable[..., list[Any]]) -> None:
    store.extend_many("s", ((t, t / 10) for t in range(100_000)))
    store.extend("s", (200_000, 1.0), (5, -1.0))
    sizes = [n for (n,) in query("SELECT n FROM chunks ORDER BY first_t")]
    assert sum(sizes) == 100_000
    assert all(8192 <= n <= 16384 for n in sizes)
    assert query("SELECT t FROM hot ORDER BY t") == [(5,), (200_000,)]
    assert store.range("s", n=7)[-2:] == [(5, -1.0), (6, 0.6)]


def test_changes_are_packed_in_smaller_chunks(store: Store, query: Callable[..., list[Any]]) -> None:
    # A look at whether they are due comes after 512 rows at the latest.
    for t in range(HOT_CHANGES + 2 * CHECK_EVERY):
        store.apply("k", {"a": t}, t)
    sizes = [n for (n,) in query("SELECT n FROM chunks")]
    assert sum(sizes) >= HOT_CHANGES
    assert all(1024 <= n < 2048 for n in sizes)


@pytest.mark.parametrize("verb", ["pack", "remove", "remove both", "add"])
def test_a_commit_drops_no_more_rows_than_the_backend_can_at_once(
    store: Store, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    points = {t: t * 0.5 for t in range(0, 3000, 3)}
    for some in zip(*[iter(points.items())] * 100, strict=True):
        store.extend("s", *some)
        store.extend("other", *some)
    dropped: list[int] = []
    together: list[int] = []  # by commits that are part of one transaction

    def spying(commit: Callable[..., bool], counted: list[int]) -> Callable[..., bool]:
        def spy(self: WriteTransaction, log: Log, what: Commit, incarnation: bytes) -> bool:
            counted.append(len(what.drop_rows))
            return commit(self, log, what, incarnation)

        return spy

    kinds: list[tuple[type[WriteTransaction], list[int]]] = [(SqliteBackend, dropped), (SqliteTransaction, together)]
    for kind, counted in kinds:
        monkeypatch.setattr(kind, "max_rows", 80)
        monkeypatch.setattr(kind, "commit", spying(kind.commit, counted))
    if verb == "pack":
        store.compact("s")
    elif verb == "remove":
        store.remove("s", start=100, end=2500)
        points = {t: value for t, value in points.items() if not 100 <= t <= 2500}
    elif verb == "remove both":
        store.remove("s", "other", start=50)
        points = {t: value for t, value in points.items() if t < 50}
        assert store.range("other") == sorted(points.items())
        assert sum(together) <= 80
    else:
        store.extend_many("s", ((t, t) for t in range(2000)))
        points |= {t: t for t in range(2000)}
    assert 0 < max(dropped) <= 80
    assert sum(dropped) + sum(together) > 500
    assert len(together) == (2 if verb == "remove both" else 0)
    assert store.range("s") == sorted(points.items())


def test_a_chunk_holds_at_most_about_half_a_megabyte(store: Store, query: Callable[..., list[Any]]) -> None:
    values = [random.Random(i).randbytes(1000) for i in range(5000)]
    store.extend_many("s", enumerate(values))
    assert max(size for (size,) in query("SELECT length(body) FROM chunks")) < 600 * 1024
    assert [value for _, value in store.range("s")] == values


def test_writing_a_few_points_reads_no_chunk(store: Store, query: Callable[..., list[Any]]) -> None:
    store.extend_many("s", ((t, t) for t in range(20_000)))
    query("UPDATE chunks SET body = x'00', meta = x'00'")
    store.extend("s", (100, "over it"), (50_000, "behind it"))
    assert store.last("s") == (50_000, "behind it")
    with pytest.raises(CorruptionError if query("SELECT sealed FROM logs") == [(0,)] else Exception):
        store.range("s")


def test_the_first_and_the_last_point_are_told_without_the_chunk(store: Store, query: Callable[..., list[Any]]) -> None:
    store.extend_many("s", ((t, f"value {t}") for t in range(20_000)))
    query("UPDATE chunks SET body = x'00'")
    assert store.first("s") == (0, "value 0")
    assert store.last("s") == (19_999, "value 19999")


def test_a_damaged_chunk_is_noticed(store: Store, query: Callable[..., list[Any]]) -> None:
    store.extend_many("s", ((t, t / 7) for t in range(10_000)))
    ((body,),) = query("SELECT body FROM chunks")
    for at in random.Random(1).sample(range(len(body)), 40):
        query("UPDATE chunks SET body = ?", body[:at] + bytes([body[at] ^ 16]) + body[at + 1 :])
        with pytest.raises(Exception, match=r"damaged|altered|encrypted|sealed"):
            store.range("s")
    query("UPDATE chunks SET body = ?", body)
    assert len(store.range("s")) == 10_000


@pytest.mark.slow
def test_hot_rows_do_not_grow_without_limit(store: Store, query: Callable[..., list[Any]]) -> None:
    expected: dict[int, int] = {}
    for batch in range(60):
        points = [(batch * 1000 + i, batch) for i in range(1000)]
        store.extend("s", *points)
        expected.update(points)
    ((hot,),) = query("SELECT count(*) FROM hot")
    assert hot < 2 * HOT_ROWS
    assert dict(store.range("s")) == expected


def test_late_points_are_merged_into_the_chunks_where_they_fall(store: Store, query: Callable[..., list[Any]]) -> None:
    expected = dict.fromkeys(range(0, 400_000, 2), 0)
    store.extend_many("s", expected.items())
    ids = {number for (number,) in query("SELECT id FROM chunks")}
    rng = random.Random(7)
    for batch in range(HOT_ROWS // 1000 + 2):
        points = [(rng.randrange(300_000), batch) for _ in range(1000)]
        store.extend("s", *points)
        expected.update(points)
    kept = {number for (number,) in query("SELECT id FROM chunks")}
    assert 0 < len(ids - kept) <= 4 * MERGE_CHUNKS, "some chunks were rewritten, and not all of them"
    assert sorted(expected.items()) == store.range("s")


def test_removing_most_of_a_series_leaves_the_other_chunks_alone(store: Store, query: Callable[..., list[Any]]) -> None:
    store.extend_many("s", ((t, t) for t in range(200_000)))
    ids = [number for (number,) in query("SELECT id FROM chunks ORDER BY first_t")]
    touched = [number for (number,) in query("SELECT id FROM chunks WHERE last_t >= 50500 AND first_t <= 149500")]
    store.remove("s", start=50_500, end=149_500)
    kept = {number for (number,) in query("SELECT id FROM chunks ORDER BY first_t")}
    assert set(ids) & kept == set(ids) - set(touched)
    assert [t for t, _ in store.range("s")] == [*range(50_500), *range(149_501, 200_000)]


def test_an_overwritten_point_survives_a_rewrite_that_read_the_old_one(store: Store) -> None:
    """The row is replaced between the snapshot of a rewrite and its commit: it must overlay the new chunk."""
    store.extend("s", *((t, "old") for t in range(100)))
    logs = store._writer.series
    pack = logs._seal_chunk
    raced: list[bool] = []

    def overtaken(key: str, head: Any, piece: Any) -> Any:
        if not raced:
            raced.append(True)
            store.extend("s", (50, "new"), (1000, "new"))
        return pack(key, head, piece)

    logs._seal_chunk = overtaken  # type: ignore[method-assign]
    logs.pack("s", logs.view("s", ViewQuery(bodies=False)))
    assert raced
    assert store.range("s", 49, end=51) == [(49, "old"), (50, "new"), (51, "old")]
    assert store.last("s") == (1000, "new")
    assert len(store.range("s")) == 101


def test_of_two_rewrites_the_later_one_starts_again(store: Store) -> None:
    store.extend_many("s", ((t, "old") for t in range(10_000)))
    logs = store._writer.series
    view = logs._backend.view
    raced: list[bool] = []

    def overtaken(log: Log, query: ViewQuery) -> View:
        found = view(log, query)
        if query.neighbours and not raced:
            raced.append(True)
            store.extend_many("s", ((t, "middle") for t in range(3000, 8000)))
        return found

    logs._backend.view = overtaken  # type: ignore[method-assign,assignment]
    store.extend_many("s", ((t, "last") for t in range(5000, 10_000)))
    values = [value for _, value in store.range("s")]
    assert values == ["old"] * 3000 + ["middle"] * 2000 + ["last"] * 5000


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The times of the changes that are folded from now on."""
    seen: list[int] = []
    fold = State.fold

    def count(state: State, steps: Sequence[Step], recorded_at: int | None) -> None:
        if recorded_at is not None:
            seen.append(recorded_at)
        fold(state, steps, recorded_at)

    monkeypatch.setattr(State, "fold", count)
    return seen


def test_reading_a_state_decodes_a_bounded_number_of_changes(store: Store, decoded: list[int]) -> None:
    for i in range(3000):
        store.apply("e", {f"item {i % 20}": i}, t=i)
    for t in (*range(0, 3000, 97), 2999):
        decoded.clear()
        assert store.past("e", t) == {f"item {i % 20}": i for i in range(max(0, t - 19), t + 1)}
        assert len(decoded) <= 128
    decoded.clear()
    store.current("e")
    assert len(decoded) <= 128


def test_states_stay_bounded_behind_a_change_in_the_past(store: Store, decoded: list[int]) -> None:
    for i in range(1000):
        store.apply("e", {f"item {i % 20}": i}, t=10 * i)
    assert store.apply("e", {"late": 1}, t=15) == {f"item {i % 20}": i for i in range(980, 1000)} | {"late": 1}
    for t in (5000, 9990):
        decoded.clear()
        assert (store.past("e", t) or {})["late"] == 1
        assert len(decoded) <= 129
    assert "late" not in (store.past("e", 14) or {})


@pytest.mark.slow
def test_a_large_state_is_not_written_again_and_again(store: Store, query: Callable[..., list[Any]]) -> None:
    store.apply("e", {f"item {i}": "x" * 100 for i in range(2000)})
    for i in range(500):
        store.apply("e", {"item 0": i})
    ((changes,),) = query("SELECT sum(length(body)) FROM hot")
    ((checkpoints,),) = query("SELECT coalesce(sum(length(body)), 0) FROM checkpoints")
    assert checkpoints <= 2 * changes


def test_a_sequence_is_packed_and_reads_the_same(store: Store, query: Callable[..., list[Any]]) -> None:
    for i in range(300):
        store.apply("e", {"n": i} if i == 0 else {"n": (operator.add, 1)}, t=i)
    events = store.events("e")
    logs = store._writer.events
    logs.pack("e", logs.view("e", ViewQuery(bodies=False)))
    assert query("SELECT count(*) FROM hot") == [(0,)]
    assert query("SELECT n FROM chunks") == [(300,)]
    assert store.events("e") == events
    assert store.past("e", 123) == {"n": 123}
    assert store.apply("e", {"n": (operator.add, 1)}, t=1000) == {"n": 300}
    with pytest.raises(Exception, match="taken"):
        store.apply("e", {"n": 1}, t=150)
    assert store.prune("e") == 0
    store.apply("e", {"n": 0})
    assert store.prune("e") == 301
    assert store.current("e") == {"n": 0}
