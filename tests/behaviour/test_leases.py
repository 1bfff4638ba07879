"""Who computes the value of a key and is interrupted, at whatever moment: others need not wait for long."""

from __future__ import annotations

import sys
import threading
from itertools import count
from pathlib import Path

import pytest
from interrupting import Interrupting
from waiting import until

from rstore import Store
from rstore.keyvalue import atomic, leases

FILES = {atomic.__file__, leases.__file__, threading.__file__}


def renewers() -> list[threading.Thread]:
    # An interrupt in `start` may leave one in the list that was never begun.
    return [thread for thread in threading.enumerate() if thread.name == "rstore lease" and thread.is_alive()]


@pytest.mark.parametrize("backend", ["memory", "sqlite"])
def test_no_lease_is_renewed_after_an_interrupt(backend: str, tmp_path: Path) -> None:
    dsn = "memory://interrupted" if backend == "memory" else str(tmp_path / "store.db")
    with Store(dsn, frozen=False, durability="normal") as store:
        n = 0
        for n in count(1):
            sys.setprofile(Interrupting(n, FILES))
            try:
                store.get_or_set(f"k{n}", lambda: 1)
                break  # it was done before the n-th event came
            except (KeyboardInterrupt, RuntimeError):  # the latter of a Condition that is interrupted while it waits
                continue
            finally:
                sys.setprofile(None)
                until(lambda: not renewers(), f"a lease is renewed after event {n}")
        assert n > 20
        store.discard()
