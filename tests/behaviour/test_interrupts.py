"""Transactions that are interrupted, at whatever moment: the thread is outside again, and nothing of it was applied."""

from __future__ import annotations

import contextlib
import sys
from itertools import count
from pathlib import Path

import pytest
from interrupting import Interrupting

from rstore import Store, store, transactions

FILES = {transactions.__file__, store.__file__, contextlib.__file__}


def attempt(opened: Store, n: int) -> bool:
    """Return whether a transaction was done before the n-th event came."""
    sys.setprofile(Interrupting(n, FILES))
    try:
        with opened.transaction() as tx:
            tx["a"] = n
            with tx.transaction() as part:
                part["b"] = n
    except KeyboardInterrupt:
        return False
    finally:
        sys.setprofile(None)
    return True


@pytest.mark.parametrize("backend", ["memory", "sqlite"])
def test_the_thread_is_outside_again(backend: str, tmp_path: Path) -> None:
    dsn = "memory://interrupted" if backend == "memory" else str(tmp_path / "store.db")
    with Store(dsn, frozen=False, durability="normal") as opened:
        n = 0
        for n in count(1):
            if attempt(opened, n):
                break
            with opened.snapshot() as view:  # which is refused inside of a transaction
                assert view.get("a", 0) == view.get("b", 0)
            with opened.transaction() as tx:
                tx["c"] = n
            assert opened["c"] == n
        assert n > 30
        assert (opened["a"], opened["b"]) == (n, n)
        opened.discard()
