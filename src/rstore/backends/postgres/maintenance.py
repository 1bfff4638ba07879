"""A PostgreSQL schema as a whole: its namespaces, what they hold, what the server promises, and whether it is sound."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Final

from rstore.backends.contract import Backend
from rstore.backends.maintenance import MODELS, RECORDS, Durability, Finding, Stats, stats_of
from rstore.backends.postgres.reader import PostgresNamespace
from rstore.backends.postgres.sql.schema import LIVE, TABLES, is_seen, quoted
from rstore.backends.postgres.transaction.session import ServerSession
from rstore.backends.postgres.transport.binary import number, truth
from rstore.backends.postgres.transport.statements import Statement
from rstore.backends.postgres.writer import PostgresWriter

_SETTINGS: Final = ("fsync", "synchronous_commit", "full_page_writes", "synchronous_standby_names")
# A role that may not see the state of a standby sees that there is one.
_ASK: Final = Statement(f"""
SELECT {", ".join(f"current_setting('{name}')" for name in _SETTINGS)}, pg_is_in_recovery(),
  (SELECT count(*) FROM pg_catalog.pg_stat_replication WHERE sync_state = ANY ('{{sync,quorum}}'::text[])),
  (SELECT count(*) FROM pg_catalog.pg_stat_replication WHERE sync_state IS NULL)""")
_PING: Final = Statement("SELECT 1")
_AWAITED: Final = ("on", "remote_write", "remote_apply")
"""With these a commit waits for the standbys that are named, if any are."""
_COPIED: Final = {
    True: ", and a standby has confirmed it",
    False: "",
    None: ", and a standby has confirmed it if one that is connected is synchronous, which this user may not see",
}
_LOG_TABLES: Final = ("hot", "chunks", "checkpoints")


class PostgresMaintenance(PostgresWriter, Backend):
    """The calls of a backend that concern the schema as a whole."""

    def __init__(self, namespace: PostgresNamespace, session: ServerSession, *, frozen: bool) -> None:
        super().__init__(namespace, session, session.timeout_s)
        self._session = session
        self._schema = namespace.place.schema
        self._frozen = frozen

    def namespaces(self) -> list[str]:
        (found,) = self._session.read((self._records.names, ()))
        return [(found.get_value(row, 0) or b"").decode() for row in range(found.ntuples)]

    def ping(self) -> None:
        self._session.read((_PING, ()))

    def stats(self) -> Stats:
        (found,) = self._session.read((_maintenance_sql(self._schema).stats, (self._name,)), patient=True)
        rows = ([number(found, i, row) for i in range(4)] for row in range(found.ntuples))
        return stats_of((model, how_many, n, size) for model, how_many, n, size in rows)

    def durability(self) -> Durability:
        *_, found = self._session.read(*self._session.prelude, (_ASK, ()))  # as the calls that write
        settings = {name: (found.get_value(0, i) or b"").decode() for i, name in enumerate(_SETTINGS)}
        commit, whole = settings["synchronous_commit"], settings["full_page_writes"] == "on"
        standby, synced = truth(found, len(_SETTINGS)), settings["fsync"] == "on"
        settings |= {"in_recovery": "on" if standby else "off", "synchronous_standbys": f"{number(found, 5)}"}
        intact = synced and whole
        if self._frozen:
            meaning = "this store writes nothing, and how others do is theirs to know"
            return Durability(None, None if intact else False, intact, None, meaning, settings)
        copied: bool | None = False
        if commit in _AWAITED and settings["synchronous_standby_names"] != "":
            hidden = number(found, 6) > 0
            copied = True if number(found, 5) else None if hidden else False
        if not intact:
            meaning = "a power cut may damage the whole database: fsync or full_page_writes is off"
        elif commit == "off":
            meaning = "a crash or a power cut may undo the newest calls; the database is intact all the same"
        else:
            meaning = "what a call has stored is on the server's disk, as far as the disk keeps its promises"
        meaning += _COPIED[copied]
        return Durability(commit != "off", intact and commit != "off", intact, copied, meaning, settings)

    def findings(self) -> Iterator[Finding]:
        sql = _maintenance_sql(self._schema)
        counts = self._session.read(*((orphans, ()) for orphans in sql.orphans.values()), patient=True)
        for table, n in zip(sql.orphans, map(number, counts), strict=True):
            if n:
                yield Finding("store", None, f"{n} rows of the table {table} belong to no namespace")
        calls = ((strays, (self._name,)) for strays in sql.strays.values())
        for table, found in zip(sql.strays, self._session.read(*calls, patient=True), strict=True):
            for row in range(found.ntuples):
                problem = f"{number(found, 2, row)} rows of the table {table} belong to nothing"
                key = (found.get_value(row, 1) or b"").decode()
                yield Finding(MODELS.get(number(found, 0, row), "store"), key, problem)

    def reclaim(self) -> int:
        before = self._size()
        for table in ("namespaces", *TABLES):  # those of others the server leaves alone
            self._session.run_alone((Statement(f"VACUUM {quoted(self._schema)}.{table}"), ()))
        # The server may have noted what is free, in files of their own.
        return max(0, before - self._size())

    def _size(self) -> int:
        (found,) = self._session.read((_maintenance_sql(self._schema).size, ()))
        return number(found)


class _MaintenanceSql:
    """The statements on all that is in a schema, or in a namespace."""

    def __init__(self, schema: str) -> None:
        s = quoted(schema)
        ns = f"(SELECT ns FROM {s}.namespaces WHERE name = $1)"

        def total(model: str, how_many: int, n: str, size: str, table: str) -> str:
            return f"SELECT {model} AS model, {how_many} AS how_many, {n} AS n, {size} AS size FROM {s}.{table} {of_ns}"

        of_ns = f"WHERE ns = {ns}"
        # The length of a large value is known without reading it.
        parts = [
            total(f"{RECORDS}", 1, "0", "octet_length(record)", "records") + f" AND {LIVE}",
            total("model", 1, "0", "0", "logs") + f" AND {is_seen(s)}",
            total("model", 0, "1", "octet_length(body)", "hot"),
            total("model", 0, "n", "octet_length(meta) + octet_length(body)", "chunks"),
            total("model", 0, "0", "octet_length(body)", "checkpoints"),
        ]
        self.stats = Statement(f"""
SELECT model::bigint, sum(how_many)::bigint, sum(n::bigint)::bigint, sum(size::bigint)::bigint
FROM ({" UNION ALL ".join(parts)}) AS parts GROUP BY model""")
        self.orphans = {
            table: Statement(
                f"SELECT count(*) FROM {s}.{table} AS one "
                f"WHERE NOT EXISTS (SELECT FROM {s}.namespaces WHERE namespaces.ns = one.ns)"
            )
            for table in TABLES
        }
        self.strays = {
            table: Statement(
                f"SELECT model::bigint, key, count(*) FROM {s}.{table} AS one WHERE ns = {ns} AND NOT EXISTS "
                f"(SELECT FROM {s}.logs WHERE logs.ns = one.ns AND logs.model = one.model AND logs.key = one.key) "
                "GROUP BY model, key ORDER BY model, key"
            )
            for table in _LOG_TABLES
        }
        sizes = " + ".join("pg_total_relation_size('{}')".format(f"{s}.{table}".replace("'", "''")) for table in TABLES)
        self.size = Statement(f"SELECT ({sizes})::bigint")


_maintenance_sql = cache(_MaintenanceSql)
