"""Rows of a SQLite file changed behind the store's back: every sealed byte is guarded, and bound to its place."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import apsw
import pytest
from small import shrink

from rstore import CorruptionError, EncryptionError, Store, StoreError, TamperedError, generate_key

KEY = generate_key()
HEADER = 50  # before it lie the marks, the salt and the commitment


@dataclass(frozen=True)
class Place:
    """Where bytes lie, and a verb that cannot but read them."""

    name: str
    table: str
    column: str
    where: str
    read: Callable[[Store], Any]

    def get(self, file: apsw.Connection) -> bytes:
        data: bytes = file.execute(f"SELECT {self.column} FROM {self.table} WHERE {self.where}").get
        return data

    def put(self, file: apsw.Connection, data: bytes) -> None:
        file.execute(f"UPDATE {self.table} SET {self.column} = ? WHERE {self.where}", (data,))
        assert file.changes() == 1


def _log(key: str, model: int, namespace: str = "default") -> str:
    return (
        f"log = (SELECT id FROM logs WHERE key = '{key}' AND model = {model}"
        f" AND ns = (SELECT id FROM namespaces WHERE name = '{namespace}'))"
    )


_NS = "ns = (SELECT id FROM namespaces WHERE name = 'default')"
PLACES = (
    Place("value", "records", "record", f"{_NS} AND key = 'k'", lambda s: s["k"]),
    Place("large value", "blobs", "record", f"id = (SELECT max(blob) FROM records WHERE {_NS})", lambda s: s["large"]),
    Place("point", "hot", "body", f"{_log('points', 1)} AND t = 1", lambda s: s.range("points")),
    Place("chunk of points", "chunks", "body", f"{_log('bulk', 1)} AND first_t = 0", lambda s: s.range("bulk")),
    Place("meta", "chunks", "meta", f"{_log('bulk', 1)} AND first_t = 0", lambda s: s.first("bulk")),
    Place("change", "hot", "body", f"{_log('few', 2)} AND t = 1", lambda s: s.events("few")),
    Place("chunk of changes", "chunks", "body", f"{_log('many', 2)} AND first_t = 0", lambda s: s.events("many")),
    Place(
        "checkpoint", "checkpoints", "body",
        f"{_log('many', 2)} AND t = (SELECT max(t) FROM checkpoints WHERE {_log('many', 2)})",
        lambda s: _reopened(s).current("many"),
    ),
    Place("horizon", "logs", "facts", f"{_NS} AND key = 'pruned'", lambda s: s.past("pruned", 2)),
)  # fmt: skip
_places = pytest.mark.parametrize("place", PLACES, ids=lambda place: place.name)


def _reopened(store: Store) -> Store:
    """Open a store again: it keeps the states that it has folded itself."""
    store.close()
    return store.open()


def _fill(store: Store) -> None:
    store.update(k="value", other="value", large="x" * 3000)
    store.extend("points", (1, "a"), (2, "b"))
    store.extend_many("bulk", ((t, 1) for t in range(20)))
    store.extend_many("bulk2", ((t, 1) for t in range(20)))
    for key in ("few", "few2"):
        store.apply(key, {"a": "text"}, 1)
    for t in (1, 2):
        store.apply("pruned", {"a": t}, t)
    store.prune("pruned")


def _fill_until_packed(store: Store, file: apsw.Connection) -> None:
    """Apply until the oldest changes are in a chunk; when that happens is left to chance."""
    for t in itertools.count():
        store.apply("many", {"a": t}, t)
        chunks = file.execute(f"SELECT count(*) FROM chunks WHERE {_log('many', 2)}").get
        checkpoints = file.execute(f"SELECT count(*) FROM checkpoints WHERE {_log('many', 2)}").get
        if chunks and checkpoints > 1:
            return


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


@pytest.fixture
def file(path: Path, key: str | None, monkeypatch: pytest.MonkeyPatch) -> Iterator[apsw.Connection]:
    """Return a connection to the file of a filled store."""
    shrink(monkeypatch.setattr)
    with Store(path, key=key, frozen=False, durability="normal") as store:
        connection = apsw.Connection(str(path))
        _fill(store)
        _fill_until_packed(store, connection)
        with Store(path, "second", key, frozen=False) as second:
            _fill(second)
        yield connection
        connection.close()


@pytest.fixture
def store(path: Path, key: str | None, file: apsw.Connection) -> Iterator[Store]:
    with Store(path, key=key) as store:
        for place in PLACES:
            place.get(file)
            place.read(store)
        yield store


@pytest.fixture
def key() -> str | None:
    return KEY


def _flips(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield (number of the byte, data with one bit of it flipped)."""
    for i in range(len(data)):
        if i > 300 and i < len(data) - 50 and i % 17:
            continue
        for bit in range(8):
            yield i, data[:i] + bytes((data[i] ^ (1 << bit),)) + data[i + 1 :]


@pytest.mark.slow
@_places
def test_every_flipped_bit_of_sealed_bytes_is_noticed(store: Store, file: apsw.Connection, place: Place) -> None:
    data = place.get(file)
    assert data[:2] == b"\xc1\x01"
    assert len(data) > 62 + 16
    for i, flipped in _flips(data):
        place.put(file, flipped)
        with pytest.raises(TamperedError if i >= HEADER else EncryptionError):
            place.read(store)
    place.put(file, data)
    place.read(store)


@pytest.mark.slow
@_places
def test_sealed_bytes_that_were_cut_short_or_made_longer_are_noticed(
    store: Store, file: apsw.Connection, place: Place
) -> None:
    data = place.get(file)
    # Without any facts it is a sequence that was never pruned: deletion is not what sealing protects from.
    for cut in (*range(place.name == "horizon", min(100, len(data))), len(data) - 17, len(data) - 1):
        place.put(file, data[:cut])
        # Nothing at all is neither sealed nor plain.
        with pytest.raises(EncryptionError if cut else (EncryptionError, CorruptionError)):
            place.read(store)
    for longer in (data + b"\0", data * 2, data[:62] + b"\0" + data[62:]):
        place.put(file, longer)
        with pytest.raises(TamperedError):
            place.read(store)


@pytest.mark.slow
@pytest.mark.parametrize("key", [None])
@_places
def test_damaged_plain_bytes_are_an_error_or_a_value(store: Store, file: apsw.Connection, place: Place) -> None:
    """Blocks have a checksum; single values have none, and only must not fail in other ways."""
    data = place.get(file)
    damaged = itertools.chain(_flips(data), ((cut, data[:cut]) for cut in range(min(len(data), 100))))
    for _, bad in damaged:
        place.put(file, bad)
        if not bad and place.name == "horizon":
            continue  # see above
        if place.table in ("chunks", "checkpoints", "logs"):
            with pytest.raises((CorruptionError, EncryptionError)):
                place.read(store)
        else:
            with contextlib.suppress(StoreError):
                place.read(store)


def _move(source: str, target: str) -> str:
    """Return the statement that copies bytes over other bytes; both are given as `table.column WHERE …`."""
    (from_what, from_where), (what, where) = (place.split(" WHERE ", 1) for place in (source, target))
    from_table, from_column = from_what.split(".")
    table, column = what.split(".")
    return f"UPDATE {table} SET {column} = (SELECT {from_column} FROM {from_table} WHERE {from_where}) WHERE {where}"


_VALUE = f"records.record WHERE {_NS} AND key = 'k'"
_POINT = f"hot.body WHERE {_log('points', 1)} AND t = 1"
_CHANGE = f"hot.body WHERE {_log('few', 2)} AND t = 1"
_CHUNK = f"chunks.body WHERE {PLACES[3].where}"
_META = f"chunks.meta WHERE {PLACES[4].where}"
_CHANGES = f"chunks.body WHERE {_log('many', 2)} AND first_t = 0"
_CHECKPOINT = f"checkpoints.body WHERE {PLACES[7].where}"
_HORIZON = f"logs.facts WHERE {_NS} AND key = 'pruned'"
_SECOND = "(SELECT id FROM namespaces WHERE name = 'second')"
MOVES = {
    "value of another key": (f"records.record WHERE {_NS} AND key = 'other'", _VALUE, PLACES[0]),
    "value of another namespace": (f"records.record WHERE ns = {_SECOND} AND key = 'k'", _VALUE, PLACES[0]),
    "value made a point": (_VALUE, _POINT, PLACES[2]),
    "point made a value": (_POINT, _VALUE, PLACES[0]),
    "point of another time": (f"hot.body WHERE {_log('points', 1)} AND t = 2", _POINT, PLACES[2]),
    "point of another namespace": (f"hot.body WHERE {_log('points', 1, 'second')} AND t = 1", _POINT, PLACES[2]),
    "point made a change": (_POINT, _CHANGE, PLACES[5]),
    "change made a point": (_CHANGE, _POINT, PLACES[2]),
    "change of another sequence": (f"hot.body WHERE {_log('few2', 2)} AND t = 1", _CHANGE, PLACES[5]),
    "change of another namespace": (f"hot.body WHERE {_log('few', 2, 'second')} AND t = 1", _CHANGE, PLACES[5]),
    "chunk of another series": (f"chunks.body WHERE {_log('bulk2', 1)} AND first_t = 0", _CHUNK, PLACES[3]),
    "chunk of another namespace": (f"chunks.body WHERE {_log('bulk', 1, 'second')} AND first_t = 0", _CHUNK, PLACES[3]),
    "meta of another series": (f"chunks.meta WHERE {_log('bulk2', 1)} AND first_t = 0", _META, PLACES[4]),
    "meta made a chunk": (_META, _CHUNK, PLACES[3]),
    "chunk made a meta": (_CHUNK, _META, PLACES[4]),
    "points made changes": (_CHUNK, _CHANGES, PLACES[6]),
    "checkpoint of another time": (
        f"checkpoints.body WHERE {_log('many', 2)} AND t = (SELECT min(t) FROM checkpoints WHERE {_log('many', 2)})",
        _CHECKPOINT, PLACES[7],
    ),
    "change made a checkpoint": (_CHANGE, _CHECKPOINT, PLACES[7]),
    "horizon of another namespace": (f"logs.facts WHERE ns = {_SECOND} AND key = 'pruned'", _HORIZON, PLACES[8]),
    "checkpoint made a horizon": (_CHECKPOINT, _HORIZON, PLACES[8]),
}  # fmt: skip


@pytest.mark.parametrize("move", MOVES.values(), ids=MOVES)
def test_sealed_bytes_of_another_place_are_refused(
    store: Store, file: apsw.Connection, move: tuple[str, str, Place]
) -> None:
    source, target, place = move
    file.execute(_move(source, target))
    assert file.changes() >= 1
    with pytest.raises(TamperedError):
        place.read(store)


_POINTS = f"hot {{}} WHERE {_log('points', 1)} AND t = 1"
_FIRST_CHUNK = f"chunks {{}} WHERE {_log('bulk', 1)} AND first_t = 0"
_LAST_CHUNK = f"chunks {{}} WHERE {_log('bulk', 1)} AND last_t = 19"
_FEW = f"hot {{}} WHERE {_log('few', 2)}"
RENAMES: dict[str, tuple[str, str, Callable[[Store], Any]]] = {
    "key": (f"records {{}} WHERE {_NS} AND key = 'k'", "key = 'new'", lambda s: s["new"]),
    "series": (f"logs {{}} WHERE {_NS} AND key = 'points'", "key = 'new'", lambda s: s.range("new")),
    "series with chunks": (f"logs {{}} WHERE {_NS} AND key = 'bulk'", "key = 'new'", lambda s: s.range("new")),
    "sequence": (f"logs {{}} WHERE {_NS} AND key = 'few'", "key = 'new'", lambda s: s.current("new")),
    "time of a point": (_POINTS, "t = 99", lambda s: s.range("points")),
    "time of a change": (_FEW, "t = 99", lambda s: s.current("few")),
    "number of a change": (_FEW, "seq = 1", lambda s: s.current("few")),
    "begin of a chunk": (_FIRST_CHUNK, "first_t = first_t - 1", lambda s: s.range("bulk")),
    "begin of a chunk, by its meta": (_FIRST_CHUNK, "first_t = first_t - 1", lambda s: s.first("bulk")),
    "end of a chunk": (_LAST_CHUNK, "last_t = last_t + 1", lambda s: s.range("bulk")),
    "end of a chunk, by its meta": (_LAST_CHUNK, "last_t = last_t + 1", lambda s: s.last("bulk")),
    "size of a chunk": (_FIRST_CHUNK, "n = n - 1", lambda s: s.range("bulk")),
    "time of a checkpoint": (f"checkpoints {{}} WHERE {PLACES[7].where}", "t = t + 1", PLACES[7].read),
}


@pytest.mark.parametrize("rename", RENAMES.values(), ids=RENAMES)
def test_sealed_bytes_under_another_name_are_refused(
    store: Store, file: apsw.Connection, rename: tuple[str, str, Callable[[Store], Any]]
) -> None:
    rows, name, read = rename
    file.execute("UPDATE " + rows.format(f"SET {name}"))
    assert file.changes() >= 1
    with pytest.raises(TamperedError):
        read(store)


def test_a_renamed_namespace_opens_nothing(store: Store, file: apsw.Connection, path: Path) -> None:
    assert store["k"] == "value"
    file.execute("UPDATE namespaces SET name = 'moved' WHERE name = 'default'")
    with Store(path, "moved", KEY) as moved:
        for place in PLACES:
            with pytest.raises(TamperedError):
                place.read(moved)


def test_the_file_holds_names_and_no_values(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    with Store(path, key=KEY, frozen=False) as store:
        store.set("visible key", "invisible 1")
        store.set("visible large key", "invisible 2" * 1000)
        store.extend("visible series", (1, "invisible 3"))
        store.extend_many("visible bulk", ((t, "invisible 4") for t in range(5000)))
        store.apply("visible sequence", {"invisible item": "invisible 5"})
        content = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    content += path.read_bytes()
    for name in (b"visible key", b"visible large key", b"visible series", b"visible bulk", b"visible sequence"):
        assert name in content
    assert b"invisible" not in content
