"""The SQL of logs; that of views has a file of its own."""

from __future__ import annotations

from typing import Final

from rstore.backends.postgres.sql.schema import NOW, SchemaSql, is_seen
from rstore.backends.postgres.transport.statements import Statement
from rstore.backends.types import Model

_PUT_ROW: Final = "ON CONFLICT (ns, model, key, t, seq) DO UPDATE SET body = excluded.body"


class LogSql(SchemaSql):
    """The statements on logs. $3 and $4 are model and key of a log, where there is an incarnation before them.

    Behind the first statement of a commit, $1 is the incarnation and $2 and $3 are model and key; $4 and $5 are the
    stamps that the head has by then, or has still, NULL for any.
    """

    def __init__(self, schema: str) -> None:
        super().__init__(schema)
        s, ns = self._s, self._ns

        self.keys = Statement(f"SELECT key FROM {s}.logs WHERE ns = {ns} AND model = $2 AND {is_seen(s)} ORDER BY key")
        heads = f"""
SELECT key, epoch, version, sealed, facts FROM {s}.logs
WHERE ns = {ns} AND model = $2 AND key >= $3 AND {is_seen(s)}"""
        self.heads, self.heads_before = Statement(heads), Statement(f"{heads} AND key < $4")
        self.head = Statement(f"""
SELECT epoch, version, sealed, facts, {NOW} FROM {s}.logs
WHERE ns = {ns} AND model = $2 AND key = $3 AND {is_seen(s)}""")
        self.hot = Statement(f"""
SELECT count(*), coalesce(sum(octet_length(body)), 0)::bigint
FROM {s}.hot WHERE ns = {ns} AND model = $2 AND key = $3""")
        self.body = Statement(f"""
SELECT body FROM {s}.chunks WHERE ns = {ns} AND model = $2 AND key = $3 AND first_t = $4 AND first_seq = $5""")
        self.take, self.hold = (
            Statement(f"""
WITH space AS MATERIALIZED (SELECT ns, birth FROM {s}.namespaces WHERE name = $1 FOR KEY SHARE)
SELECT logs.ns, version, epoch, space.birth FROM {s}.logs JOIN space ON logs.ns = space.ns
WHERE model = $2 AND key = $3 FOR {lock} OF logs""")
            for lock in ("UPDATE", "NO KEY UPDATE")
        )

        # Asked only where no head tells it.
        named = f"EXISTS (SELECT FROM {s}.namespaces WHERE name = $1 AND ns = $2)"

        # A row may be put over one that was sealed with another key: the incarnation tells whether all keys are known.
        def append(one: str) -> Statement:
            born = f"EXISTS (SELECT FROM {s}.namespaces WHERE name = $1 AND birth = $9)"
            return Statement(f"""
WITH head AS MATERIALIZED (
  SELECT sealed FROM {s}.logs WHERE ns = $2 AND model = $3 AND key = $4 AND {born} FOR KEY SHARE),
put AS (
  INSERT INTO {s}.hot (ns, model, key, t, seq, body)
  SELECT $2::bigint, $3::int, $4::text, one.* FROM head, {one} AS one WHERE sealed = $5 {_PUT_ROW})
SELECT EXISTS (SELECT FROM head) OR {born}, (SELECT sealed FROM head)""")

        # One row, which is the common case, goes without the three arrays.
        self.append = append("unnest($6::bigint[], $7::int[], $8::bytea[])")
        self.append_one = append("(SELECT $6::bigint, $7::int, $8::bytea)")

        def with_row(t: str, seq: str, body: str) -> str:
            return f"""
INSERT INTO {s}.hot (ns, model, key, t, seq, body)
SELECT $2::bigint, $3::int, $4::text, {t}::bigint, {seq}::int, {body}::bytea FROM done {_PUT_ROW}"""

        # An apply wakes the followers; without a lock, since it concerns only what is heard.
        woken = f"""(
  SELECT CASE WHEN followed_until > statement_timestamp() THEN pg_notify('{self.log_channel}', $1) END
  FROM {s}.namespaces WHERE name = $1 AND $3 = {Model.EVENTS:d})"""
        insert = f"""
INSERT INTO {s}.logs (ns, model, key, epoch, version, sealed, facts)
SELECT ns, $3::int, $4::text, $5::bytea, $6::bytea, $7::boolean, $8::bytea FROM alive ON CONFLICT"""
        on_head = f"{insert} (ns, model, key) DO UPDATE SET"
        # A row that is there is locked even where the condition is false, FOR NO KEY UPDATE: other appends go on.
        self.hold_or_create = self._conditional(f"{on_head} sealed = excluded.sealed WHERE false")
        create = f"{insert} DO NOTHING"
        # A tombstone becomes the new head; not of another `sealed`, since an append may be under way as it is.
        create_series = f"""
{on_head} epoch = excluded.epoch, version = excluded.version, facts = excluded.facts
WHERE logs.sealed = excluded.sealed AND NOT {is_seen(s)}"""
        behind = with_row("$9", "$10", "$11")
        self.create, self.create_series = self._conditional(create, told=woken), self._conditional(create_series)
        self.create_with_row = self._conditional(create, behind, told=woken)
        self.create_series_with_row = self._conditional(create_series, behind)

        def move(then: str = "") -> Statement:
            return Statement(f"""
WITH done AS (
  UPDATE {s}.logs SET epoch = coalesce($7, epoch), version = coalesce($8, version), facts = coalesce($9, facts)
  WHERE ns = $2 AND model = $3 AND key = $4
    AND epoch = coalesce($5, epoch) AND version = coalesce($6, version) RETURNING 1){then}
SELECT EXISTS (SELECT FROM done) OR {named}, EXISTS (SELECT FROM done), {woken}""")

        self.move = move()
        self.move_with_row = move(f", behind AS ({with_row('$10', '$11', '$12')})")
        self.lock = Statement(f"""
SELECT FROM {s}.logs WHERE ns = (SELECT ns FROM {s}.namespaces WHERE name = $1 AND ns = $2 FOR KEY SHARE)
  AND model = $3 AND key = $4 FOR UPDATE""")

        this = "ns = $1 AND model = $2 AND key = $3"
        head = f"{this} AND epoch = coalesce($4, epoch) AND version = coalesce($5, version)"
        won = f"EXISTS (SELECT FROM {s}.logs WHERE {head})"
        empty = f"NOT EXISTS (SELECT FROM {s}.hot WHERE {this}) AND NOT EXISTS (SELECT FROM {s}.chunks WHERE {this})"

        # The list is in order; its first and last elements bound the search of the index.
        def between(place: str) -> str:
            times, seqs = "$6::bigint[]", "$7::int[]"
            last = f"array_length({times}, 1)"
            return f"({place}) >= (({times})[1], ({seqs})[1]) AND ({place}) <= (({times})[{last}], ({seqs})[{last}])"

        # IS TRUE keeps the list from being joined. Without statistics, which a table that fills and empties rarely has,
        # the planner joins by comparing every row with every other; a list that is looked up is hashed.
        self.drop_rows = Statement(f"""
DELETE FROM {s}.hot
WHERE {this} AND {between("t, seq")}
  AND ((t, seq, body) = ANY (SELECT * FROM unnest($6::bigint[], $7::int[], $8::bytea[]))) IS TRUE AND {won}""")
        self.drop_chunks = Statement(f"""
DELETE FROM {s}.chunks
WHERE {this} AND {between("first_t, first_seq")}
  AND ((first_t, first_seq) = ANY (SELECT * FROM unnest($6::bigint[], $7::int[]))) IS TRUE AND {won}""")
        self.drop_checkpoints = Statement(f"""
DELETE FROM {s}.checkpoints WHERE {this} AND (t, seq) >= ($6::bigint, $7::bigint) AND {won}""")
        self.put_rows, self.put_checkpoints = (
            Statement(f"""
INSERT INTO {s}.{table} (ns, model, key, t, seq, body)
SELECT $1::bigint, $2::int, $3::text, one.* FROM unnest($6::bigint[], $7::int[], $8::bytea[]) AS one
WHERE {won} {_PUT_ROW}""")
            for table in ("hot", "checkpoints")
        )
        self.put_chunk = Statement(f"""
INSERT INTO {s}.chunks (ns, model, key, first_t, first_seq, last_t, last_seq, n, meta, body)
SELECT $1::bigint, $2::int, $3::text, $6::bigint, $7::int, $8::bigint, $9::int, $10::int, $11::bytea, $12::bytea
WHERE {won}""")
        # The log of ids beside a sequence. A log that is created locks the namespace, as in `create`.
        beside = f"ns = $1 AND model = {int(Model.IDS)} AND key = $3"
        self.create_ids = Statement(f"""
INSERT INTO {s}.logs (ns, model, key, epoch, version, sealed, facts)
SELECT ns, {int(Model.IDS)}, $3::text, $6::bytea, $7::bytea, $8::boolean, $9::bytea
FROM (SELECT ns FROM {s}.namespaces WHERE ns = $1 AND NOT EXISTS (SELECT FROM {s}.logs WHERE {beside})
  FOR KEY SHARE) AS alive
WHERE $2::int IS NOT NULL AND {won} ON CONFLICT (ns, model, key) DO NOTHING""")
        self.drop_ids = Statement(f"""
DELETE FROM {s}.hot
WHERE {beside} AND {between("t, seq")}
  AND ((t, seq, body) = ANY (SELECT * FROM unnest($6::bigint[], $7::int[], $8::bytea[]))) IS TRUE AND {won}""")
        # Without ON CONFLICT: one that is there fails the whole commit, of which statements before were done.
        self.put_ids = Statement(f"""
INSERT INTO {s}.hot (ns, model, key, t, seq, body)
SELECT $1::bigint, {int(Model.IDS)}, $3::text, one.* FROM unnest($6::bigint[], $7::int[], $8::bytea[]) AS one
WHERE {won}""")
        self.tombstone = Statement(f"SELECT FROM {s}.logs WHERE {this} AND NOT {is_seen(s)}")
        self.bury = Statement(f"UPDATE {s}.logs SET epoch = $6 WHERE {head} AND {empty}")
        self.take_this = Statement(f"SELECT FROM {s}.logs WHERE {this} FOR UPDATE")
        self.take_this_now = Statement(f"SELECT FROM {s}.logs WHERE {this} FOR UPDATE NOWAIT")
        self.remove_if_empty = [
            Statement(f"DELETE FROM {s}.checkpoints WHERE {this} AND {won} AND {empty}"),
            Statement(f"DELETE FROM {s}.logs WHERE {head} AND {empty}"),
        ]
        self.remove_rows = [
            Statement(f"DELETE FROM {s}.{table} WHERE {this}") for table in ("hot", "chunks", "checkpoints")
        ]
        self.remove_head = Statement(f"DELETE FROM {s}.logs WHERE {this}")
