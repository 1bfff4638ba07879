"""The PostgreSQL backend: a handful of tables in a schema, for many processes on many machines."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from functools import partial

from rstore.backends.contract import ReadTransaction, WriteTransaction
from rstore.backends.maintenance import no_namespace
from rstore.backends.postgres.dsn import parse
from rstore.backends.postgres.logs.commits import ns_of
from rstore.backends.postgres.maintenance import PostgresMaintenance
from rstore.backends.postgres.reader import PostgresNamespace, PostgresReader
from rstore.backends.postgres.transaction.session import ServerSession
from rstore.backends.postgres.transaction.transaction import transaction
from rstore.backends.postgres.watcher import PostgresWatcher
from rstore.backends.types import Model, Options, Watcher, close_scope
from rstore.errors import StoreBusyError


class PostgresBackend(PostgresMaintenance):
    """One namespace of one schema."""

    def __init__(self, rest: str, namespace: str, options: Options) -> None:
        place = parse(rest, options.credentials)
        session = ServerSession(place, options, namespace.encode())
        super().__init__(PostgresNamespace.at(place, namespace), session, frozen=options.frozen)

    def open(self) -> None:
        self._session.set_up()
        if self._frozen and self._incarnation() is None:
            raise no_namespace(self, self._namespace.name, f"in {self._namespace.place.show}")

    def close(self) -> None:
        self._session.pool.close()

    def discard(self) -> None:
        incarnation = self._incarnation()
        if incarnation is None:
            return
        ns = ns_of(incarnation)
        empty = [(one, (ns,)) for one in self._records.empty]
        calls = [(self._records.close, (self._name, ns)), *empty, (self._records.discard, (self._name, ns))]
        # Incarnations never come back, so that it happens once, however often it is sent.
        self._write(None, calls, lambda seen: ns_of(seen.facts()[0] or b"") != ns, patient=True)

    def transaction(
        self, *, create: bool = True, serializable: bool = True
    ) -> AbstractContextManager[WriteTransaction]:
        behind = partial(self._tombstones.remove_behind, self._session) if serializable else None
        return transaction(self._session, self._inside, serializable=serializable, behind=behind)

    @contextmanager
    def snapshot(self) -> Generator[ReadTransaction]:
        scope = self._session.snapshot()
        try:
            with scope as snapshot:
                if snapshot is None:
                    raise StoreBusyError("too many snapshots are open at once: each keeps a connection")
                reader, _ = snapshot
                yield PostgresReader(self._namespace, reader)
        finally:
            close_scope(scope)

    def log_watcher(self, model: Model) -> AbstractContextManager[Watcher]:
        return self._watcher(logs=True)

    def watcher(self, keys: Sequence[str], prefix: str | None) -> AbstractContextManager[Watcher]:
        return self._watcher(logs=False)

    def _watcher(self, *, logs: bool) -> AbstractContextManager[Watcher]:
        place, _, name, sql, _ = self._namespace
        return closing(PostgresWatcher(place, sql, name, self._session.timeout_s, logs=logs))
