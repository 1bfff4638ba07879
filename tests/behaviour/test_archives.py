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

from rstore import EncryptionError, Store, generate_key
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
