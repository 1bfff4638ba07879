"""One change of a sequence in a SQLite file: by one statement, and by the general way where that does not do."""

from __future__ import annotations

import operator
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apsw
import pytest

from rstore import ChangeRefusedError, KeyRequiredError, Store, generate_key
from rstore.backends.sqlite.logs import ADVANCE

ONE = {"n": (operator.add, 1)}


def statements_of(store: Store, call: Callable[[], Any]) -> list[str]:
    """Return the statements that a call executes in this thread."""
    backend: Any = store._writer.backend  # noqa: SLF001 - nothing public tells what it executes
    connection: apsw.Connection = backend._file.local.slot.connection  # noqa: SLF001 - as above
    seen: list[str] = []

    def trace(_: object, sql: str, __: object) -> bool:
        seen.append(" ".join(sql.split()))
        return True

    connection.exec_trace = trace
    try:
        call()
    finally:
        connection.exec_trace = None
    return seen


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


def test_a_change_is_one_statement(path: Path) -> None:
    with Store(path, frozen=False) as store:
        store.apply("k", {"n": 0})
        calls: list[Callable[[], Any]] = [
            lambda: store.apply("k", ONE),
            lambda: store.apply("k", {"other": "x"}, note="why"),
            lambda: store.apply("k", ONE, 10**15),
            lambda: store.apply("k", ONE, if_version=store.version("k")),
        ]
        for call in calls[:3]:
            assert statements_of(store, call) == [ADVANCE]
        assert statements_of(store, calls[3])[-1] == ADVANCE
        assert store.current("k") == {"n": 3, "other": "x"}


def test_what_another_handle_has_changed_takes_the_general_way(path: Path) -> None:
    with Store(path, frozen=False) as store, Store(path, frozen=False) as other:
        for i in range(0, 10, 2):
            store.apply("k", ONE if i else {"n": 1})
            seen = statements_of(other, lambda: other.apply("k", ONE))
            assert seen[-1] == ("COMMIT" if i < 2 else ADVANCE)
            assert other.current("k") == {"n": i + 2}
        with pytest.raises(ChangeRefusedError):
            store.apply("k", {"m": (operator.add, 1)})
        assert len(store.events("k") or ()) == 10


def test_a_change_behind_a_vacuum(path: Path) -> None:
    """It drops what SQLite keeps with the connection, and with it the one statement."""
    with Store(path, frozen=False) as store:
        store.apply("k", {"n": 0})
        store.apply("k", ONE)
        store.vacuum()
        assert ADVANCE not in statements_of(store, lambda: store.apply("k", ONE))
        assert statements_of(store, lambda: store.apply("k", ONE)) == [ADVANCE]
        assert store.current("k") == {"n": 3}


def test_a_sequence_or_a_namespace_that_is_gone(path: Path) -> None:
    with Store(path, frozen=False) as store, Store(path, frozen=False) as other:
        for remove in (lambda: other.prune("k"), other.discard):
            store.apply("k", {"n": 1})
            store.apply("k", {"n": (operator.delitem, None)})
            remove()
            assert store.current("k") is None
            assert store.apply("k", {"m": 1}) == {"m": 1}
            assert store.apply("k", {"m": (operator.add, 1)}) == {"m": 2}
            assert other.current("k") == {"m": 2}


def test_a_namespace_that_got_an_encryption_key_meanwhile(path: Path) -> None:
    """Its version is the same, and what is written to it from now on is to be looked at first."""
    with Store(path, frozen=False, allow_plaintext=True) as store:
        store.apply("k", {"n": 0})
        before = store._writer.incarnation  # noqa: SLF001 - nothing public tells that it looked again
        with Store(path, key=generate_key(), frozen=False, allow_plaintext=True) as other:
            other["secret"] = 1
        assert store.apply("k", ONE) == {"n": 1}
        assert store._writer.incarnation != before  # noqa: SLF001 - as above
        with pytest.raises(KeyRequiredError):
            store["secret"] = 2
