"""Files that SQLite makes for a moment: none but where a whole file is made anew."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import apsw
import pytest

from rstore import Store

_FOR_A_MOMENT = (
    apsw.SQLITE_OPEN_SUBJOURNAL
    | apsw.SQLITE_OPEN_TEMP_DB
    | apsw.SQLITE_OPEN_TEMP_JOURNAL
    | apsw.SQLITE_OPEN_TRANSIENT_DB
)


class Counting(apsw.VFS):
    """The file system, counting the files that are opened for a moment."""

    def __init__(self) -> None:
        super().__init__("counting", "", makedefault=True)
        self.opened = 0

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:  # noqa: N802 - its name
        """Open a file."""
        self.opened += bool(flags[0] & _FOR_A_MOMENT)
        return super().xOpen(name, flags)


@pytest.fixture
def files() -> Iterator[Counting]:
    before = apsw.vfs_names()[0]
    files = Counting()
    yield files
    apsw.set_default_vfs(before)
    files.unregister()


def in_disorder(n: int, size: int) -> dict[str, str]:
    keys = [f"{i:06}" for i in range(30_000)]
    return dict.fromkeys(random.Random(n).sample(keys, n), "x" * size)


def nested(store: Store) -> None:
    with store.transaction() as tx, tx.transaction() as inner:
        inner.set_many(in_disorder(1500, 300))
        inner.extend_many("s", ((t, t) for t in range(0, 60_000, 3)))


VERBS: dict[str, Callable[[Store], object]] = {
    "set_many": lambda store: store.set_many(in_disorder(1000, 300)),
    "set_many of all kinds": lambda store: store.set_many(in_disorder(1000, 300) | in_disorder(50, 3000), ttl=100),
    "a transaction": nested,
    "delete": lambda store: store.delete(*in_disorder(5000, 0)),
    "delete_prefix": lambda store: store.delete_prefix("0"),
    "late points": lambda store: store.extend("s", *((t, 1) for t in range(1, 60_000, 7))),
    "remove": lambda store: store.remove("s", start=500, end=40_000),
    "scan": lambda store: [*store.scan(reverse=True)],
    "check": lambda store: store.check(),
}


@pytest.mark.slow
@pytest.mark.parametrize("verb", VERBS)
def test_no_verb_needs_room_elsewhere(tmp_path: Path, files: Counting, verb: str) -> None:
    with Store(tmp_path / "store.db", frozen=False, durability="normal") as store:
        store.set_many({f"{i:06}": "y" * 200 for i in range(30_000)})
        store.extend_many("s", ((t, t) for t in range(0, 60_000, 3)))
        VERBS[verb](store)
        assert files.opened == 0


@pytest.mark.slow
def test_vacuum_takes_room_elsewhere_rather_than_memory(tmp_path: Path, files: Counting) -> None:
    with Store(tmp_path / "store.db", frozen=False, durability="normal") as store:
        store.set_many({f"{i:06}": bytes(1000) for i in range(30_000)})
        store.vacuum()
        assert files.opened > 0
        opened = files.opened
        nested(store)
        assert files.opened == opened
