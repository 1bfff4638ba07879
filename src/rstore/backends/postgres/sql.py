"""The SQL of namespaces, records and logs; that of views has a file of its own.

In each statement that writes, the locks are taken in one order: the namespace, the head of a log, its rows. At READ
COMMITTED a statement sees what was committed when it began, and a row that it had to wait for is looked at again as it
is then. So:

- Who writes a record or creates a log locks the namespace FOR KEY SHARE, which only `discard` waits for and is waited
  for by: its DELETEs find everything that was committed before them, and whoever comes later finds no namespace and
  writes nothing. Who writes into a log that is there locks its head alone, of which the same is true: `discard` removes
  the heads before their rows. To lock the namespace as well takes a fifth of an `apply`, and is a write to one row that
  all writers share. What that allows: a `discard` and a transaction that goes on to another log or to a record may wait
  for each other, and the server undoes one of them.
- An append locks the head FOR KEY SHARE: appends do not wait for one another, nor for rewrites and applies, which
  UPDATE the head without touching its key (FOR NO KEY UPDATE); these wait for each other. Who may remove the head
  locks it FOR UPDATE first, in a statement of its own, so that the next one sees what was appended until then. Inside a
  SERIALIZABLE transaction it does not, and the head of a series stays: see `emptied`.
- What follows in a commit asks whether the head carries the stamps that it now should. They are random and never
  come back, and the row is locked since the first statement: where that one changed nothing, the rest does nothing.

The rows that several may write at once are locked in the order of their keys or positions; a deadlock that is left,
such as with a DELETE whose plan goes another way, is undone by the server and tried again.
"""

from __future__ import annotations

from functools import cache
from hashlib import sha256
from typing import Final

from rstore.backends.postgres.link import Statement
from rstore.backends.postgres.schema import TABLES, quoted
from rstore.backends.types import HEAD_BYTES

NOW: Final = "floor(extract(epoch FROM statement_timestamp()) * 1000)::bigint"
"""The server's clock at the beginning of the statement: the same for all of its rows."""

_HEAD: Final = f"substring(record FROM 1 FOR {HEAD_BYTES})"
WATCHED_S: Final = 30
"""So long writers go on notifying when who watches has died."""
EMPTIED_BYTES: Final = 32
"""The length of the epoch of a head that a transaction has emptied; that of others is shorter."""
LIVE: Final = f"(expires_ms IS NULL OR expires_ms > {NOW})"
"""Whether a record has not expired."""
_VERSION: Final = """
CASE WHEN get_byte(record, 0) = 193 THEN substring(record FROM 51 FOR 12) ELSE substring(record FROM 2 FOR 8) END"""
_PUT_RECORD: Final = "ON CONFLICT (ns, key) DO UPDATE SET record = excluded.record, expires_ms = excluded.expires_ms"
_PUT_ROW: Final = "ON CONFLICT (ns, model, key, t, seq) DO UPDATE SET body = excluded.body"


def seen(s: str) -> str:
    """Return the condition that a head is not one that was emptied and got nothing since, at no cost for the others.

    Not EXISTS: for many heads the planner would read the whole of both tables.
    """
    inside = (
        f"(SELECT true FROM {s}.{table} AS one "
        "WHERE one.ns = logs.ns AND one.model = logs.model AND one.key = logs.key LIMIT 1)"
        for table in ("chunks", "hot")
    )
    return f"CASE WHEN octet_length(epoch) < {EMPTIED_BYTES} THEN true ELSE coalesce({', '.join(inside)}, false) END"


class Tables:
    """The statements on the tables of one schema: what is common to those of records and of logs.

    $1 is the name of the namespace, and $2 its incarnation in what puts a record, its ns in what writes into a log.
    """

    def __init__(self, schema: str) -> None:
        s = self._s = quoted(schema)
        self._ns = f"(SELECT ns FROM {s}.namespaces WHERE name = $1)"
        self._locked_ns = f"(SELECT ns FROM {s}.namespaces WHERE name = $1 FOR KEY SHARE)"
        self._alive = f"""alive AS MATERIALIZED (
  SELECT ns FROM {s}.namespaces WHERE name = $1 AND ns = $2 FOR KEY SHARE)"""

    def _conditional(self, sql: str, then: str = "") -> Statement:
        """Return a statement, FROM alive, that also says whether there is the namespace, and whether anything was done.

        `then` is what else to do if it was, FROM done.
        """
        return Statement(f"""
WITH {self._alive}, done AS ({sql} RETURNING 1){f", behind AS ({then})" if then else ""}
SELECT EXISTS (SELECT FROM alive), EXISTS (SELECT FROM done)""")


class RecordSql(Tables):
    """The statements on namespaces, facts and records."""

    def __init__(self, schema: str) -> None:
        super().__init__(schema)
        s, ns, locked_ns = self._s, self._ns, self._locked_ns
        # Whoever writes wakes those who watch, in the one row that is read and locked anyway. Not a trigger, and not
        # always: each notification takes a lock of the whole database at the commit. Its payload is the namespace: a
        # channel each would need a name that is computed, and a statement each.
        self.channel = f"rstore_{sha256(schema.encode()).hexdigest()[:32]}"
        woken = f"CASE WHEN watched_until > statement_timestamp() THEN pg_notify('{self.channel}', $1) END"
        # The clock is read there too: for each row of many it would take a tenth of the time.
        alive = self._alive = f"""alive AS MATERIALIZED (
  SELECT ns, {NOW} AS now_ms, {woken} FROM {s}.namespaces WHERE name = $1 AND incarnation = $2 FOR KEY SHARE)"""

        def locked(incarnation: str) -> str:
            return f"""locked AS MATERIALIZED (
  SELECT ns, {woken} FROM {s}.namespaces WHERE name = $1 AND incarnation = coalesce({incarnation}, incarnation) FOR KEY SHARE)"""

        self._locked = locked
        locked_one = "(SELECT ns FROM locked)"

        self.names = Statement(f"SELECT name FROM {s}.namespaces ORDER BY name")
        self.find = Statement(f"SELECT incarnation FROM {s}.namespaces WHERE name = $1")
        self.create = Statement(f"""
WITH made AS (
  INSERT INTO {s}.namespaces (name, ns, incarnation) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING RETURNING name)
SELECT pg_notify('{self.channel}', name) FROM made""")
        self.lock = Statement(f"SELECT FROM {s}.namespaces WHERE name = $1 AND incarnation = $2 FOR KEY SHARE")
        # By its incarnation alone: somebody else may have discarded it meanwhile, and a third created another of that name.
        self.close = Statement(f"SELECT {woken} FROM {s}.namespaces WHERE name = $1 AND ns = $2 FOR UPDATE")
        self.empty = [Statement(f"DELETE FROM {s}.{table} WHERE ns = $1") for table in TABLES]
        self.discard = Statement(f"DELETE FROM {s}.namespaces WHERE name = $1 AND ns = $2")
        self.facts = Statement(f"""
SELECT incarnation, facts.name, fact FROM {s}.namespaces LEFT JOIN {s}.facts ON facts.ns = namespaces.ns
WHERE namespaces.name = $1""")
        # FOR UPDATE waits for all who write, and who comes later finds another incarnation.
        self.add_fact = Statement(f"""
WITH held AS MATERIALIZED (SELECT ns FROM {s}.namespaces WHERE name = $1 AND ns = $4 FOR UPDATE),
added AS (
  INSERT INTO {s}.facts (ns, name, fact) SELECT ns, $2::text, $3::bytea FROM held
  ON CONFLICT DO NOTHING RETURNING ns)
UPDATE {s}.namespaces SET incarnation = $5 FROM added WHERE namespaces.ns = added.ns""")

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
        # One time to live for all of them, which is the common case, saves a twentieth.
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
        # By place: by key or by expiry a plan may go through all that has expired, of which the statistics know little.
        # So IS TRUE hides the condition, which is there because another partition has the same places.
        self.sweep = Statement(f"""
DELETE FROM {s}.records WHERE (ns = {locked_ns} AND expires_ms <= {NOW}) IS TRUE AND ctid = ANY (ARRAY(
  SELECT ctid FROM {s}.records WHERE ns = {ns} AND expires_ms <= {NOW}
  ORDER BY expires_ms LIMIT $2 FOR UPDATE SKIP LOCKED))""")
        self.clear = Statement(f"WITH {locked('NULL')} DELETE FROM {s}.records WHERE ns = {locked_one}")

        self.who = Statement("SELECT pg_backend_pid()")
        self.listen = Statement(f"LISTEN {self.channel}")
        # Seldom, and not each time: several may watch, and each version of the row is one that writers step over.
        self.watch = Statement(f"""
UPDATE {s}.namespaces SET watched_until = statement_timestamp() + interval '{WATCHED_S} s' WHERE name = $1
AND coalesce(watched_until < (statement_timestamp() + interval '{WATCHED_S / 2} s'), true)""")

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
    def scan(self, *, after: bool, stop: bool, reverse: bool, keys_only: bool, heads: bool, summed: bool) -> Statement:
        """Return the query of a page and one row more: $2 start, $3 how many, then `after`, `stop`, a number of bytes.

        No number of bytes where it is about keys or heads only.
        Records are NULL that have as many bytes alone or, `summed`, with those before them; their lengths are known
        without reading them. A sum takes as long as the rest of the query, and most stores never need it.
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


class LogSql(Tables):
    """The statements on logs. $3 and $4 are model and key of a log, where there is an incarnation before them.

    Behind the first statement of a commit, $1 is the incarnation and $2 and $3 are model and key; $4 and $5 are the stamps
    that the head has by then, or has still, NULL for any.
    """

    def __init__(self, schema: str) -> None:
        super().__init__(schema)
        s, ns = self._s, self._ns

        self.keys = Statement(f"SELECT key FROM {s}.logs WHERE ns = {ns} AND model = $2 AND {seen(s)} ORDER BY key")
        self.head = Statement(f"""
SELECT epoch, version, sealed, facts, {NOW} FROM {s}.logs
WHERE ns = {ns} AND model = $2 AND key = $3 AND {seen(s)}""")
        self.hot = Statement(f"""
SELECT count(*), coalesce(sum(octet_length(body)), 0)::bigint
FROM {s}.hot WHERE ns = {ns} AND model = $2 AND key = $3""")
        self.body = Statement(f"""
SELECT body FROM {s}.chunks WHERE ns = {ns} AND model = $2 AND key = $3 AND first_t = $4 AND first_seq = $5""")
        self.take, self.hold = (
            Statement(f"""
WITH space AS MATERIALIZED (SELECT ns, incarnation FROM {s}.namespaces WHERE name = $1 FOR KEY SHARE)
SELECT logs.ns, version, epoch, space.incarnation FROM {s}.logs JOIN space ON logs.ns = space.ns
WHERE model = $2 AND key = $3 FOR {lock} OF logs""")
            for lock in ("UPDATE", "NO KEY UPDATE")
        )

        # Asked only where there is no head that says so.
        named = f"EXISTS (SELECT FROM {s}.namespaces WHERE name = $1 AND ns = $2)"

        # What is put over rows may be put over those of another key: the incarnation says whether all keys are known.
        def append(one: str) -> Statement:
            born = f"EXISTS (SELECT FROM {s}.namespaces WHERE name = $1 AND incarnation = $9)"
            return Statement(f"""
WITH head AS MATERIALIZED (
  SELECT sealed FROM {s}.logs WHERE ns = $2 AND model = $3 AND key = $4 AND {born} FOR KEY SHARE),
put AS (
  INSERT INTO {s}.hot (ns, model, key, t, seq, body)
  SELECT $2::bigint, $3::int, $4::text, one.* FROM head, {one} AS one WHERE sealed = $5 {_PUT_ROW})
SELECT EXISTS (SELECT FROM head) OR {born}, (SELECT sealed FROM head)""")

        # One row, which is the common case, without the three arrays: they take a third of the time.
        self.append = append("unnest($6::bigint[], $7::int[], $8::bytea[])")
        self.append_one = append("(SELECT $6::bigint, $7::int, $8::bytea)")

        def with_row(t: str, seq: str, body: str) -> str:
            return f"""
INSERT INTO {s}.hot (ns, model, key, t, seq, body)
SELECT $2::bigint, $3::int, $4::text, {t}::bigint, {seq}::int, {body}::bytea FROM done {_PUT_ROW}"""

        insert = f"""
INSERT INTO {s}.logs (ns, model, key, epoch, version, sealed, facts)
SELECT ns, $3::int, $4::text, $5::bytea, $6::bytea, $7::boolean, $8::bytea FROM alive ON CONFLICT"""
        create = f"{insert} DO NOTHING"
        self.create = self._conditional(create)
        # A row that is there is locked even where the condition is false, FOR NO KEY UPDATE: other appends go on.
        self.hold_or_create = self._conditional(
            f"{insert} (ns, model, key) DO UPDATE SET sealed = excluded.sealed WHERE false"
        )
        self.create_with_row = self._conditional(create, with_row("$9", "$10", "$11"))

        def move(then: str = "") -> Statement:
            return Statement(f"""
WITH done AS (
  UPDATE {s}.logs SET epoch = coalesce($7, epoch), version = coalesce($8, version), facts = coalesce($9, facts)
  WHERE ns = $2 AND model = $3 AND key = $4
    AND epoch = coalesce($5, epoch) AND version = coalesce($6, version) RETURNING 1){then}
SELECT EXISTS (SELECT FROM done) OR {named}, EXISTS (SELECT FROM done)""")

        self.move = move()
        self.move_with_row = move(f", behind AS ({with_row('$10', '$11', '$12')})")
        self.lock = Statement(f"""
SELECT FROM {s}.logs WHERE ns = (SELECT ns FROM {s}.namespaces WHERE name = $1 AND ns = $2 FOR KEY SHARE)
  AND model = $3 AND key = $4 FOR UPDATE""")

        this = "ns = $1 AND model = $2 AND key = $3"
        head = f"{this} AND epoch = coalesce($4, epoch) AND version = coalesce($5, version)"
        won = f"EXISTS (SELECT FROM {s}.logs WHERE {head})"
        empty = f"NOT EXISTS (SELECT FROM {s}.hot WHERE {this}) AND NOT EXISTS (SELECT FROM {s}.chunks WHERE {this})"

        # For the index there are the first and the last of the list, which is in order.
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
        self.emptied = Statement(f"SELECT epoch, sealed FROM {s}.logs WHERE {this} AND NOT {seen(s)}")
        self.empty = Statement(f"UPDATE {s}.logs SET epoch = $6 WHERE {head} AND {empty}")
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
