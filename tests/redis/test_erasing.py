"""Forgotten and edited sequences on a server: no replaced part stays, and `verify` notices what was written there."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import pytest
from redis_servers import Server as RedisServer
from small import shrink

from rstore import CorruptionError, EncryptionError, Store, generate_key

KEY = generate_key()


def parts(server: RedisServer, kind: bytes) -> list[bytes]:
    """Return the names of all keys of one kind that have the tag of a bucket."""
    return [name for name in server.do("KEYS", "rs{*}*") if name.partition(b"}")[2][:1] == kind]


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    shrink(monkeypatch.setattr)  # so that rows become chunks, and chunks other chunks


def fill(store: Store, key: str, n: int = 60) -> None:
    for t in range(0, 10 * n, 10):
        store.apply(key, {"a": (operator.add, 1) if t else 0, f"{t % 4}": t}, t)
        if t % 100 == 50:
            store.apply(key, {"late": t}, t - 5)


@pytest.mark.parametrize("key", [None, KEY], ids=["plain", "sealed"])
def test_replaced_parts_of_a_forgotten_sequence_do_not_stay_for_their_readers(
    server: RedisServer, key: str | None
) -> None:
    with Store(server.dsn, frozen=False, key=key) as store:
        for name in ("forgotten", "kept", "dropped"):
            fill(store, name)
            store.prune(name, before=300)
        store.prune("dropped", remove=False)
        passing = [body for body in parts(server, b"b") if server.do("PTTL", body) >= 0]
        assert len(passing) > 10
        current = store.current("kept")
        assert store.forget("forgotten") == 1
        assert [body for body in parts(server, b"b") if server.do("PTTL", body) >= 0] == []
        assert not any(b"forgotten" in name for name in server.do("KEYS", "*"))
        assert (store.current("kept"), store.check()) == (current, [])
        assert store.forget("kept", "dropped") == 2
        assert parts(server, b"b") == parts(server, b"r") == parts(server, b"d") == parts(server, b"g") == []


def flip(server: RedisServer) -> None:
    [rows] = parts(server, b"r")
    row = server.do("ZRANGE", rows, 0, 0)[0]
    server.do("ZREM", rows, row)
    server.do("ZADD", rows, 0, row[:-1] + bytes((row[-1] ^ 1,)))


def swap(server: RedisServer) -> None:
    [rows] = parts(server, b"r")
    one, other = server.do("ZRANGE", rows, -2, -1)
    server.do("ZREM", rows, one, other)
    server.do("ZADD", rows, 0, one[:12] + other[12:], 0, other[:12] + one[12:])


def drop(server: RedisServer) -> None:
    [rows] = parts(server, b"r")
    server.do("ZREM", rows, server.do("ZRANGE", rows, -1, -1)[0])


def drop_chunk(server: RedisServer) -> None:
    [chunks] = parts(server, b"c")
    server.do("ZREM", chunks, server.do("ZRANGE", chunks, 1, 1)[0])


def swap_chunks(server: RedisServer) -> None:
    bodies = [body for body in parts(server, b"b") if server.do("PTTL", body) < 0]
    one, other = (server.do("GET", body) for body in bodies[:2])
    server.do("MSET", bodies[0], other, bodies[1], one)


def put_back_chunk(server: RedisServer) -> None:
    """Give a chunk the body that an older one of the same range had, or any older one."""
    older, now = (
        [body for body in parts(server, b"b") if (server.do("PTTL", body) >= 0) is passing] for passing in (True, False)
    )
    server.do("SET", now[0], server.do("GET", older[0]))


@pytest.mark.parametrize("change", [flip, swap, drop, drop_chunk, swap_chunks, put_back_chunk])
@pytest.mark.parametrize("key", [None, KEY], ids=["plain", "sealed"])
def test_what_is_edited_is_noticed(server: RedisServer, key: str | None, change: Callable[[RedisServer], Any]) -> None:
    with Store(server.dsn, frozen=False, key=key) as store:
        fill(store, "k")
        for t in (605, 606, 607):
            store.apply("k", {"behind": t}, t)
        if change is put_back_chunk:
            store.prune("k", before=300)
        assert store.verify("k", store.digest("k")) == store.digest("k")
    change(server)
    unlike = CorruptionError if key is None else EncryptionError
    with Store(server.dsn, key=key) as store, pytest.raises(unlike, match="'k'"):
        store.verify("k")
