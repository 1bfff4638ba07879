"""A program that feeds damaged bytes to the decoders of logs, under a limit of memory, and prints what came of it.

Arguments: the seed, how many seconds. It ends with status 1 where anything but a StoreError is raised, where an example
takes a second of the processor, or where they take more memory than decoders promise.
"""

from __future__ import annotations

import json
import random
import resource
import struct
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import zstandard

from rstore import StoreError
from rstore.codec import chunks, columns, packing
from rstore.codec.change_columns import ChangeColumns
from rstore.codec.changes import (
    Facts,
    Step,
    StoredChange,
    Tally,
    pack_change,
    pack_facts,
    pack_state,
    unpack_change,
    unpack_facts,
    unpack_state,
)
from rstore.codec.chunk_meta import pack_meta, unpack_meta
from rstore.codec.columns import Blobs, Column, Kind
from rstore.codec.compression import compress, decompress
from rstore.codec.formats import Json, Pickle
from rstore.codec.segments import Segment, merge
from rstore.codec.serializers import Codec
from rstore.events.state import CannotFold, State

MIB = 1024 * 1024
CODEC = Codec(Pickle())
SAFE = Codec(Json())
EXTREMES = (0, 1, 2, 127, 128, 255, 256, 2**14, 2**15, 2**16 - 1, 2**20, 2**24, 2**30, 2**31 - 1, 2**31, 2**32 - 1)


def limit() -> None:
    """Let this process take 768 MiB of addresses more than it has; what is to be read takes 64 at the most."""
    resource.setrlimit(resource.RLIMIT_AS, (memory("VmSize") + 768 * MIB, -1))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def memory(what: str) -> int:
    """Return a figure of Linux about this process; `VmHWM` and not `ru_maxrss`, which is inherited."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(what)) * 1024


# -- sound bytes ------------------------------------------------------------------------------------------------------


def segments(rng: random.Random) -> Iterator[Segment]:
    """Yield rows of every kind of column, few and many, smooth and random."""
    while True:
        n = rng.choice((1, 2, 7, 100, 3000, 16383))
        apart = rng.choice((1, 100, 2**40))
        t = np.cumsum(np.array([rng.randrange(apart) + 1 for _ in range(n)], np.int64)) + rng.choice((0, -(2**62)))
        kind = rng.choice([*Kind])
        if kind is Kind.STR:
            words = [rng.randbytes(rng.randrange(30)).hex() for _ in range(rng.choice((1, 3, n)))]
            column = Column(kind, [rng.choice(words) for _ in range(n)])
        elif kind is Kind.CHANGES:
            n = min(n, 2000)  # a chunk has no more
            t = t[:n]
            column = Column(
                kind, ChangeColumns.of([new_change(rng, i)._replace(t=time) for i, time in enumerate(t.tolist())])
            )
        elif kind is Kind.ENCODED:
            column = Column(kind, Blobs.of([SAFE.encode([i, "x" * (i % 30)]) for i in range(n)]))
        else:
            dtype = columns.DTYPES[kind]
            raw = np.frombuffer(rng.randbytes(n * dtype.itemsize), dtype if dtype.kind != "b" else np.uint8)
            column = Column(kind, (raw & 1).astype(bool) if dtype.kind == "b" else raw)
        seq = np.arange(n, dtype=np.int64) if rng.random() < 0.2 else None
        yield Segment(t, seq, column)


def steps(rng: random.Random) -> list[Step]:
    """Return the steps of a change, some of which compute."""
    operands: tuple[Any, ...] = (1, -1.5, "a", "a" * 1000, [1, 2], 2**62, 10**400, True, None)
    some = []
    for _ in range(rng.randrange(1, 20)):
        op = rng.choice(
            ("setitem", "setitem", "delitem", "add", "mul", "pow", "concat", "neg", "not_", "floordiv", "mod")
        )
        unary = op in ("delitem", "neg", "not_")
        some.append(Step(rng.choice("abc"), op, None if unary else CODEC.encode(rng.choice(operands))))
    return some


# -- damage -----------------------------------------------------------------------------------------------------------


def damage(rng: random.Random, body: bytes) -> bytes:
    """Return bytes with some of them altered, taken out, put in, repeated, or exchanged for a number at a limit."""
    raw = bytearray(body)
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        at = min(len(raw), rng.choice((rng.randrange(len(raw) + 1), rng.randrange(64))))
        how = rng.randrange(6)
        if how == 0 and raw:
            raw[min(at, len(raw) - 1)] ^= 1 << rng.randrange(8)
        elif how == 1:
            del raw[at : at + rng.choice((1, 4, 100))]
        elif how == 2:
            raw[at:at] = rng.randbytes(rng.choice((1, 4, 8)))
        elif how == 3:
            raw[at : at + 4] = rng.choice(EXTREMES).to_bytes(4, rng.choice(("big", "little")))
        elif how == 4:
            raw[at : at + 8] = (rng.choice(EXTREMES) << rng.choice((0, 20, 32))).to_bytes(8, "little")[:8]
        else:
            raw[at:at] = raw[at : at + rng.choice((4, 16))]
    return bytes(raw)


def bomb(rng: random.Random) -> tuple[bytes, int]:
    """Return the body of a chunk that is well formed, and claims to hold far more than it is long."""
    n, size = rng.choice((1, 2, 16384)), rng.choice((2**16, 2**20, 2**23, 2**26))
    frame = zstandard.ZstdCompressor(1).compress(bytes(size))
    lengths = packing.pack_numbers(np.full(n, size // n, np.int64))
    blobs = struct.pack(">I", len(lengths)) + lengths + frame
    kind = rng.choice((Kind.ENCODED, Kind.STR))
    one = packing.pack_numbers(np.array([size], np.int64))
    word = struct.pack(">I", len(one)) + one + frame
    values = blobs if kind is Kind.ENCODED else b"\x01" + struct.pack(">II", 1, len(word)) + word
    t = packing.pack_numbers(np.arange(n, dtype=np.int64))
    return struct.pack(">BBIII", 1, kind, n, len(t), 0) + t + values, n


# -- reading ----------------------------------------------------------------------------------------------------------


def read_chunk(body: bytes, n: int) -> None:
    """Unpack a chunk, and look at it in every way."""
    segment = chunks.unpack_chunk(body, n)
    assert len(segment) == len(segment.column) == n
    column = segment.column
    if column.kind is not Kind.ENCODED:
        column.values(SAFE)
    column.array(SAFE)
    column.encoded()
    merge([segment, segment.slice(0, 1)])
    if n > 1:
        chunks.pack_chunk(segment)


def read_meta(body: bytes, n: int, span: int) -> None:
    """Unpack a summary, and compute with it."""
    meta = unpack_meta(body, n, span)
    if meta.stats is not None:
        assert meta.stats.low <= meta.stats.high
        assert not meta.stats.squares < 0
        _ = meta.stats.total / meta.stats.n
    assert meta.gaps is None or meta.gaps.least > 0


def new_change(rng: random.Random, n: int) -> StoredChange:
    """Return a change with a header at random."""
    note, schema = rng.choice((None, b"\x13note")), rng.choice((0, 3))
    header = rng.choice((0, rng.randrange(2**64))), rng.choice((None, f"id {n}")), note, schema
    return StoredChange(n, 0, n + 1, rng.choice((n, 10**12)), steps(rng), *header)


def read_change(body: bytes) -> None:
    """Fold a change again and again, as a chunk of changes would."""
    state = State(CODEC, None)
    try:
        for t in range(50):
            state.fold(unpack_change(t, 0, body).steps, t)
        state.settle()
    except CannotFold:
        pass


def run(seed: int, seconds: float) -> int:
    """Feed damaged bytes to all decoders, and return the exit status."""
    rng, counts, slowest = random.Random(seed), Counter[str](), (0.0, "")
    sources = segments(rng)
    before, end = memory("VmHWM"), time.monotonic() + seconds
    while time.monotonic() < end:
        segment = next(sources)
        n, span = len(segment), int(segment.t[-1]) - int(segment.t[0])
        change = pack_change(new_change(rng, 7))
        state = pack_state(((item, CODEC.encode(1)) for item in ("a", "b", "c")), Tally(3, rng.randrange(2**64), 3))
        value = SAFE.encode("text " * rng.choice((300, 30_000, 1_000_000)))
        frame = compress(value)[2:]
        body, meta, bombed = chunks.pack_chunk(segment), pack_meta(segment), bomb(rng)
        cases: list[tuple[str, Callable[[bytes], Any], bytes]] = [
            ("chunk", partial(read_chunk, n=n), body),
            ("meta", partial(read_meta, n=n, span=span), meta),
            ("bomb", partial(read_chunk, n=bombed[1]), bombed[0]),
            ("change", read_change, change),
            ("checkpoint", unpack_state, state),
            ("facts", unpack_facts, pack_facts(Facts(rng.randrange(2**60), 3, 4, rng.choice((None, 5))))),
            ("compressed", decompress, frame),
        ]
        for name, read, sound in cases:
            for i in range(8):
                broken = sound if i == 0 and name == "bomb" else damage(rng, sound)
                began = time.process_time()
                try:
                    read(broken)
                    counts[f"{name} read"] += 1
                except StoreError:
                    counts[f"{name} refused"] += 1
                except BaseException as error:  # noqa: BLE001 - a panic is none of the others
                    print(  # noqa: T201
                        f"{name}, seed {seed}: {type(error).__name__} {str(error)[:100]} of {broken[:80].hex()}"
                    )
                    return 1
                slowest = max(slowest, (time.process_time() - began, name))
    grew = (memory("VmHWM") - before) // MIB
    print(json.dumps({"counts": counts, "slowest_s": slowest, "grew_mib": grew}))  # noqa: T201
    return int(slowest[0] > 1 or grew > 160)


if __name__ == "__main__":
    limit()
    sys.exit(run(int(sys.argv[1]), float(sys.argv[2])))
