"""The statement of a view, and how its result is read: one statement sees one moment."""

from __future__ import annotations

import struct
from functools import cache
from operator import itemgetter
from typing import Final

from psycopg import pq

from rstore.backends.postgres.sql.schema import NOW, is_seen, quoted
from rstore.backends.postgres.transport.binary import changed, int8, rows_of
from rstore.backends.postgres.transport.statements import Call, Statement
from rstore.backends.types import Chunk, Head, Row, View, ViewQuery

_SEQ: Final = itemgetter(1)
_BODY: Final = itemgetter(2)
_BYTES: Final = {bytes}
_place: Final = struct.Struct("!qi").unpack
_run: Final = struct.Struct("!qiqii").unpack


def view_call(schema: str, query: ViewQuery) -> Call:
    """Return the statement of a view, and its parameters behind the three that name the log."""
    limited, checkpoint = query.limit is not None, query.from_checkpoint is not None
    statement = _statement(schema, limited, query.reverse, query.rows, query.bodies, query.neighbours, checkpoint)
    asked = [*query.lo, *query.hi]
    if query.limit is not None:
        asked.append(query.limit)
    asked += query.from_checkpoint or ()
    return statement, [*map(int8, asked)]


@cache
def _statement(
    schema: str, limited: bool, reverse: bool, rows: bool, bodies: bool, neighbours: bool, checkpoint: bool
) -> Statement:
    """Return the statement of a view. Its rows are (kind, place, three columns of bytes).

    $1 namespace, $2 model, $3 key, $4 $5 `lo`, $6 $7 `hi`, then the limit if there is one, then the position of the
    checkpoint if one is asked for.
    """
    s = quoted(schema)
    this = "ns = (SELECT ns FROM head) AND model = $2 AND key = $3"
    lo_t, lo_seq, hi = "$4::bigint", "$5::bigint", "($6::bigint, $7::bigint)"
    down = " DESC" if reverse else ""
    tables = [
        f"""head AS MATERIALIZED (
  SELECT logs.ns, epoch, version, sealed, facts FROM {s}.namespaces JOIN {s}.logs ON logs.ns = namespaces.ns
  WHERE name = $1 AND model = $2 AND key = $3 AND {is_seen(s)})"""
    ]
    parts = [
        f"""
SELECT CASE WHEN sealed THEN 'sealed' WHEN NOT sealed THEN 'plain' ELSE 'none' END, int8send({NOW}),
  epoch, version, facts
FROM (VALUES (1)) AS always LEFT JOIN head ON true"""
    ]
    if checkpoint:
        at = "($9::bigint, $10::bigint)" if limited else "($8::bigint, $9::bigint)"
        tables.append(f"""checkpoint AS MATERIALIZED (
  SELECT t, seq, body FROM {s}.checkpoints WHERE {this} AND (t, seq) <= {at} ORDER BY t DESC, seq DESC LIMIT 1)""")
        parts.append("""
SELECT 'checkpoint', int8send(t) || int4send(seq), body, NULL, NULL FROM checkpoint""")
        lo_t = f"coalesce((SELECT t FROM checkpoint), {lo_t})"
        lo_seq = f"coalesce((SELECT seq + 1::bigint FROM checkpoint), {lo_seq})"
    lo = f"({lo_t}, {lo_seq})"
    if rows:
        parts.append(f"""
(SELECT 'row', int8send(t) || int4send(seq), body, NULL, NULL FROM {s}.hot
 WHERE {this} AND (t, seq) >= {lo} AND (t, seq) <= {hi} ORDER BY t{down}, seq{down} {"LIMIT $8" if limited else ""})""")

    # Chunks are disjoint: the first one that can reach `lo` is the last one that begins at or before it.
    tables.append(f"""reaching AS MATERIALIZED (
  SELECT first_t AS t, first_seq AS seq FROM {s}.chunks WHERE {this} AND (first_t, first_seq) <= {lo}
  ORDER BY first_t DESC, first_seq DESC LIMIT 1)""")
    overlapping = f"""{this}
  AND (first_t, first_seq)
    >= (coalesce((SELECT t FROM reaching), {lo_t}), coalesce((SELECT seq FROM reaching), {lo_seq}))
  AND (first_t, first_seq) <= {hi} AND (last_t, last_seq) >= {lo}"""
    chunk = f"""
SELECT 'chunk', int8send(first_t) || int4send(first_seq) || int8send(last_t) || int4send(last_seq) || int4send(n),
  meta, {"body" if bodies else "NULL"}, NULL FROM {s}.chunks"""
    if limited:
        # Chunk by chunk along the index until enough rows are held: a window over all of them would read them all.
        next_one = f"ORDER BY first_t{down}, first_seq{down} LIMIT 1"
        tables.append(f"""walk (t, seq, held) AS (
  (SELECT first_t, first_seq, 0::bigint FROM {s}.chunks WHERE {overlapping} {next_one})
  UNION ALL
  SELECT beyond.* FROM walk, LATERAL (
    SELECT first_t, first_seq, held + n FROM {s}.chunks
    WHERE {overlapping} AND (first_t, first_seq) {"<" if reverse else ">"} (walk.t, walk.seq) {next_one}) AS beyond
  WHERE held < $8)""")
        parts.append(f"{chunk} JOIN walk ON first_t = walk.t AND first_seq = walk.seq WHERE {this}")
    else:
        parts.append(f"{chunk} WHERE {overlapping}")
    if neighbours:
        parts.append(f"""
({chunk} WHERE {this} AND (first_t, first_seq) <= {lo} AND (last_t, last_seq) < {lo}
 ORDER BY first_t DESC, first_seq DESC LIMIT 1)""")
        parts.append(f"""
({chunk} WHERE {this} AND (first_t, first_seq) > {hi} ORDER BY first_t, first_seq LIMIT 1)""")
    return Statement(f"WITH RECURSIVE {', '.join(tables)}{' UNION ALL '.join(parts)}")


def view_of(result: pq.abc.PGresult) -> View:
    """Return the view in a result, whose rows come in no order that SQL promises."""
    now_ms, head, checkpoint = 0, None, None
    rows: list[Row] = []
    chunks: list[Chunk] = []
    try:
        for kind, where, a, b, c in rows_of(result, result.ntuples):
            if kind == "row":
                t, seq = _place(where)
                rows.append(Row(t, seq, a))
            elif kind == "chunk":
                t, seq, last_t, last_seq, n = _run(where)
                chunks.append(Chunk((t, seq), (last_t, last_seq), n, a, b or b""))
            elif kind == "checkpoint":
                t, seq = _place(where)
                checkpoint = Row(t, seq, a)
            else:
                now_ms = int.from_bytes(where, "big", signed=True)
                if kind != "none":
                    head = Head(a, b, kind == "sealed", c)
        _check(head, rows if checkpoint is None else [*rows, checkpoint], chunks)
        rows.sort()
        chunks.sort()
    except (TypeError, struct.error) as error:  # a NULL, or what is of another type
        raise changed() from error
    return View(now_ms, head, rows, chunks, checkpoint)


def _check(head: Head | None, rows: list[Row], chunks: list[Chunk]) -> None:
    if not (
        (head is None or type(head.epoch) is type(head.version) is type(head.facts) is bytes)
        and {*map(type, map(_BODY, rows))} <= _BYTES
        and (not rows or min(map(_SEQ, rows)) >= 0)
        and all(
            type(one.meta) is type(one.body) is bytes and one.n > 0 and one.first[1] >= 0 and one.last[1] >= 0
            for one in chunks
        )
    ):
        raise changed()
