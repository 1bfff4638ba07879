"""Code that is written out for speed, with it and without it in turns; arguments are its name and a Redis server."""

from __future__ import annotations

from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from statistics import median
from time import process_time
from typing import Any, Final

from child import Figures, serve
from redis_server import start

from rstore import Store
from rstore.backends.contract import ReadTransaction
from rstore.backends.redis.transport.calls import Call
from rstore.backends.redis.transport.client import Client
from rstore.backends.sqlite.backend import SqliteBackend
from rstore.backends.sqlite.logs import LogWrites
from rstore.backends.sqlite.records.writing import RecordWrites
from rstore.backends.types import Found
from rstore.codec.envelope import Cell, Envelope
from rstore.events.state_cache import StateCache
from rstore.keyvalue.record_store import RecordReader, RecordStore

KEY: Final = urlsafe_b64encode(bytes(range(32))).decode()
PAIRS: Final = {f"key {i:04}": {"name": f"item {i}", "size": i} for i in range(1000)}
TURNS: Final = 5


def _get_all(store: Store) -> None:
    for key in PAIRS:
        store.get(key)


def _set_all(store: Store) -> None:
    for key, value in PAIRS.items():
        store.set(key, value)


def _apply(store: Store) -> None:
    for i in range(100):
        store.apply("sequence", {"item": i})


def _open_each(self: RecordReader, found: Iterable[Found]) -> Iterator[tuple[str, Any]]:
    return ((key, self.open_value(key, record)) for key, record, _ in found)


def _seal_each(self: Envelope, cell: Cell, bodies: Mapping[str, bytes]) -> list[bytes]:
    return [self.seal(body, self.where(cell, key)) for key, body in bodies.items()]


def _call(self: Client, call: Call) -> Any:
    [reply] = self.run([call])
    if isinstance(reply, Exception):
        raise reply
    return reply


def _nothing(*_: Any) -> None:
    return None


PATHS: Final[dict[str, tuple[type, str, Callable[..., Any], Callable[[Store], object], str | None]]] = {
    "SqliteBackend.peek": (SqliteBackend, "peek", ReadTransaction.peek, _get_all, None),
    "SqliteBackend.put": (SqliteBackend, "put", RecordWrites.put, _set_all, None),
    "SqliteBackend.commit": (SqliteBackend, "commit", LogWrites.commit, _apply, None),
    "RecordReader.open_pairs, encrypted": (RecordReader, "open_pairs", _open_each, lambda store: store.find(), KEY),
    "RecordStore.encode_alike": (RecordStore, "encode_alike", _nothing, lambda store: store.update(PAIRS), None),
    "Envelope.seal_all": (Envelope, "seal_all", _seal_each, lambda store: store.update(PAIRS), KEY),
    "StateCache.get": (StateCache, "get", _nothing, _apply, None),
    "Client.call": (Client, "call", _call, _get_all, None),
}
"""The class and the name of each path, the general code that it stands for, and the work that goes through it."""


def measure(directory: Path, *, path: str, executable: str) -> Iterator[Figures]:
    """Yield the CPU time of the work in milliseconds, with the path and without it."""
    owner, name, general, work, key = PATHS[path]
    remote = owner is Client
    place = f"redis://127.0.0.1:{start(directory, executable)}" if remote else str(directory / "paths.db")
    with Store(place, key=key, frozen=False, durability="normal") as store:
        store.update(PAIRS)
        own = getattr(owner, name)
        while True:
            taken: dict[str, list[float]] = {"with": [], "without": []}
            for _ in range(TURNS):
                for side, code in (("with", own), ("without", general)):
                    setattr(owner, name, code)
                    taken[side].append(_cpu_ms(partial(work, store)))
            setattr(owner, name, own)
            yield {side: median(times) for side, times in taken.items()}


def _cpu_ms(work: Callable[[], object]) -> float:
    begun = process_time()
    work()
    return (process_time() - begun) * 1000


if __name__ == "__main__":
    serve(measure)
