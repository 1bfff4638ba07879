"""The SQL of namespaces, facts and records."""

from __future__ import annotations

from functools import cache
from typing import Final

from rstore.backends.postgres.sql.schema import LIVE, NOW, TABLES, SchemaSql
from rstore.backends.postgres.transport.statements import Statement
from rstore.backends.types import HEAD_BYTES

WATCHED_S: Final = 30
"""Writers go on notifying for so long when a watcher has died."""
_HEAD: Final = f"substring(record FROM 1 FOR {HEAD_BYTES})"
_VERSION: Final = """
CASE WHEN get_byte(record, 0) = 193 THEN substring(record FROM 51 FOR 12) ELSE substring(record FROM 2 FOR 8) END"""
_PUT_RECORD: Final = "ON CONFLICT (ns, key) DO UPDATE SET record = excluded.record, expires_ms = excluded.expires_ms"


class RecordSql(SchemaSql):
    """The statements on namespaces, facts and records."""

    def __init__(self, schema: str) -> None:
        super().__init__(schema)
        s, ns = self._s, self._ns
        woken = f"CASE WHEN watched_until > statement_timestamp() THEN pg_notify('{self.channel}', $1) END"
        # The clock is read there too, once and not for each row of many.
        alive = self._alive = f"""alive AS MATERIALIZED (
  SELECT ns, {NOW} AS now_ms, {woken} FROM {s}.namespaces WHERE name = $1 AND birth = $2 FOR KEY SHARE)"""

        def locked(incarnation: str) -> str:
            return f"""locked AS MATERIALIZED (
  SELECT ns, {woken} FROM {s}.namespaces
  WHERE name = $1 AND birth = coalesce({incarnation}, birth) FOR KEY SHARE)"""

        self._locked = locked
        locked_one = "(SELECT ns FROM locked)"

        self.names = Statement(f"SELECT name FROM {s}.namespaces ORDER BY name")
        self.find = Statement(f"SELECT birth FROM {s}.namespaces WHERE name = $1")
        self.create = Statement(f"""
WITH made AS (
  INSERT INTO {s}.namespaces (name, ns, birth) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING RETURNING name)
SELECT pg_notify('{self.channel}', name), pg_notify('{self.log_channel}', name) FROM made""")
        self.lock = Statement(f"SELECT FROM {s}.namespaces WHERE name = $1 AND birth = $2 FOR KEY SHARE")
        # By its `ns`: others may have discarded it meanwhile, and created another namespace of that name.
        self.close = Statement(f"SELECT {woken} FROM {s}.namespaces WHERE name = $1 AND ns = $2 FOR UPDATE")
        self.empty = [Statement(f"DELETE FROM {s}.{table} WHERE ns = $1") for table in TABLES]
        self.discard = Statement(f"DELETE FROM {s}.namespaces WHERE name = $1 AND ns = $2")
        self.facts = Statement(f"""
SELECT birth, facts.name, fact FROM {s}.namespaces LEFT JOIN {s}.facts ON facts.ns = namespaces.ns
WHERE namespaces.name = $1""")
        # FOR UPDATE waits for all writers, and a later one finds another incarnation.
        self.add_fact = Statement(f"""
WITH held AS MATERIALIZED (SELECT ns FROM {s}.namespaces WHERE name = $1 AND ns = $4 FOR UPDATE),
added AS (
  INSERT INTO {s}.facts (ns, name, fact) SELECT ns, $2::text, $3::bytea FROM held
  ON CONFLICT DO NOTHING RETURNING ns)
UPDATE {s}.namespaces SET birth = $5 FROM added WHERE namespaces.ns = added.ns""")

        self.get = Statement(f"SELECT record FROM {s}.records WHERE ns = {ns} AND key = $2 AND {LIVE}")
        self.has = Statement(f"SELECT FROM {s}.records WHERE ns = {ns} AND key = $2 AND {LIVE}")
        self.fetch, self.fetch_heads = (
            Statement(f"""
SELECT key, {record}, expires_ms FROM {s}.records WHERE ns = {ns} AND key = ANY($2::text[]) AND {LIVE}""")
            for record in ("record", _HEAD)
        )
        self.put = Statement(f"""
WITH {alive} INSERT INTO {s}.records (ns, key, record, expires_ms)
SELECT ns, $3::text, $4::bytea, now_ms + $5::bigint FROM alive {_PUT_RECORD}""")
        # One time to live for all of them is the common case, and one array less.
        self.put_many, self.put_many_apart = (
            Statement(f"""
WITH {alive} INSERT INTO {s}.records (ns, key, record, expires_ms)
SELECT ns, unnest($3::text[]), unnest($4::bytea[]), now_ms + {ttl_ms} FROM alive {_PUT_RECORD}""")
            for ttl_ms in ("$5::bigint", "unnest($5::bigint[])")
        )
        self.put_if_absent = self._conditional(f"""
INSERT INTO {s}.records AS old (ns, key, record, expires_ms)
SELECT ns, $3::text, $4::bytea, now_ms + $5::bigint FROM alive
{_PUT_RECORD} WHERE NOT coalesce(old.expires_ms > {NOW}, true)""")
        self.put_if, self.put_keeping_if = (
            self._conditional(f"""
UPDATE {s}.records SET record = $4, expires_ms = {expires_ms} FROM alive
WHERE records.ns = alive.ns AND key = $3 AND {_VERSION} = $6 AND {LIVE}""")
            for expires_ms in ("now_ms + $5::bigint", "coalesce(expires_ms, $5::bigint)")
        )
        self.touch = Statement(f"""
WITH {locked("$4")}
UPDATE {s}.records SET expires_ms = {NOW} + $3::bigint WHERE ns = {locked_one} AND key = $2 AND {LIVE}""")
        self.delete_if = self._conditional(f"""
DELETE FROM {s}.records USING alive
WHERE records.ns = alive.ns AND key = $3 AND {_VERSION} = $4 AND {LIVE}""")
        self.delete = Statement(f"""
WITH {locked("$3")} DELETE FROM {s}.records WHERE ns = {locked_one} AND key = ANY($2::text[]) AND {LIVE}""")
        # By ctid: the statistics know little of expiry, and a plan by key may go through all that has expired. IS TRUE
        # hides the condition from the planner; it is needed, since other partitions have the same ctids.
        self.sweep = Statement(f"""
DELETE FROM {s}.records
WHERE (ns = (SELECT ns FROM {s}.namespaces WHERE name = $1 FOR KEY SHARE) AND expires_ms <= {NOW}) IS TRUE
  AND ctid = ANY (ARRAY(
  SELECT ctid FROM {s}.records WHERE ns = {ns} AND expires_ms <= {NOW}
  ORDER BY expires_ms LIMIT $2 FOR UPDATE SKIP LOCKED))""")
        self.clear = Statement(f"WITH {locked('NULL')} DELETE FROM {s}.records WHERE ns = {locked_one}")

        self.session = Statement("SELECT pg_backend_pid()")
        self.listen, self.listen_to_logs = (Statement(f"LISTEN {one}") for one in (self.channel, self.log_channel))
        # Seldom: there may be several watchers, and writers step over each version of the row.
        self.watch, self.follow = (
            Statement(f"""
UPDATE {s}.namespaces SET {until} = statement_timestamp() + interval '{WATCHED_S} s' WHERE name = $1
AND coalesce({until} < (statement_timestamp() + interval '{WATCHED_S / 2} s'), true)""")
            for until in ("watched_until", "followed_until")
        )

    @cache  # noqa: B019 - a few combinations, and as many objects as schemas
    def count(self, *, stop: bool) -> Statement:
        """Return the statement that counts a range: $2 start, then `stop`. Not `$3 IS NULL OR key < $3`: that scans."""
        return Statement(f"SELECT count(*) FROM {self._s}.records WHERE ns = {self._ns} {_between(stop=stop)}")

    @cache  # noqa: B019
    def delete_range(self, *, stop: bool) -> Statement:
        """Return the statement that deletes a range."""
        locked = self._locked("$4" if stop else "$3")
        return Statement(f"""
WITH {locked} DELETE FROM {self._s}.records WHERE ns = (SELECT ns FROM locked) {_between(stop=stop)}""")

    @cache  # noqa: B019
    def scan(self, after: bool, stop: bool, reverse: bool, keys_only: bool, heads: bool, summed: bool) -> Statement:
        """Return the query of a page and one row more: $2 start, $3 limit, then `after`, `stop`, and a size in bytes.

        A record is NULL that reaches that size alone or, `summed`, with those before it. Keys and heads have no size. A
        sum takes as long as the rest of the query, and most stores never need it.
        """
        bounds = ("AND key < $4" if reverse else "AND key > $4") if after else ""
        bounds += (" AND key < $5" if after else " AND key < $4") if stop else ""
        most = f"${4 + after + stop}"
        order = "ORDER BY key DESC" if reverse else "ORDER BY key"
        rows = f"""
FROM {self._s}.records WHERE ns = {self._ns} AND key >= $2 {bounds} AND {LIVE} {order} LIMIT $3"""
        if keys_only:
            return Statement(f"SELECT key, ''::bytea, NULL {rows}")
        if heads:
            return Statement(f"SELECT key, {_HEAD}, expires_ms {rows}")
        if not summed:
            record = f"CASE WHEN octet_length(record) < {most}::bigint THEN record END"
            return Statement(f"SELECT key, {record}, expires_ms {rows}")
        before = f"sum(octet_length(record)) OVER ({order} ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)"
        return Statement(f"""
SELECT key, CASE WHEN coalesce({before}, 0) < {most}::bigint THEN record END, expires_ms
FROM (SELECT key, record, expires_ms {rows}) AS page {order}""")


def _between(*, stop: bool) -> str:
    return f"AND key >= $2 {'AND key < $3' if stop else ''} AND {LIVE}"
