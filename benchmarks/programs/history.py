"""A long event sequence in chunks, asked for its history."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from time import process_time
from typing import Any, Final

import numpy as np
from child import Figures, each, make_store, p50, seconds, serve

from rstore.backends.types import Commit, Head
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
NORMAL: Final = {"durability": "normal"}
SET: Final = OP_CODES["setitem"]
ADD: Final = OP_CODES["add"]


def write(store: Any, key: str, n: int) -> None:
    """Write a sequence of `n` changes of one item each, every second one sets it, the others add to it.

    Through the log engine, with the checkpoints that `apply` would have made: ten million calls of it take an hour.
    """
    session, random = store._writer, np.random.default_rng(1)  # noqa: SLF001 - no verb takes so many at once
    logs, codec = session.events, session.codec
    envelope = logs.envelope
    head: Head = logs.new_head(seal_facts(envelope, key, Facts()))
    values = dict.fromkeys((f"item-{i}" for i in range(ITEMS)), 0)
    names, policy, tags = [*values], CheckpointPolicy(), 0
    for start in range(0, n, BATCH):
        size = min(BATCH, n - start)
        t = START + 10 * np.arange(start, start + size)
        items = [names[i] for i in random.integers(0, ITEMS, size).tolist()]
        operands = random.integers(0, 10**6, size)
        if start == 0:
            items[:ITEMS] = names
        codes = np.where(np.arange(size) % 2 == 0, SET, ADD).astype(np.uint8)
        if start == 0:
            codes[:ITEMS] = SET
        drawn = np.array([new_tag() for _ in range(size)], np.uint64) if envelope.keyed else None
        tally = np.cumsum(drawn).tolist() if drawn is not None else [0] * size
        columns = ChangeColumns(
            np.arange(start + 1, start + size + 1),
            np.zeros(size, np.int64),
            (None, codes, items),
            Column(Kind.INT, operands),
            (drawn, None, None, None),
        )
        checkpoints = []
        for i, (item, code, operand) in enumerate(zip(items, codes.tolist(), operands.tolist(), strict=True)):
            values[item] = operand if code == SET else values[item] + operand
            policy.changes += 1
            policy.size += 28
            if policy.changes >= 96:
                state = State(codec, None, {one: codec.encode(value) for one, value in values.items()})
                if policy.due(0, state):
                    upto = Tally(start + i + 1, (tags + tally[i]) % 2**64, start + i + 1)
                    checkpoints.append(seal_checkpoint(envelope, key, head, (int(t[i]), 0), state, upto))
        tags = (tags + tally[-1]) % 2**64
        upto = Tally(start + size, tags, start + size)
        commit = Commit(
            create=head,
            version=seal_tip(envelope, key, head, Tip(start + size, int(t[-1]), bytes(32), upto, 1)),
            put_chunks=logs.seal_chunks(key, Segment(t, None, Column(Kind.CHANGES, columns)), head),
            put_checkpoints=checkpoints,
        )
        if not logs.commit(key, commit, logs.incarnation):
            raise SystemExit("the sequence was not written")


def cpu(call: Callable[[], object]) -> float:
    """Return the seconds of the processor that a call takes."""
    begin = process_time()
    call()
    return process_time() - begin


def drain(iterator: Iterator[Any]) -> int:
    """Return how many items there are."""
    return sum(1 for _ in iterator)


def measure(directory: Path, *, n: int, calls: int, key: str | None) -> Iterator[Figures]:
    """Write a sequence of `n` changes, then ask it in every way."""
    file, random = directory / "history.db", Random(1)
    last = START + 10 * (n - 1)
    listed = min(n, 200_000)
    bounds = last - 10 * (listed - 1), last
    with make_store(file, key, NORMAL) as store:
        write(store, "sequence", n)
    weight = file.stat().st_size / n
    while True:
        with make_store(file, key, NORMAL) as store:
            first = seconds(lambda: store.current("sequence"))
            current = each(lambda _: store.current("sequence"), range(calls))
            times = [random.randint(START, last) for _ in range(calls)]
            store.past("sequence", START)
            past = each(lambda t: store.past("sequence", t), times)
            known = each(lambda t: store.past("sequence", t, known=t - 1000), times[: calls // 10])
            commits = each(lambda i: store.past("sequence", n=i), [random.randint(1, n) for _ in range(calls // 10)])
            blame = each(
                lambda i: [*store.history("sequence", f"item-{i % ITEMS}", reverse=True, limit=1)], range(calls // 10)
            )
            gc.collect()
            yield {
                "first": first * 1e6, "current": p50(current),
                "past": p50(past), "past_max": max(past),
                "known": p50(known), "commit": p50(commits), "blame": p50(blame),
                "events": listed / cpu(lambda: store.events("sequence", *bounds)),
                "history": listed / cpu(lambda: drain(store.history("sequence", None, *bounds))),
                "backwards": listed / cpu(lambda: drain(store.history("sequence", None, *bounds, reverse=True))),
                "bytes": weight,
            }  # fmt: skip


if __name__ == "__main__":
    serve(measure)
