"""A file that lost pages, and one that may not get more: an error, and never an empty store or half a change."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest

from rstore import Store, StoreError, StoreFullError


def _fill(store: Store) -> None:
    store.set("k", "value")
    store.extend("hot", (1, "a"))
    store.extend_many("many", ((t, t) for t in range(20_000)))
    store.apply("log", {"a": 0}, 0)
    store.apply("log", {"a": 1}, 1)


def _holds(store: Store) -> bool:
    return (
        store.find() == [("k", "value")]
        and store.range("hot") == [(1, "a")]
        and len(store.range("many")) == 20_000
        and store.current("log") == {"a": 1}
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


@pytest.mark.parametrize("frozen", [True, False])
def test_a_truncated_file_is_an_error_and_never_an_empty_store(path: Path, tmp_path: Path, frozen: bool) -> None:
    with Store(path, frozen=False) as store:
        _fill(store)
    content = path.read_bytes()
    sizes = (1, 15, 16, 50, 99, 100, 101, 1000, 4095, 4096, 4097, 8192, len(content) // 2, len(content) - 4096)
    for size in sizes:
        cut = tmp_path / f"{size}.db"
        cut.write_bytes(content[:size])
        with pytest.raises(StoreError), Store(cut, frozen=frozen) as store:
            _holds(store)


def test_damaged_pages_are_noticed_or_unused(path: Path) -> None:
    with Store(path, frozen=False) as store:
        _fill(store)
    content = path.read_bytes()
    noticed = 0
    for start in range(0, len(content), 4096):
        path.write_bytes(content[:start] + b"\xff" * 4096 + content[start + 4096 :])
        try:
            with Store(path) as store:
                assert _holds(store)
        except StoreError:
            noticed += 1
    assert noticed > 4


@pytest.fixture
def room(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Return how many pages a file may have; SQLite says that the disk is full beyond."""
    pages = [0]

    def limit(connection: apsw.Connection) -> None:
        if pages[0]:
            connection.pragma("max_page_count", pages[0])

    monkeypatch.setattr(apsw, "connection_hooks", [*apsw.connection_hooks, limit])
    return pages  # type: ignore[return-value]


def test_a_full_disk_applies_nothing(path: Path, room: list[int]) -> None:
    with Store(path, frozen=False) as store:
        _fill(store)
    room[0] = path.stat().st_size // 4096 + 20
    large = os.urandom(200_000)
    with Store(path, frozen=False) as store:
        for write in (
            lambda: store.set("k", large),
            lambda: store.set("new", large),
            lambda: store.update({f"{i}": large[i : i + 2000] for i in range(200)}),
            lambda: store.extend("hot", *((t, large[t : t + 900]) for t in range(1000))),
            lambda: store.extend_many("many", [(t, large[t * 10 : t * 10 + 10]) for t in range(20_000)]),
            lambda: store.apply("log", {"a": large}),
            lambda: store.apply("new", {"a": large}, 0),
        ):
            with pytest.raises(StoreFullError):
                write()
            assert _holds(store)
        store.set("small", 1)
        assert store.delete("small") == 1
    with Store(path) as store:
        assert _holds(store)
    assert apsw.Connection(str(path)).pragma("integrity_check") == "ok"
