"""An archive gets what goes before it goes: a process that dies in between leaves it in both, and nothing twice."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import apsw
import pytest
from small import shrink

from rstore import EncryptionError, Store, StoreIntegrityError, generate_key
from rstore.backends.memory.backend import MemoryBackend

KEY = generate_key()
ADD = operator.add


class _DeadError(Exception):
    pass


@pytest.fixture(params=[None, KEY], ids=["plain", "sealed"])
def key(request: pytest.FixtureRequest) -> str | None:
    key: str | None = request.param
    return key


@pytest.fixture
def store(key: str | None) -> Iterator[Store]:
    with Store(f"memory://{uuid4()}", frozen=False, key=key) as store:
        for t in range(0, 300, 10):
            store.apply("k", {"a": (ADD, 1) if t else 0, f"{t % 40}": t}, t)
        yield store


def die_before_the_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    def dead(*_: Any) -> bool:
        raise _DeadError

    monkeypatch.setattr(MemoryBackend, "commit", dead)
    monkeypatch.setattr(MemoryBackend, "drop", dead)


@pytest.mark.parametrize("small", [False, True])
@pytest.mark.parametrize("before", [None, 150, 999])
def test_what_was_interrupted_is_done_once(
    store: Store, key: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: int | None, small: bool
) -> None:
    if small:
        shrink(monkeypatch.setattr)
    path, events = tmp_path / "archive.db", store.events("k") or []
    n = store.prune("k", before=before, dry_run=True)
    with monkeypatch.context() as dying:
        die_before_the_commit(dying)
        with pytest.raises(_DeadError):
            store.prune("k", before=before, archive=path)
    assert store.events("k") == events
    with Store(path, key=key) as archive:
        first = archive.events("k") or []
        assert archive.verify("k") == archive.digest("k")
    late = {"late": 1} if before != 999 else {"a": (ADD, 5)}
    store.apply("k", late, 145)  # before it is repeated, among the changes that were put there
    assert store.prune("k", before=before, archive=path) == n + (before is not None)
    with Store(path, key=key) as archive:
        again = archive.events("k") or []
        assert [event for event in again if event.timestamp != 145] == first
        assert len(again) == len(first) + (before is not None)
        assert archive.verify("k") == archive.digest("k")
        assert archive.check() == []
        assert archive.past("k", 140) == {"a": 14, "0": 120, "10": 130, "20": 140, "30": 110} or before is None
    assert store.verify("k") == store.digest("k")


def test_appending_reads_no_more_than_the_end_of_an_archive(store: Store, key: str | None, tmp_path: Path) -> None:
    path = tmp_path / "archive.db"
    for before in (100, 200):
        store.prune("k", before=before, archive=path)
    connection = apsw.Connection(f"{path}")
    rows = [*connection.execute("SELECT t FROM hot WHERE log = (SELECT id FROM logs WHERE key = 'k') ORDER BY t")]
    assert rows == [(t,) for t in range(0, 200, 10)]
    connection.close()
    with Store(path, key=key) as archive:
        assert archive.current("k", withtimestamp=True) == store.past("k", 199, withtimestamp=True)


def test_an_archive_that_missed_a_part_goes_on_from_the_baseline(store: Store, key: str | None, tmp_path: Path) -> None:
    path = tmp_path / "archive.db"
    state = store.past("k", 195)
    store.prune("k", before=50, archive=path)
    store.prune("k", before=150)
    store.prune("k", before=200, archive=path)
    with Store(path, key=key) as archive:
        assert archive.past("k", 195) == state
        assert archive.past("k", 45) == {"a": 4, "0": 40, "10": 10, "20": 20, "30": 30}
        assert archive.verify("k") == archive.digest("k")


def test_an_archive_under_another_key_is_refused_and_nothing_goes(store: Store, tmp_path: Path) -> None:
    events = store.events("k")
    with Store(tmp_path / "archive.db", key=generate_key(), frozen=False) as other:
        other["a"] = 1
        other.apply("k", {"a": 1})
    with pytest.raises(EncryptionError):
        store.prune("k", before=100, archive=tmp_path / "archive.db")
    assert store.events("k") == events


@pytest.mark.parametrize("is_archive", [False, True])
def test_another_sequence_of_the_name_is_no_archive_of_this_one(
    store: Store, key: str | None, tmp_path: Path, *, is_archive: bool
) -> None:
    path = tmp_path / "archive.db"
    if is_archive:
        store.prune("k", before=200, archive=path)
        store.forget("k")
    else:
        with Store(path, key=key, frozen=False) as other:
            other.apply("k", {"mine": 1}, 1)
    for t in range(1000, 1050, 10):
        store.apply("k", {"a": t}, t)
    events = store.events("k")
    with Store(path, key=key) as archive:
        before = archive.events("k")
    with pytest.raises(StoreIntegrityError, match="begun anew"):
        store.prune("k", before=1030, archive=path)
    with Store(path, key=key) as archive:
        assert archive.events("k") == before
    assert store.events("k") == events


@pytest.mark.parametrize("before", [None, 150])
def test_an_archive_may_be_pruned_and_goes_on(
    store: Store, key: str | None, tmp_path: Path, before: int | None
) -> None:
    path, older = tmp_path / "archive.db", tmp_path / "older.db"
    states = [store.past("k", t) for t in range(0, 300, 10)]
    store.prune("k", before=before and 200, archive=path)
    with Store(path, key=key, frozen=False) as archive:
        assert archive.prune("k", before=before, archive=older) > 0
        assert archive.verify("k") == archive.digest("k")
        store.apply("k", {"stays": 1}, 301)
        for t in (305, 310, 315):
            store.apply("k", {"late": 1, "0": t, "a": t}, t)
        store.prune("k", before=before and 250, archive=path)
        assert archive.verify("k") == archive.digest("k")
        assert archive.check() == []
        state = archive.current("k")
        assert state == states[24] or before is None
        archive.prune("k", before=before and 220, archive=older)
        assert archive.verify("k") == archive.digest("k")
        assert archive.current("k") == state
    with Store(older, key=key) as oldest:
        assert oldest.verify("k") == oldest.digest("k")
        if before is not None:
            assert [oldest.past("k", t) for t in range(0, 190, 10)] == states[:19]


class Newer(Store):
    """A store that has another shape of values."""

    _schema_version = 1

    def _upcast(self, item: str, value: Any, version: int) -> Any:
        assert item
        assert version == 0
        return [value]


@pytest.mark.parametrize("upcast_at", [1, 2])
def test_a_baseline_of_another_schema_version_is_known_again(key: str | None, tmp_path: Path, upcast_at: int) -> None:
    path, dsn = tmp_path / "archive.db", f"memory://{uuid4()}"
    with Store(dsn, frozen=False, key=key) as keeps, Newer(dsn, frozen=False, key=key) as newer:
        for t in range(0, 100, 10):
            keeps.apply("k", {f"{t % 30}": t}, t)
        whole = newer.events("k", end=69)
        for i, before in enumerate((35, 55, 75)):
            (newer if i >= upcast_at else keeps).prune("k", before=before, archive=path)
        state = newer.past("k", 75)
    with Newer(path, key=key) as archive:
        assert archive.events("k", end=69) == whole
        assert archive.current("k") == state
        assert archive.verify("k") == archive.digest("k")
