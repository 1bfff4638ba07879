"""A long event sequence in chunks, asked for its past in every way."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from random import Random
from time import process_time, process_time_ns
from typing import Any, Final

import numpy as np
from child import Figures, each, make_store, p50, p99, serve

from rstore.backends.types import Commit
from rstore.codec.change_columns import ChangeColumns
from rstore.codec.changes import OP_CODES, Facts, Tally, Tip, new_tag
from rstore.codec.columns import Column, Kind
from rstore.codec.segments import Segment
from rstore.events.checkpoints import CheckpointPolicy, seal_checkpoint
from rstore.events.heads import seal_facts, seal_tip
from rstore.events.state import State

ITEMS: Final = 20
BATCH: Final = 2**16
START: Final = 1_700_000_000_000
STEP: Final = 10
LISTED: Final = 200_000
NORMAL: Final = {"durability": "normal"}
SET: Final = OP_CODES["setitem"]
ADD: Final = OP_CODES["add"]
CHANGE_BYTES: Final = 28


class Builder:
    """Writes a sequence of changes of one item each: every second one sets it, the others add to it.

    Through the log engine, with the checkpoints that `apply` would have made: ten million calls of it take an hour.
    """

    def __init__(self, store: Any, key: str) -> None:
        self._key = key
        self._session = store._writer  # noqa: SLF001 - no verb writes so many
        self._envelope = self._session.events.envelope
        self._head = self._session.events.new_head(seal_facts(self._envelope, key, Facts()))
        self._random = np.random.default_rng(1)
        self._policy = CheckpointPolicy()
        self._tally = Tally()
        self.state: dict[str, int] = dict.fromkeys((f"item-{i}" for i in range(ITEMS)), 0)

    def add(self, size: int) -> None:
        """Write so many more changes."""
        logs, random, start = self._session.events, self._random, self._tally.n
        t, names = START + STEP * np.arange(start, start + size), [*self.state]
        items = [names[i] for i in random.integers(0, ITEMS, size).tolist()]
        codes = np.where(np.arange(size) % 2 == 0, SET, ADD).astype(np.uint8)
        if start == 0:
            items[:ITEMS], codes[:ITEMS] = names, SET
        operands = random.integers(0, 10**6, size)
        tags = np.array([new_tag() for _ in range(size)], np.uint64) if self._envelope.keyed else None
        columns = ChangeColumns(
            np.arange(start + 1, start + size + 1),
            np.zeros(size, np.int64),
            (None, codes, items),
            Column(Kind.INT, operands),
            (tags, None, None, None),
        )
        checkpoints = []
        drawn = [0] * size if tags is None else tags.tolist()
        for at, item, code, operand, tag in zip(
            t.tolist(), items, codes.tolist(), operands.tolist(), drawn, strict=True
        ):
            self.state[item] = operand if code == SET else self.state[item] + operand
            self._tally = self._tally.joined(1, tag, self._tally.n + 1)
            encode = self._session.codec.encode
            if self._policy.changes < 95:  # as long as none can be due
                self._policy.changes, self._policy.size = self._policy.changes + 1, self._policy.size + CHANGE_BYTES
                continue
            state = State(self._session.codec, None, {one: encode(value) for one, value in self.state.items()})
            if self._policy.due(CHANGE_BYTES, state):
                place = self._envelope, self._key, self._head, (at, 0)
                checkpoints.append(seal_checkpoint(*place, state, self._tally))
        tip = Tip(self._tally.n, int(t[-1]), bytes(32), self._tally, 1)
        commit = Commit(
            create=self._head,
            version=seal_tip(self._envelope, self._key, self._head, tip),
            put_chunks=logs.seal_chunks(self._key, Segment(t, None, Column(Kind.CHANGES, columns)), self._head),
            put_checkpoints=checkpoints,
        )
        if not logs.commit(self._key, commit, logs.incarnation):
            raise SystemExit("the sequence was not written")


def rate(n: int, call: Callable[[], object]) -> float:
    """Return how many of `n` things a call does in a second of the processor."""
    begin = process_time()
    call()
    return n / (process_time() - begin)


def each_cpu(call: Callable[[int], object], arguments: Iterable[int]) -> list[float]:
    """Return the microseconds of the processor that each call takes: the slowest is not one that had to wait for it."""
    taken = []
    for argument in arguments:
        begin = process_time_ns()
        call(argument)
        taken.append((process_time_ns() - begin) / 1000)
    return taken


def drain(changes: Iterator[Any], n: int) -> None:
    """Go through all changes, of which there are `n`."""
    if sum(1 for _ in changes) != n:
        raise SystemExit("some changes are missing")


def measure(directory: Path, *, n: int, calls: int, key: str | None) -> Iterator[Figures]:
    """Write a sequence of `n` changes, then ask it in every way."""
    file, random = directory / "history.db", Random(1)
    listed = min(n, LISTED)
    last = START + STEP * (n - 1)
    bounds = last - STEP * (listed - 1), last
    expected: dict[int, dict[str, int]] = {}
    with make_store(file, key, NORMAL) as store:
        builder = Builder(store, "sequence")
        for start in range(0, n, BATCH):
            builder.add(min(BATCH, n - start))
            expected[min(start + BATCH, n)] = builder.state.copy()
    weight = file.stat().st_size / n
    with make_store(file, key, NORMAL) as store:
        found = store.past("sequence", [START + STEP * (i - 1) for i in expected])
        if [*expected.values()] != found or store.current("sequence") != found[-1]:
            raise SystemExit("the states are others than were written")
        while True:
            times = [random.randint(START, last) for _ in range(calls)]
            some, hundred = max(10, calls // 10), sorted(times[:100])
            past = each_cpu(lambda t: store.past("sequence", t), times)
            yield {
                "current": p50(each(lambda _: store.current("sequence"), range(calls))),
                "past": p50(past), "past_p99": p99(past), "past_max": max(past),
                "many": p50(each(lambda one: store.past("sequence", one), [hundred] * 3)) / len(hundred),
                "known": p50(each(lambda t: store.past("sequence", t, known=t - 1000), times[:some])),
                "commit": p50(each(lambda _: store.past("sequence", n=random.randint(1, n)), range(some))),
                "blame": p50(each(
                    lambda i: [*store.history("sequence", f"item-{i % ITEMS}", reverse=True, limit=1)], range(some)
                )),
                "events": rate(listed, lambda: store.events("sequence", *bounds)),
                "history": rate(listed, lambda: drain(store.history("sequence", None, *bounds), listed)),
                "backwards": rate(
                    listed, lambda: drain(store.history("sequence", None, *bounds, reverse=True), listed)
                ),
                "bytes": weight,
            }  # fmt: skip


if __name__ == "__main__":
    serve(measure)
