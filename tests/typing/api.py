"""The API as a user would use it, for type checkers; it is also run."""

from __future__ import annotations

import json
import operator
from collections.abc import ItemsView, Iterator, ValuesView
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, assert_type

from rstore import (
    Change,
    ChangeRefusedError,
    DataPickle,
    Durability,
    Entry,
    Event,
    Finding,
    Follow,
    Followed,
    HorizonError,
    InvalidArgumentError,
    InvalidTypeError,
    InvalidValueError,
    Passphrase,
    Reclaimed,
    Stats,
    Store,
    StoreError,
    Watch,
    Watched,
    generate_key,
)


@dataclass
class Point:
    x: float
    y: float


class JsonStore(Store):
    _namespace = "json"
    _freq = 60
    _schema_version = 1

    def _upcast(self, item: str, value: Any, version: int) -> Any:
        return f"{value}" if item == "name" and version < 1 else value

    def _dump(self, value: Any) -> str:
        return json.dumps(value)

    def _load(self, data: Any) -> Any:
        return json.loads(data)


class BytesStore(Store):
    _key = generate_key()

    def _dump(self, value: Any) -> bytes:
        return json.dumps(value).encode()

    def _load(self, data: Any) -> Any:
        return json.loads(data)


def open_stores(directory: Path) -> None:
    key = assert_type(generate_key(), str)
    stores: list[Store] = [
        Store(directory / "a.db", frozen=False),
        Store(f"sqlite://{directory}/b.db", "namespace", key, False),
        Store(str(directory / "c.db"), key=[key, key.encode(), bytes(32)], frozen=False),
        Store("memory://phrase", key=Passphrase("correct horse"), frozen=False, timeout=5),
        JsonStore("memory://typing", frozen=False),
        BytesStore("memory://typing", frozen=False, durability="normal"),
        Store("memory://typing", "safe", frozen=False, serializer="json", allow_plaintext=True, compress=True),
        Store("memory://typing", "data", frozen=False, serializer="data"),
        Store("memory://typing", "data", frozen=False, serializer=DataPickle(allow=[Point])),
    ]
    Store("postgresql://ada@db.example.com/data", credentials=lambda: "token")  # nothing is asked before it is opened
    Store("redis+sentinel://10.0.0.1,10.0.0.2/orders", credentials=lambda: ("ada", "token"))
    for store in stores:
        with store as opened:
            assert_type(opened, Store)
            opened.set("k", 1)
        store.open()
        store.close()
    with JsonStore("memory://typing") as subclassed:
        assert_type(subclassed, JsonStore)


def use_values(store: Store) -> None:
    store["k"] = 1
    assert_type(store["k"], Any)
    assert_type(store.get("k"), Any)
    version = assert_type(store.set("k", 1, ttl=0.5), bytes)
    assert_type(store.set("k", 1, if_version=version), bytes)
    assert_type(store.delete("a", "b"), int)
    assert_type(store.delete("a", if_version=None), int)
    assert_type(store.get_many(["a", "b"]), dict[str, Any])
    store.set_many({"a": 1}, ttl=60)
    store.set_many([("a", 1)], atomic=False)
    assert_type(store.add("a", 1, ttl=60), bool)
    assert_type(store.incr("n", 0.5, default=1), Any)
    assert_type(store.modify("n", lambda n: n + 1, default=0), Any)
    assert_type(store.get_or_set("g", list, ttl=60), Any)
    assert_type(store.touch("g", None), bool)
    entry = assert_type(store.entry("n"), Entry | None)
    if entry is not None:
        assert_type(entry.key, str)
        assert_type(entry.value, Any)
        assert_type(entry.version, bytes)
        assert_type(entry.expires, int | None)
    assert_type(store.scan("n", start="a", stop="z", reverse=True, limit=5), Iterator[Entry])
    watch = store.watch("n", prefix="n.", timeout=0)
    assert_type(watch, Watch)
    for seen in watch:
        assert_type(seen, Watched)
        assert_type(seen.entry, Entry | None)
    watch.close()
    follow = store.follow("e", prefix="e.", after="", timeout=0)
    assert_type(follow, Follow)
    for told in follow:
        assert_type(told, Followed)
        assert_type((told.key, told.n, told.cursor), tuple[str, int, str])
    assert_type(follow.cursor, str)
    assert_type(store.project("p", lambda total, change: total + change.n, prefix="e.", initial=0), int | None)
    assert_type(store.count("n"), int)
    assert_type(store.delete_prefix("n"), int)
    assert_type(store.has("k"), bool)
    assert_type("k" in store, bool)
    assert_type(len(store), int)
    assert_type(store.keys()[:], list[str])
    assert_type(store.keys() & {"a"}, set[str])
    assert_type(iter(store), Iterator[str])
    assert_type(store.find("k*"), list[tuple[str, Any]])
    for key, value in store.items():
        assert_type(key, str)
        assert_type(value, Any)
    items: ItemsView[str, Any] = store.items()
    values: ValuesView[Any] = store.values()
    assert len(items) == len(values)
    store.update({"a": 1}, b=2)
    store.update([("c", 3)])
    assert_type(store.popitem(), tuple[str, Any])
    store.pop("a", None)
    store.setdefault("a", [])
    assert_type({store: 1}[store], int)
    store.clear()


def use_series(store: Store) -> None:
    assert_type(store.extend("s", (1, "a"), (2, 2.5)), int)
    assert_type(store.extend_many("s", ((t, t * 0.5) for t in range(10))), int)
    assert_type(store.range("s", 1, n=5, end=10, freq=2), list[tuple[int, Any]])
    assert_type(store.first("s"), tuple[int, Any] | None)
    assert_type(store.last("s"), tuple[int, Any] | None)
    assert_type(store.missing("s", 1, 10, 1), list[int])
    assert_type(store.iscomplete("s", 1, end=10, freq=1), bool)
    assert_type(store.extend_frame({"t": [1], "a": [2], "b": [3]}, timestamps="t", atomic=False), int)
    assert_type(store.at("s", 1), tuple[int, Any] | None)
    assert_type(store.at("s", datetime.now(UTC), "previous", unit="us"), tuple[int, Any] | None)
    assert_type(store.timeseries(), list[str])
    store._freq = 60  # noqa: SLF001 - documented
    store.remove("s", start=1, end=5)


def take_care(store: Store, directory: Path) -> None:
    assert_type(store.namespaces(), list[str])
    assert_type(store.ping(), float)
    assert_type(store.stats(), Stats)
    assert_type(store.stats().counters["retries"], int)
    assert_type(store.durability(), Durability)
    assert_type(store.durability().survives_crash, bool | None)
    assert_type(store.check(), list[Finding])
    store.backup(directory / "copy.db")
    assert_type(store.vacuum(), Reclaimed)


def use_events(store: Store) -> None:
    assert_type(store.apply("e", {"a": 1, "b": [1]}, 1), dict[str, Any] | None)
    store.apply("e", {"a": (operator.add, 1), "b": (operator.delitem, None)}, t=2)
    assert_type(store.apply("e", lambda state: {"a": state["a"] + 1}, note={"by": "ada"}), dict[str, Any] | None)
    assert_type(store.version("e"), bytes | None)
    with store.noting(by="ada"):
        store.apply("e", {"a": 1}, if_version=store.version("e"))
    assert_type(store.check_change("e", {"a": (operator.add, 1)}, t=3), dict[str, Any] | None)
    assert_type(store.apply("e", {"a": 1}, id="once", note={"by": "ada"}), dict[str, Any] | None)
    assert_type(store.current("e"), dict[str, Any] | None)
    assert_type(store.current("e", withtimestamp=True), tuple[int, dict[str, Any]] | None)
    assert_type(store.past("e", 1), dict[str, Any] | None)
    assert_type(store.past("e", 1, withtimestamp=True), tuple[int, dict[str, Any]] | None)
    assert_type(store.past("e", n=1), dict[str, Any] | None)
    assert_type(store.past("e", [1, 2], known=5), list[dict[str, Any] | None])
    assert_type(store.past("e", (1,), withtimestamp=True), list[tuple[int, dict[str, Any]] | None])
    assert_type(store.diff("e", 1), dict[str, tuple[Any, Any]] | None)
    for change in store.history("e", "item", reverse=True, limit=1):
        assert_type(change, Change)
        assert_type(change.recorded, int)
        assert_type(change.id, str | None)
    store.events("e", item="item", limit=5, reverse=True)
    events = assert_type(store.events("e", 0, 10, [operator.add, operator.setitem]), list[Event] | None)
    for timestamp, item, op, value in events or []:
        assert_type(timestamp, int)
        assert_type(item, str)
        assert callable(op)
        assert_type(value, Any)
    store.events("e", ops=operator.add)
    assert_type(store.eventsources(), list[str])
    assert_type(store.eventsequences(), list[str])
    assert_type(store.revert("e", 1, ["item"]), dict[str, Any] | None)
    store.apply("undone", {"a": 1})
    assert_type(store.undo("undone", 1), dict[str, Any] | None)
    assert_type(store.apply_many([("loaded", 1, {"a": 1}), ("loaded", 1, {"a": (operator.add, 1)})]), int)
    assert_type(store.apply_many(("loaded again", t, {"a": t}, {"by": "ada"}) for t in range(3)), int)
    assert_type(store.digest("e"), str | None)
    assert_type(store.verify("e", store.digest("e")), str | None)
    assert_type(store.prune("e", remove=False), int)
    assert_type(store.prune("e", before=1, dry_run=True), int)
    assert_type(store.forget("undone"), int)


def meet_errors(store: Store) -> None:
    try:
        store.apply("unknown", {"a": (operator.add, 1)})
    except ChangeRefusedError as error:
        assert_type(error.key, str)
        assert_type(error.t, int)
        assert_type(error.item, str)
    try:
        store.past("e", -(10**9))
    except HorizonError as error:
        assert_type(error.horizon, int)
    kinds: list[type[StoreError]] = [InvalidArgumentError, InvalidTypeError, InvalidValueError]
    builtin: tuple[type[TypeError], type[ValueError]] = (InvalidTypeError, InvalidValueError)
    assert len(kinds) > len(builtin)


def main(directory: Path) -> None:
    open_stores(directory)
    with Store("memory://typing", "main", frozen=False) as store:
        use_values(store)
        use_series(store)
        use_events(store)
        meet_errors(store)
        take_care(store, directory)
