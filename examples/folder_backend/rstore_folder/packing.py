"""The bytes of a namespace in a file. They are no pickle: whoever can write to the file could make readers run code."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar

import msgpack

from rstore import CorruptionError
from rstore.backends.memory.dicts import LogDicts, MemoryNamespace, Ordered
from rstore.backends.types import Chunk, Head, Log, Position

T = TypeVar("T")


def pack(name: str, namespace: MemoryNamespace) -> bytes:
    """Return the bytes of a namespace and its name."""
    logs = [
        (log, one.head, [*one.rows.items()], [*one.chunks.values()], [*one.checkpoints.items()])
        for log, one in namespace.logs.items()
    ]
    return msgpack.packb((name, namespace.incarnation, namespace.facts, namespace.records, logs))


def unpack(data: bytes, where: Path) -> tuple[str, MemoryNamespace]:
    """Return a namespace and its name; `where` is the file that it was read from.

    Raises `CorruptionError` if the bytes are not those of one.
    """
    try:
        name, incarnation, facts, records, logs = msgpack.unpackb(data, use_list=False)
        namespace = MemoryNamespace(incarnation, facts, records)
        for log, head, rows, chunks, checkpoints in logs:
            numbered = _ordered((first, Chunk(first, *rest)) for first, *rest in chunks)
            namespace.logs[Log(*log)] = LogDicts(Head(*head), _ordered(rows), numbered, _ordered(checkpoints))
    except (TypeError, ValueError) as error:
        raise CorruptionError(f"the file {where} holds no namespace: restore it from a backup") from error
    return name, namespace


def _ordered(items: Iterable[tuple[Position, T]]) -> Ordered[T]:
    ordered = Ordered[T]()
    for position, value in items:
        ordered[position] = value
    return ordered
