"""What a large value takes on its way in and out, on every backend."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from contest import Contestant, compete
from lab import KINDS, Lab, Section
from peers import make_cache
from redis_section import redis_server
from table import Goal, Table, number, times

# The tests know how to start servers.
sys.path.append(str(Path(__file__).parent.parent / "tests" / "helpers"))
import postgresql
import redis_servers

SIZE: Final = 500_000_000


def large(lab: Lab) -> Section:
    """Measure one value of half a gigabyte."""
    size = lab.scaled(SIZE)
    table = Table(
        f"One value of {size / 1e6:,.0f} MB",
        "store | what | values | set, s | get, s | memory of set | memory of get",
        "Random bytes, pickled, in a process that does nothing else, with `durability='normal'`. Memory is the most "
        "that the process held, the value itself included, in multiples of its size. PostgreSQL is reached through the "
        "loopback. A store in memory is part of what is counted.",
    )
    goals = []
    with ExitStack() as stack:
        directory = Path(stack.enter_context(TemporaryDirectory(dir=make_cache(), prefix="run-")))
        server = stack.enter_context(postgresql.Server())
        stack.enter_context(server.role("benchmark", "SUPERUSER"))
        schema = stack.enter_context(server.schema())
        redis = stack.enter_context(redis_servers.Server(directory, executable=Path(redis_server())))
        stores = {
            "memory": "memory://large",
            "SQLite": "sqlite://{directory}/large.db",
            "PostgreSQL": server.tcp_dsn("benchmark", postgresql.PASSWORD, schema=schema),
            "Redis": redis.dsn,
        }
        for store, dsn in stores.items():
            for kind in ("bytes", "array"):
                for values, key in KINDS.items():
                    # One by one: side by side they would be in each other's way.
                    arguments = {"dsn": dsn, "size": size, "kind": kind, "key": key}
                    [found] = compete({"large": Contestant("large", arguments)}, 1).values()
                    memory = [found[f"{verb}_memory"] for verb in ("set", "get")]
                    seconds = (number(found[verb]) for verb in ("set", "get"))
                    table.rows.append([store, kind, values, *seconds, *map(times, memory)])
                    what = f"{table.title}, {store}, {kind}, {values}: memory"
                    goals.append(Goal(what, 4, max(memory), at_most=True))
    return Section([table], goals)
