"""The rows that tell which ids were applied: how long they are kept, how much space they take, and damage to them."""

from __future__ import annotations

import operator
import time
from pathlib import Path
from typing import Any

import pytest

from rstore import ConflictError, CorruptionError, KeyRequiredError, Store
from rstore.backends.types import MAX_INT64, Commit, Log, Model, Row
from rstore.events.ids import Once
from rstore.log.packing import Logs
from rstore.testing.flavours import KEY

ADD = {"n": (operator.add, 1)}
ONE_MORE = {"by": "ada"}


def rows(store: Store, key: str) -> list[Row]:
    return list(store._reader.backend.view(Log(Model.IDS, key)).rows)  # noqa: SLF001 - no verb tells them


def expiries(store: Store, key: str) -> list[int]:
    return [int.from_bytes(row.body[:8], "big", signed=True) for row in rows(store, key)]


@pytest.fixture(params=[None, KEY], ids=["plain", "sealed"])
def key(request: pytest.FixtureRequest) -> str | None:
    return request.param  # type: ignore[no-any-return]


def test_how_long_an_id_is_kept(tmp_path: Path, key: str | None) -> None:
    path = tmp_path / "store.db"
    cases: list[tuple[float, dict[str, Any]]] = [(7 * 86_400, {}), (60, {"id_ttl": 60}), (0.5, {"id_ttl": 0.5})]
    for ttl_s, options in cases:
        with Store(path, frozen=False, key=key, **options) as store:
            began_ms = int(time.time() * 1000)
            store.apply("k", {"n": 0}, id=f"{ttl_s}")
            (expiry,) = set(expiries(store, "k")) - {0}
            assert 0 <= expiry - began_ms - 1000 * ttl_s < 20_000
            store.discard()
    with Store(path, frozen=False, key=key, id_ttl=None) as store:
        store.apply("k", {"n": 0}, id="a")
        assert expiries(store, "k") == [MAX_INT64]


def test_expired_ids_take_bounded_space(tmp_path: Path, key: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = [1_000_000.0]
    monkeypatch.setattr("time.time", lambda: now_s[0])
    with Store(tmp_path / "store.db", frozen=False, key=key, id_ttl=100, durability="normal") as store:
        for i in range(2000):
            now_s[0] += 1
            store.apply("k", {"n": i}, id=f"{i}")
        live = sum(expiry > now_s[0] * 1000 for expiry in expiries(store, "k"))
        assert live == 100
        assert len(rows(store, "k")) < 2 * live
        assert store.check() == []


def test_each_id_has_one_row(tmp_path: Path, key: str | None) -> None:
    with Store(tmp_path / "store.db", frozen=False, key=key) as store:
        for _ in range(2):
            for i in range(20):
                store.apply("k", {"n": i}, id=f"{i}")
        with pytest.raises(ConflictError):
            store.apply("k", {"n": 20}, id="1")
        assert len(rows(store, "k")) == 20
        assert all(len(row.body) == 24 for row in rows(store, "k"))


def test_the_note_and_the_function_are_parts_of_the_change(tmp_path: Path, key: str | None) -> None:
    def once_more(state: dict[str, int]) -> dict[str, int]:
        calls.append(1)
        return {"n": state.get("n", 0) + 1}

    calls: list[int] = []
    with Store(tmp_path / "store.db", frozen=False, key=key) as store:
        for _ in range(2):
            assert store.apply("k", once_more, id="a") == {"n": 1}
        for _ in range(2):
            with store.noting(**ONE_MORE):
                assert store.apply("k", ADD, id="b") == {"n": 2}
        assert store.apply("k", ADD, id="b", note=ONE_MORE) == {"n": 2}
        for change, note in ((ADD, None), (ADD, {"by": "bob"}), (once_more, ONE_MORE)):
            with pytest.raises(ConflictError):
                store.apply("k", change, id="b", note=note)
        assert [(change.id, change.note) for change in store.history("k")] == [("a", None), ("b", ONE_MORE)]
        assert len(calls) == 1


def test_the_version_is_that_of_the_first_try(tmp_path: Path, key: str | None) -> None:
    with Store(tmp_path / "store.db", frozen=False, key=key) as store:
        for _ in range(2):
            assert store.apply("k", {"n": 0}, id="a", if_version=None) == {"n": 0}
        version = store.version("k")
        for _ in range(2):
            assert store.apply("k", ADD, id="b", if_version=version) == {"n": 1}
        with pytest.raises(ConflictError) as raised:
            store.apply("k", ADD, id="c", if_version=version)
        assert raised.value.expected == version
        assert store.apply("k", ADD, id="c") == {"n": 2}


def test_a_damaged_id_is_found(tmp_path: Path, key: str | None) -> None:
    with Store(tmp_path / "store.db", frozen=False, key=key) as store:
        store.apply("k", {"n": 0}, id="a")
        (row,) = rows(store, "k")
        session = store._writer  # noqa: SLF001 - no verb damages it
        cut = Commit(put_rows=[row._replace(body=row.body[:-1])])
        assert session.backend.commit(Log(Model.IDS, "k"), cut, session.incarnation)
        (finding,) = store.check()
        assert (finding.model, finding.key, finding.problem) == ("events", "k", "an id of a change is damaged")
        with pytest.raises(CorruptionError, match="an id of 'k'"):
            store.apply("k", {"n": 0}, id="a")


def test_a_sequence_that_cannot_be_forgotten_keeps_its_ids(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    with Store(path, frozen=False, key=KEY) as store:
        store.apply("k", {"n": 0})
        store.apply("k", ADD, id="a")
    with Store(path, frozen=False, allow_plaintext=True) as other, pytest.raises(KeyRequiredError):
        other.forget("k")
    with Store(path, frozen=False, key=KEY) as store:
        assert store.apply("k", ADD, id="a") == {"n": 1}


def test_a_namespace_that_is_discarded_behind_the_look_for_an_id(
    tmp_path: Path, key: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "store.db"
    with Store(path, frozen=False, key=key) as store, Store(path, frozen=False, key=key) as other:
        store.apply("k", {"n": 0})
        look = Once._is_applied  # noqa: SLF001

        def overtaken(once: Once, logs: Logs) -> bool:
            found = look(once, logs)
            monkeypatch.undo()
            other.discard()
            store["a"] = 1  # which finds the new namespace
            return found

        monkeypatch.setattr(Once, "_is_applied", overtaken)
        for _ in range(2):
            assert store.apply("k", {"n": 1}, id="a") == {"n": 1}
        assert len(store.events("k") or ()) == 1
