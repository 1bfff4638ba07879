"""A follower in another process: how soon it is told of a commit, how much it works while nothing happens.

Run by hand, with a DSN and a number of sequences: `python follow.py sqlite:///tmp/follow.db 1`. It prints milliseconds
from the return of `apply` to the change in the other process, and the share of a core that an idle follower takes.
"""

from __future__ import annotations

import multiprocessing
import sys
import time
from multiprocessing.connection import Connection
from random import Random
from typing import Any, Final

from rstore import Store

CHANGES: Final = 500
IDLE_S: Final = 5.0


def follow(dsn: str, pipe: Connection) -> None:
    """Send when each change was told, by its number, until all were; then how much CPU time idling took."""
    told: dict[int, float] = {}
    with Store(dsn) as store, store.follow(prefix="seq:") as changes:
        pipe.send("ready")
        for change in changes:
            told[change.value] = time.monotonic()
            if len(told) == CHANGES:
                break
        began, cpu = time.monotonic(), time.process_time()
        with store.follow(prefix="seq:", timeout=IDLE_S) as idle:
            next(idle, None)
        pipe.send((told, (time.process_time() - cpu) / (time.monotonic() - began)))


def measure(dsn: str, sequences: int) -> dict[str, Any]:
    """Return the figures of one store."""
    random = Random(1)
    with Store(dsn, frozen=False, durability="normal") as store:
        for i in range(sequences):
            store.apply(f"seq:{i}", {"x": 0})
        ours, theirs = multiprocessing.Pipe()
        process = multiprocessing.get_context("spawn").Process(target=follow, args=(dsn, theirs))
        process.start()
        ours.recv()
        done: dict[int, float] = {}
        for i in range(1, CHANGES + 1):
            time.sleep(random.uniform(0.005, 0.045))
            store.apply(f"seq:{random.randrange(sequences)}", {"x": i})
            done[i] = time.monotonic()
        told, idle = ours.recv()
        process.join()
        store.discard()
    late = sorted(1000 * (told[i] - done[i]) for i in done)
    return {
        "sequences": sequences,
        "p50 ms": round(late[len(late) // 2], 2),
        "p99 ms": round(late[len(late) * 99 // 100], 2),
        "idle % of a core": round(100 * idle, 2),
    }


if __name__ == "__main__":
    print(measure(sys.argv[1], int(sys.argv[2])))
