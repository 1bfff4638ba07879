"""`apply_many` in the middle of what is rare: large changes, and writers that come between two of its reads."""

from __future__ import annotations

from operator import add
from typing import Any
from uuid import uuid4

import pytest

from rstore import Store
from rstore.backends.types import View, ViewQuery
from rstore.events import gathering
from rstore.log.packing import Logs


class Newer(Store):
    """A store whose schema version makes the checkpoints of others useless."""

    _schema_version = 1


@pytest.mark.parametrize("large", ["item", "value", "note", "noting"])
def test_large_changes_are_taken_in_parts(monkeypatch: pytest.MonkeyPatch, large: str) -> None:
    monkeypatch.setattr(gathering, "MAX_BYTES", 10_000)
    text = "x" * 1000
    with Store(f"memory://{uuid4()}", frozen=False) as store:
        changes = (
            ("k", t, {f"{t}{text}" if large == "item" else "a": text if large == "value" else t},
             text if large == "note" else None)
            for t in range(100)
        )  # fmt: skip
        with store.noting(**{"why": text} if large == "noting" else {}):
            parts = [sum(map(len, part.values())) for part in gathering.gather(store._writer, changes)]  # noqa: SLF001
    assert sum(parts) == 100
    assert max(parts) <= 11


def test_a_change_between_two_reads_of_the_past_is_no_damage(monkeypatch: pytest.MonkeyPatch) -> None:
    dsn, asked = f"memory://{uuid4()}", list[Any]()
    with Store(dsn, frozen=False) as older, Newer(dsn, frozen=False) as newer:
        older.apply_many(("k", 10 * t, {"a": (add, 1) if t else 0}) for t in range(300))
        view = Logs.view

        def overtaken(logs: Logs, key: str, query: ViewQuery = ViewQuery()) -> View:  # noqa: B008 - immutable
            asked.append(query.from_checkpoint)
            if len(asked) > 2 and asked[-2] is not None and asked[-1] is None:
                monkeypatch.undo()
                older.apply("k", {"a": (add, 1)})
            return view(logs, key, query)

        newer.current("k")
        monkeypatch.setattr(Logs, "view", overtaken)
        assert newer.apply_many([("k", 2505, {"a": (add, 10)}), ("k", 2995, {"a": (add, 100)})]) == 2
        assert Logs.view is view
        assert newer.current("k") == {"a": 299 + 111}
