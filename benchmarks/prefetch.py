"""Would a scan on PostgreSQL gain if the next page were asked for while this one is used?

`.venv/bin/python benchmarks/prefetch.py` reads 100,000 small pairs, and as many of 1 kB, page by page, with and without
such a *prefetch* on a second connection: directly, and through a *line* that is late both ways. A page that is asked
for ahead is no larger than the buffers of a connection: the server must not keep its snapshot until the client reads.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any, Final

from psycopg import pq
from table import Table, times

from rstore import Store
from rstore.backends.postgres.transport.binary import found_of
from rstore.backends.types import Found
from rstore.codec.formats import make_serializer
from rstore.codec.serializers import Codec

# The tests know how to start a server.
sys.path.append(str(Path(__file__).parent.parent / "tests" / "helpers"))
from postgresql import Server

N: Final = 100_000
PAGE: Final = 1000
ROUNDS: Final = 5
MAX_BYTES: Final = 112 * 1024
"""So much fits into the buffers of a connection."""
MIN_RECORDS: Final = 100
"""For fewer records a page is not asked for ahead."""
BODY_AT: Final = 9
VALUES: Final[dict[str, Callable[[int], Any]]] = {"small": lambda i: i, "1 kB": lambda _: os.urandom(1000)}
LINES_MS: Final = {"a socket of the machine": None, "1 ms a round trip": 0.5, "2 ms a round trip": 1.0}
SQL: Final = b"""
SELECT key, record, expires_ms FROM rstore.records
WHERE ns = (SELECT ns FROM rstore.namespaces WHERE name = $1) AND key > $2 ORDER BY key LIMIT $3"""


def ask(connection: pq.abc.PGconn, name: str, after: str, limit: int) -> None:
    """Send the query of a page."""
    connection.send_query_params(SQL, [name.encode(), after.encode(), b"%d" % limit], None, None, 1)


def answer(connection: pq.abc.PGconn) -> list[Found]:
    """Return the page that was asked for."""
    result = connection.get_result()
    connection.get_result()  # None: there are no more
    return [] if result is None else found_of(result, result.ntuples)


def pages(connections: list[pq.abc.PGconn], name: str, *, prefetch: bool) -> Iterator[list[Found]]:
    """Yield all records, a page at a time."""
    ask(connections[0], name, "", PAGE)
    while page := answer(connections[0]):
        connections.reverse()
        fits = MAX_BYTES * len(page) // sum(len(key) + len(record) + 32 for key, record, _ in page)
        ahead = prefetch and fits >= MIN_RECORDS
        if ahead:
            ask(connections[0], name, page[-1][0], min(PAGE, fits))
        yield page
        if not ahead:
            ask(connections[0], name, page[-1][0], PAGE)


def seconds(connections: list[pq.abc.PGconn], name: str, *, prefetch: bool) -> float:
    """Return how long it takes to read all values."""
    load = Codec(make_serializer("pickle")).loads
    begun, n = perf_counter(), 0
    for page in pages(connections, name, prefetch=prefetch):
        for _, record, _ in page:
            load[record[0]](record[BODY_AT:])
            n += 1
    if n != N:
        raise RuntimeError("some records are missing")
    return perf_counter() - begun


@contextmanager
def line(server: Server, delay_ms: float | None) -> Generator[str]:
    """Lead to the server, through a process of its own that is late."""
    conninfo = server.conninfo()
    if delay_ms is None:
        yield conninfo
        return
    command = [sys.executable, __file__, str(server.directory / f".s.PGSQL.{server.port}"), str(delay_ms)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603 - this program
        late = process.stdout.readline().strip() if process.stdout else ""
        yield f"host={late} port={server.port} user=postgres dbname=postgres"
        process.kill()


async def be_late(path: str, delay_s: float) -> None:
    """Pass on all bytes between a socket of its own and another one, each way late by the same time."""

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 16):
            asyncio.get_running_loop().call_later(delay_s, writer.write, data)
        writer.close()

    async def join(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_unix_connection(path)
        await asyncio.gather(forward(reader, back), forward(there, writer))

    late = Path(path).parent / f"late-{os.getpid()}"
    late.mkdir()
    server = await asyncio.start_unix_server(join, late / Path(path).name)
    sys.stdout.write(f"{late}\n")
    sys.stdout.flush()
    await server.serve_forever()


def main() -> None:
    """Measure, and print a table."""
    table = Table(
        f"{N:,} pairs from PostgreSQL, page by page",
        "values | over | as it is, s | with a page asked for ahead, s | gain",
        "The median of five rounds that take turns.",
    )
    with Server() as server:
        for name, value in VALUES.items():
            with Store(server.dsn(), name, frozen=False, durability="normal") as store:
                store.set_many({f"{i:06}": value(i) for i in range(N)})
            server.execute("VACUUM ANALYZE rstore.records")
            for over, delay_ms in LINES_MS.items():
                with line(server, delay_ms) as conninfo:
                    connections = [pq.PGconn.connect(conninfo.encode()) for _ in range(2)]
                    took: dict[bool, list[float]] = {False: [], True: []}
                    for i in range(2 * ROUNDS + 2):
                        took[bool(i % 2)].append(seconds(connections, name, prefetch=bool(i % 2)))
                    without, ahead = (median(one[1:]) for one in took.values())
                    table.rows.append([name, over, f"{without:.3f}", f"{ahead:.3f}", times(without / ahead)])
                    for connection in connections:
                        connection.finish()
    sys.stdout.write(f"{table}\n")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        asyncio.run(be_late(sys.argv[1], float(sys.argv[2]) / 1000))
    else:
        main()
