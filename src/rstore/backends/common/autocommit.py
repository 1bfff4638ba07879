"""A backend that answers each call by a snapshot or a transaction of its own, and so has only those two to write."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

from rstore.backends.contract import Backend, ReadTransaction, WriteTransaction

C = TypeVar("C", bound=Callable[..., Any])


def _read(call: C) -> C:
    def read(self: Backend, *args: Any, **options: Any) -> Any:
        with self.snapshot() as snapshot:
            return getattr(snapshot, call.__name__)(*args, **options)

    return cast("C", read)


def _written(call: C) -> C:
    def write(self: Backend, *args: Any, **options: Any) -> Any:
        with self.transaction() as tx:
            return getattr(tx, call.__name__)(*args, **options)

    return cast("C", write)


class Autocommit(Backend):
    """Reads in a snapshot and writes in a transaction, call by call. A subclass has `snapshot` and `transaction`."""

    facts = _read(ReadTransaction.facts)
    get = _read(ReadTransaction.get)
    has = _read(ReadTransaction.has)
    fetch = _read(ReadTransaction.fetch)
    count = _read(ReadTransaction.count)
    scan = _read(ReadTransaction.scan)
    logs = _read(ReadTransaction.logs)
    view = _read(ReadTransaction.view)
    hot = _read(ReadTransaction.hot)

    def create(self) -> bytes:
        incarnation, _ = self.facts()
        return incarnation or self._create()  # mostly it is there, and no other writer is waited for

    _create = _written(WriteTransaction.create)
    add_fact = _written(WriteTransaction.add_fact)
    write = _written(WriteTransaction.write)
    write_if = _written(WriteTransaction.write_if)
    touch = _written(WriteTransaction.touch)
    delete = _written(WriteTransaction.delete)
    delete_range = _written(WriteTransaction.delete_range)
    sweep = _written(WriteTransaction.sweep)
    clear = _written(WriteTransaction.clear)
    append = _written(WriteTransaction.append)
    commit = _written(WriteTransaction.commit)
    drop = _written(WriteTransaction.drop)
