"""Calls that a signal interrupts, as Ctrl-C does: the process lives, and the next call gets its own reply."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import random, signal, sys, time
from rstore import Store

armed = False

def alarm(*_):
    if armed:
        raise KeyboardInterrupt

signal.signal(signal.SIGALRM, alarm)
random.seed(3)
dsn, verb = sys.argv[1], sys.argv[2]
store = Store(dsn, frozen=False, timeout=10).open()
store.update({f"k{i}": i for i in range(20)})
store.extend_many("s", [(i, i) for i in range(200)])
store.apply("e", {"n": 0})

def reads():
    for i in range(20):
        assert store.get(f"k{i}") == i
        assert store.count("k1") == 11
        assert store.range("s", 5, n=3) == [(5, 5), (6, 6), (7, 7)]

def writes():
    for i in range(20):
        store.set("mine", i, ttl=60)
        assert store.get("mine") == i
        store.extend("t", (i, i))
        store.apply("e", {"n": i})
        assert store.current("e") == {"n": i}

def transactions():
    for i in range(20):
        with store.transaction() as tx:
            tx["one"], tx["other"] = i, i
            assert len(tx) >= 20
        assert store.get_many(["one", "other"]) == {"one": i, "other": i}

def openings():
    with Store(dsn + "/3", frozen=False) as other:
        other["k"] = 1
        with other.watch("k"):
            assert other["k"] == 1

work = globals()[verb]
work()
interrupts, end = 0, time.monotonic() + 4
while time.monotonic() < end:
    try:
        armed = True
        signal.setitimer(signal.ITIMER_REAL, 1e-6 + random.random() * 6e-4)
        work()
        armed = False
    except KeyboardInterrupt:
        interrupts += 1
    finally:
        armed = False
signal.setitimer(signal.ITIMER_REAL, 0)
work()
assert store.get_many([f"k{i}" for i in range(20)]) == {f"k{i}": i for i in range(20)}
assert store.check() == []
assert interrupts > 20, interrupts
"""


@pytest.mark.parametrize("verb", ["reads", "writes", "transactions", "openings"])
def test_a_signal_ends_a_call_and_not_the_process(redis_dsn: str, verb: str) -> None:
    program = [sys.executable, "-c", PROGRAM, redis_dsn, verb]
    ended = subprocess.run(program, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 0, ended.stderr[-2000:]
