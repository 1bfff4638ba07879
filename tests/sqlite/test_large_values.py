"""Large values come back, and what replaces them leaves nothing behind; many small ones cost no more each than few."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest
from processes import check_file

from rstore import Store

SMALL, LARGE, HUGE = b"s" * 10, b"l" * 3000, b"h" * 300_000


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "store.db"
    check_file(tmp_path / "store.db")


def blobs(path: Path) -> int:
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)
    n = connection.execute("SELECT count(*) FROM blobs").get
    connection.close()
    return int(n)


@pytest.mark.slow
@pytest.mark.parametrize("encrypted", [False, True])
def test_fifty_megabytes(path: Path, encrypted: bool) -> None:
    key, value = bytes(32) if encrypted else None, os.urandom(50_000_000)
    with Store(path, key=key, frozen=False, durability="normal") as store:
        store.set("k", value)
        store.extend("s", (1, value[:5_000_000]), (2, b"small"))
        assert store["k"] == value
    with Store(path, key=key) as store:
        assert store["k"] == value
        assert dict(store.items()) == {"k": value}
        assert store.range("s") == [(1, value[:5_000_000]), (2, b"small")]
        assert store.first("s") == (1, value[:5_000_000])


@pytest.mark.parametrize("after", [SMALL, LARGE, HUGE, None], ids=["small", "large", "huge", "deleted"])
@pytest.mark.parametrize("before", [SMALL, LARGE, HUGE], ids=["small", "large", "huge"])
@pytest.mark.parametrize("verb", ["set", "update", "pop"])
def test_one_size_replaces_another(path: Path, verb: str, before: bytes, after: bytes | None) -> None:
    with Store(path, frozen=False, durability="normal") as store:
        store.update(a=before, b=before)
        for key in ("a", "b"):
            if verb == "pop":
                assert store.pop(key) == before
            if after is None:
                store.delete(key)
            elif verb == "update":
                store.update({key: after})
            else:
                store.set(key, after)
        assert dict(store) == ({} if after is None else {"a": after, "b": after})
        assert blobs(path) == (0 if after in (None, SMALL) else 2)
        store.clear()
        assert blobs(path) == 0


@pytest.mark.parametrize("size", range(1000, 1040, 3))
def test_around_the_size_at_which_a_record_goes_out_of_line(path: Path, size: int) -> None:
    with Store(path, frozen=False, durability="normal") as store:
        for i in (0, 1, 0):
            store.update({f"{j}": b"x" * (size + i * j) for j in range(5)})
            assert dict(store) == {f"{j}": b"x" * (size + i * j) for j in range(5)}


def test_many_replacements_leave_nothing_behind(path: Path) -> None:
    chosen = random.Random(3)
    model: dict[str, bytes] = {}
    with Store(path, frozen=False, durability="normal") as store, Store(path, "other", frozen=False) as other:
        other.set("a", LARGE)
        for _ in range(300):
            batch = {
                chosen.choice("abcdefgh"): chosen.choice([SMALL, LARGE, HUGE]) for _ in range(chosen.randrange(1, 4))
            }
            key = chosen.choice("abcdefgh")
            match chosen.randrange(8):
                case 0:
                    store.delete(*batch)
                    model = {key: value for key, value in model.items() if key not in batch}
                case 1:
                    assert store.pop(key, None) == model.pop(key, None)
                case 2:
                    assert store.setdefault(key, LARGE) == model.setdefault(key, LARGE)
                case 3 if model:
                    assert store.popitem() == (last := max(model), model.pop(last))
                case _:
                    store.update(batch)
                    model |= batch
            assert dict(store) == model
        assert blobs(path) == 1 + sum(len(value) > 1000 for value in model.values())
        store.clear()
        assert blobs(path) == 1
        store.set("a", HUGE)
        store.discard()
        assert blobs(path) == 1
        assert other["a"] == LARGE


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(("start", "stop"), [("", None), ("0", "9")])
def test_the_last_page_of_a_scan_takes_no_more_work_than_the_first(
    path: Path, monkeypatch: pytest.MonkeyPatch, start: str, stop: str | None, reverse: bool
) -> None:
    steps = 0

    def step() -> bool:
        nonlocal steps
        steps += 1
        return False

    def count(connection: apsw.Connection) -> None:
        connection.set_progress_handler(step, 100)

    monkeypatch.setattr(apsw, "connection_hooks", [count])
    with Store(path, frozen=False, durability="normal") as store:
        store.set_many({f"{i:05}": i for i in range(20_000)})
        taken = []
        for limit in (1000, 20_000):
            steps = 0
            assert len(list(store.scan(start=start, stop=stop, reverse=reverse, limit=limit))) == limit
            taken.append(steps)
    assert 0 < taken[1] < 25 * taken[0]
