"""A Redis server on which somebody writes into the keys of a store: typed errors, or right answers."""

from __future__ import annotations

import os
from collections.abc import Callable
from random import Random
from typing import Any

import pytest
from damaging import Battery, fill, how_many, shaken
from redis_servers import Server as RedisServer
from small import shrink

from rstore import Store

pytestmark = pytest.mark.timeout(0 if "DAMAGES" in os.environ else 120, method="thread")

NUMBERS = (b"-1", b"0", b"1e300", b"inf", b"-inf", b"9223372036854775807", b"nan", b"x", b"", b"1.5")
OTHER_KINDS: tuple[tuple[Any, ...], ...] = (
    ("SET", b"a string"),
    ("HSET", b"field", b"value"),
    ("RPUSH", b"one", b"two"),
    ("SADD", b"\xff"),
    ("ZADD", 1, b"\xff"),
    ("XADD", b"*", b"field", b"value"),
)


def hurt(random: Random, do: Callable[..., Any], name: bytes) -> str:
    """Damage a key of a server in one of several ways, and return how."""
    kind, how = do("TYPE", name), random.randrange(10)
    if how == 0:
        do("DEL", name)
        return "is gone"
    if how == 1:
        verb, *rest = random.choice(OTHER_KINDS)
        do("DEL", name)
        do(verb, name, *rest)
        return f"is made by {verb}"
    if kind == b"string":
        return put(random, do, name)
    if kind == b"hash":
        return put_field(random, do, name)
    return put_member(random, do, name, kind)


def put(random: Random, do: Callable[..., Any], name: bytes) -> str:
    value = random.choice((shaken(random, do("GET", name) or b""), *NUMBERS))
    do("SET", name, value)
    return f"is {value!r:.60}"


def put_field(random: Random, do: Callable[..., Any], name: bytes) -> str:
    pairs = do("HGETALL", name)
    fields = [*pairs] if isinstance(pairs, dict) else pairs[::2]
    field = random.choice(fields)
    value = do("HGET", name, field)
    how = random.randrange(4)
    if how == 0:
        do("HDEL", name, field)
        return f"lacks {field!r}"
    if how == 1:
        other = shaken(random, field)
        do("HDEL", name, field)
        do("HSET", name, other, value)
        return f"has {other!r} instead of {field!r}"
    value = random.choice((shaken(random, value), *NUMBERS))
    do("HSET", name, field, value)
    return f"has {field!r} = {value!r:.60}"


def put_member(random: Random, do: Callable[..., Any], name: bytes, kind: bytes) -> str:
    members = do("ZRANGE", name, 0, -1) if kind == b"zset" else [*do("SMEMBERS", name)]
    member = random.choice(members)
    remove, add = ("ZREM", ("ZADD",)) if kind == b"zset" else ("SREM", ("SADD",))
    score = do("ZSCORE", name, member) if kind == b"zset" else None
    how = random.randrange(4)
    if how == 0:
        do(remove, name, member)
        return f"lacks {member!r:.60}"
    if how == 1 and kind == b"zset":
        number = random.choice((b"-1", b"0", b"1e300", b"inf", b"-inf", b"1.5"))
        do("ZADD", name, number, member)
        return f"has {member!r:.60} at {number!r}"
    other = shaken(random, member)
    if how == 2:
        do(remove, name, member)
    do(add[0], name, *(() if score is None else (score,)), other)
    return f"has {other!r:.60}"


def test_keys_of_every_kind(
    redis_server: RedisServer,
    redis_dsn: str,
    monkeypatch: pytest.MonkeyPatch,
    record_property: Callable[[str, object], None],
) -> None:
    shrink(monkeypatch.setattr)
    random, battery = Random(7), Battery()
    with redis_server.client() as client, Store(redis_dsn, frozen=False, serializer="json") as store:
        do: Callable[..., Any] = client.execute_command
        fill(store)
        names: list[bytes] = sorted(do("KEYS", "rs*"))
        whole: dict[bytes, tuple[bytes, int]] = {name: (do("DUMP", name), max(0, do("PTTL", name))) for name in names}
        kinds = sorted({name[:3] + name.partition(b"}")[2][:1] for name in whole})
        assert len(kinds) > 6
        while battery.damages < how_many(40):
            do("FLUSHALL")
            for name, (dump, ttl_ms) in whole.items():
                do("RESTORE", name, ttl_ms, dump)
            kind = kinds[battery.damages % len(kinds)]
            name = random.choice([one for one in whole if one[:3] + one.partition(b"}")[2][:1] == kind])
            what = f"{name!r:.60} {hurt(random, do, name)}"
            battery.run(what, lambda frozen: Store(redis_dsn, frozen=frozen, serializer="json", timeout=2))
        do("FLUSHALL")
    battery.verdict(record_property)
