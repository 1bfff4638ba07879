"""Bytes that hurt: what is stored asks for memory or time out of proportion, and gets an error of ours soon.

Each reading is a process of its own, with a limit of addresses; it tells the most memory and the time that it took.
"""

from __future__ import annotations

import json
import operator
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import apsw
import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from pcodec import ChunkConfig, standalone

from rstore import CorruptionError, InvalidValueError, Store, StoreIntegrityError
from rstore.codec.changes import Step, StoredChange, Tally, Tip, pack_change, pack_tip
from rstore.codec.chunk_meta import pack_meta, unpack_meta
from rstore.codec.columns import column_of
from rstore.codec.formats import Json, Pickle
from rstore.codec.segments import Segment
from rstore.codec.serializers import Codec
from rstore.events.state import CannotFold, State

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc/self/status")

MIB: Final = 1024 * 1024
PROGRAM: Final = """
import json, resource, sys, time
from rstore import Store, StoreError

def memory(what):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(what)) // 1024

resource.setrlimit(resource.RLIMIT_AS, ((memory("VmSize") + 1500) * 2**20, -1))
store = Store(sys.argv[1], serializer="json", frozen=False, durability="normal").open()
before, began, said = memory("VmHWM"), time.process_time(), []
for verb in json.loads(sys.argv[2]):
    try:
        result = eval(verb)
        said.append(repr(result)[:300] if type(result) is list else type(result).__name__)
    except StoreError as error:
        said.append(f"{type(error).__name__}: {error}")
print(json.dumps([said, memory("VmHWM") - before, time.process_time() - began]))
"""


def read(path: Path, *verbs: str) -> tuple[list[str], int, float]:
    """Return the outcome of each verb, how many MiB the process grew by, and the seconds that it computed."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(path), json.dumps(verbs)], capture_output=True, text=True, timeout=100,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    said, grew, took = json.loads(done.stdout)
    return said, grew, took


# -- stored bytes, as docs/format.md draws them -----------------------------------------------------------------------


def zeros(size: int) -> bytes:
    """Return a frame of that many zeros, made piece by piece."""
    compressor = zstandard.ZstdCompressor(1).compressobj(size=size)
    piece = bytes(min(size, MIB))
    return b"".join([*(compressor.compress(piece) for _ in range(size // len(piece))), compressor.flush()])


def numbers(array: Any) -> bytes:
    return standalone.simple_compress(np.ascontiguousarray(array), ChunkConfig())


def blobs(lengths: list[int], frame: bytes) -> bytes:
    packed = numbers(np.array(lengths, np.int64))
    return struct.pack(">I", len(packed)) + packed + frame


def lp(text: bytes) -> bytes:
    return struct.pack(">I", len(text)) + text


def checked(body: bytes, cell: int, key: str, place: bytes) -> bytes:
    where = lp(b"default") + bytes([cell]) + lp(key.encode()) + place
    return body + zlib.crc32(body, zlib.crc32(where)).to_bytes(4, "big")


def put_chunk(path: Path, key: str, kind: int, times: list[int], values: bytes, *, events: bool = False) -> None:
    """Put a chunk into the log of a file that has no key."""
    first, last, n = times[0], times[-1], len(times)
    t, place = numbers(np.array(times, np.int64)), struct.pack(">qIqII", first, 0, last, 0, n)
    body = checked(struct.pack(">BBIII", 1, kind, n, len(t), 0) + t + values, 5 if events else 4, key, place)
    meta = b"" if events else checked(bytes([1, kind, 0]), 6, key, place)
    file = apsw.Connection(str(path))
    file.execute(
        "INSERT INTO chunks (log, first_t, first_seq, last_t, last_seq, n, meta, body)"
        " VALUES ((SELECT id FROM logs WHERE key = ?), ?, 0, ?, 0, ?, ?, ?)",
        (key, first, last, n, meta, body),
    )
    file.close()


def put_tally(path: Path, key: str, tally: Tally) -> None:
    """Put into the head of a sequence without a key which changes it has, as its writer would."""
    file = apsw.Connection(str(path))
    version = bytes(16) + pack_tip(Tip(tally.top, 0, bytes(32), tally, 1))
    file.execute("UPDATE logs SET version = ? WHERE key = ?", (version, key))
    file.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "store.db"
    with Store(path, serializer="json", frozen=False, durability="normal") as store:
        store["k"] = "x"
        store.extend("s", (-1, 1.0))
        store.apply("e", {"x": 1}, 0)
    return path


# -- memory -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("codec", [b"\x13", b"\x02"], ids=["text", "JSON"])
def test_a_compressed_value_does_not_unpack_to_a_gigabyte(path: Path, codec: bytes) -> None:
    file = apsw.Connection(str(path))
    file.execute("INSERT INTO blobs VALUES (1, ?)", (b"\x06" + bytes(8) + codec + zeros(2**30),))
    file.execute("UPDATE records SET record = NULL, blob = 1")
    file.close()
    said, grew, took = read(path, "store['k']", "store.get_many(['k'])", "store.find()", "store.check()")
    assert all("compressed value is damaged" in one for one in said), said
    assert grew < 64
    assert took < 5


COLUMNS: Final = {
    "one value of a gigabyte": lambda: (0x20, 1, blobs([2**30], zeros(2**30))),
    "two values of 8 MiB": lambda: (0x20, 2, blobs([2**23] * 2, zeros(2**24))),
    "16,384 values of a kilobyte": lambda: (0x20, 16384, blobs([2**10] * 16384, zeros(2**24))),
    "one word of 1 MiB, 16,384 times": lambda: (0x13, 16384, words([2**20], 16384)),
    "two words of 1 MiB, 16,384 times": lambda: (0x13, 16384, words([2**20] * 2, 16384)),
    "a text of a gigabyte": lambda: (0x13, 1, b"\x02" + blobs([2**30], zeros(2**30))),
    "lengths that add up to nothing": lambda: (0x20, 3, blobs([2**62, 2**62, -(2**63)], zeros(MIB))),
    "a size that is none": lambda: (0x20, 1, blobs([2**62], zeros(MIB))),
}


def words(lengths: list[int], n: int) -> bytes:
    packed = blobs(lengths, zeros(sum(lengths)))
    indexes = numbers(np.arange(n, dtype=np.uint32) % len(lengths)) if len(lengths) > 1 else b""
    return b"\x01" + struct.pack(">II", len(lengths), len(packed)) + packed + indexes


@pytest.mark.slow
@pytest.mark.parametrize("column", COLUMNS.values(), ids=COLUMNS)
def test_a_column_does_not_unpack_to_more_than_it_may(path: Path, column: Callable[[], tuple[int, int, bytes]]) -> None:
    kind, n, values = column()
    put_chunk(path, "s", kind, list(range(n)), values)
    said, grew, took = read(
        path, "store.range('s')", "store.range_columns('s')", "list(store.batches('s'))",
        "store.extend_many('s', ((t, 'y') for t in range(1100)))", "store.check()", "store.compact('s')",
        "store.at('s', [5, 7])", "store.tail('s', 1)",
    )  # fmt: skip
    assert all("CorruptionError: the series 's'" in one for one in said[:4]), said
    assert "the chunk at 0" in said[4]
    assert grew < 64
    assert took < 5


@pytest.mark.slow
def test_large_values_that_hardly_take_space_come_back(tmp_path: Path) -> None:
    text, longer = "ab" * 3 * MIB, "ab" * 36 * MIB
    with Store(tmp_path / "store.db", frozen=False, compress=True) as store:
        store.extend_many("s", [(0, text), (1, 7)])
        store.compact("s")
        store["k"] = longer
        store.apply("e", {"x": text})
    with Store(tmp_path / "store.db") as store:
        assert store.range("s") == [(0, text), (1, 7)]
        assert store["k"] == longer
        assert store.current("e") == {"x": text}
        assert store.check() == []


@pytest.mark.slow
def test_check_takes_the_same_memory_however_large_the_store(tmp_path: Path) -> None:
    path, rng = tmp_path / "store.db", np.random.default_rng(1)
    with Store(path, serializer="json", frozen=False, durability="normal") as store:
        for i in range(150):
            store.set_many({f"{i:03}.{j:02}": rng.bytes(6000).hex() for j in range(100)})
        store.extend_columns("floats", np.arange(5_000_000), rng.normal(size=5_000_000))
        store.extend_many("texts", ((t, rng.bytes(40).hex()) for t in range(100_000)))
    assert path.stat().st_size > 200 * MIB
    said, grew, _ = read(path, "store.check()")
    assert said == ["[]"]
    assert grew < 64


# -- time -------------------------------------------------------------------------------------------------------------

CHANGES: Final[dict[str, tuple[Any, tuple[Any, ...], str]]] = {
    "text that nothing is appended to": ("a" * 4_000_000, ("add", ""), "dict"),
    "a list that nothing is appended to": ([0] * 1_000_000, ("concat", []), "dict"),
    "text that is repeated once": ("a" * 1_000_000, ("mul", 1), "dict"),
    "a list that is repeated once": ([0] * 130_000, ("mul", 1), "dict"),
    "long text that is repeated once": ("a" * 4_000_000, ("mul", 1), "CorruptionError"),
    "a power": (3, ("pow", 10_000), "CorruptionError"),
    "a division": (10**3000, ("floordiv", 10**1500), "dict"),
    "negation": (10**4200, ("neg",), "dict"),
    "a number of another size": (10**4250, ("mul", 10**2100), "CorruptionError"),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", CHANGES.values(), ids=CHANGES)
def test_a_few_hundred_bytes_of_changes_are_soon_folded(path: Path, case: tuple[Any, tuple[Any, ...], str]) -> None:
    value, (op, *operand), outcome = case
    codec = Codec(Json())
    encoded = [codec.encode(one) for one in operand]
    n = 16_383 if sum(map(len, encoded)) < 20 else 400  # no more than a chunk unpacks to
    begin = pack_change(StoredChange(1, 0, 1, 1, [Step("x", "setitem", codec.encode(value))]))
    put_chunk(path, "e", 0x20, [1], blobs([len(begin)], zstandard.compress(begin)), events=True)
    step = pack_change(StoredChange(2, 0, 2, 2, [Step("x", op, encoded[0] if encoded else None)]))
    many = zstandard.compress(step * n)
    put_chunk(path, "e", 0x20, list(range(2, n + 2)), blobs([len(step)] * n, many), events=True)
    put_tally(path, "e", Tally(n + 2, 0, 2))
    said, grew, took = read(path, "store.current('e')", "len(store.events('e'))")
    assert [one.split(":")[0] for one in said] == [outcome, "int"], said
    assert grew < 300
    assert took < 25


OPERANDS: Final[tuple[Any, ...]] = (1, -3, 0, True, 2.5, "ab", "", [1], [], (2,), b"x", None, {"a": 1}, 2**70)
OPS: Final = ("setitem", "add", "mul", "concat", "sub", "neg", "not_", "delitem", "floordiv", "pow")


@given(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from(OPS), st.sampled_from(OPERANDS)), max_size=30))
@settings(max_examples=200, deadline=None)
def test_what_is_encoded_at_the_end_is_what_each_step_would_come_to(given_steps: list[tuple[str, str, Any]]) -> None:
    codec = Codec(Pickle())
    at_once, later = State(codec, None), State(codec, None)
    for item, op, operand in [("a", "setitem", "x"), ("b", "setitem", [0]), *given_steps]:
        step = Step(item, op, None if op in ("neg", "not_", "delitem") else codec.encode(operand))
        try:
            at_once.fold([step], None)
        except CannotFold:
            with pytest.raises(CannotFold):
                later.fold([step], 1)
            continue
        later.fold([step], 1)
    mine, theirs = at_once.values(), later.values()
    assert [(item, type(value), value) for item, value in mine.items()] == [
        (item, type(value), value) for item, value in theirs.items()
    ]


# -- summaries --------------------------------------------------------------------------------------------------------

_FIRST, _LAST = (len(raw).to_bytes(2, "big") + raw for raw in (b"\x11" + bytes(8), b"\x11" + struct.pack("<d", 8.0)))
_GAPS: Final = struct.pack(">QQ", 10, 10)


def _stats(*stats: float) -> bytes:
    return struct.pack(">Iddddd", *stats)


_STATS: Final = _stats(9, 0.0, 8.0, 36.0, 60.0, 280.0)
SUMMARIES: Final = {
    "gaps of nothing": bytes([1, 0x11, 7]) + _FIRST + _LAST + struct.pack(">QQ", 0, 0) + _STATS,
    "gaps the wrong way round": bytes([1, 0x11, 7]) + _FIRST + _LAST + struct.pack(">QQ", 11, 9) + _STATS,
    "gaps that do not add up": bytes([1, 0x11, 7]) + _FIRST + _LAST + struct.pack(">QQ", 11, 11) + _STATS,
    "no gaps": bytes([1, 0x11, 3]) + _FIRST + _LAST + _STATS,
    "squares below zero": bytes([1, 0x11, 7]) + _FIRST + _LAST + _GAPS + _stats(9, 0.0, 8.0, 36.0, -1.0, 280.0),
    "no values": bytes([1, 0x11, 7]) + _FIRST + _LAST + _GAPS + _stats(0, 0.0, 8.0, 36.0, 60.0, 280.0),
    "more values than points": bytes([1, 0x11, 7]) + _FIRST + _LAST + _GAPS + _stats(10, 0.0, 8.0, 36.0, 60.0, 280.0),
    "the least above the most": bytes([1, 0x11, 7]) + _FIRST + _LAST + _GAPS + _stats(9, 9.0, 8.0, 36.0, 60.0, 280.0),
    "no numbers": bytes([1, 0x11, 7]) + _FIRST + _LAST + _GAPS + _stats(9, *[float("nan")] * 5),
    "text for a float": bytes([1, 0x11, 7]) + _FIRST + (b"\0\x03\x13ab") + _GAPS + _STATS,
    "a float that is cut short": bytes([1, 0x11, 7]) + _FIRST + (b"\0\x03\x11ab") + _GAPS + _STATS,
    "an empty value": bytes([1, 0x11, 7]) + _FIRST + b"\0\0" + _GAPS + _STATS,
    "numbers of text": bytes([1, 0x13, 4 + 2]) + _GAPS + bytes(4 + 48 + 16),
    "ints without numbers": bytes([1, 0x10, 4]) + _GAPS,
    "an unknown flag": bytes([1, 0x11, 15]) + _FIRST + _LAST + _GAPS + _STATS,
    "something behind it": bytes([1, 0x11, 7]) + _FIRST + _LAST + _GAPS + _STATS + b"\0",
    "ints beyond their type": bytes([1, 0x10, 6]) + _GAPS + struct.pack(">I", 9) + bytes(15) + b"\1"
    + b"\x7f" + bytes(15) + b"\x7f" + bytes(15) + struct.pack(">dd", 1.0, 1.0),
}  # fmt: skip


@pytest.mark.parametrize("meta", SUMMARIES.values(), ids=SUMMARIES)
def test_a_summary_that_no_points_can_have_is_refused(meta: bytes) -> None:
    sound = pack_meta(Segment(np.arange(0, 90, 10), None, column_of([float(i) for i in range(9)], Codec(Json()))))
    unpack_meta(sound, 9, 80)
    with pytest.raises(CorruptionError):
        unpack_meta(meta, 9, 80)


VALUES: Final = st.one_of(
    st.lists(st.floats(), min_size=1, max_size=20),
    st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=20),
    st.lists(st.booleans(), min_size=1, max_size=20),
    st.lists(st.text(max_size=5), min_size=1, max_size=20),
)


@given(VALUES, st.integers(-(2**63), 2**62), st.integers(1, 2**50))
@settings(max_examples=150, deadline=None)
def test_every_summary_that_is_written_is_read(values: list[Any], begin: int, apart: int) -> None:
    t = np.array([begin + i * apart for i in range(len(values))], np.int64)
    segment = Segment(t, None, column_of(values, Codec(Json())))
    unpack_meta(pack_meta(segment), len(values), int(t[-1]) - int(t[0]))


# -- grids ------------------------------------------------------------------------------------------------------------


def test_grids_are_bounded(tmp_path: Path) -> None:
    with Store(tmp_path / "store.db", frozen=False, durability="normal") as store:
        store.extend("s", (0, 1.0), (10, 2.0))
        store.extend("edges", (-(2**63), 1.0), (2**63 - 1, 2.0))
        for key, start, end in (("s", 0, 10**12), ("none", -(2**63), 2**63 - 1), ("edges", -(2**63), 2**63 - 1)):
            with pytest.raises(InvalidValueError, match="10,000,000"):
                store.missing(key, start, end, freq=1)
            assert not store.iscomplete(key, start, end, freq=1)
        assert store.gaps("edges", freq=1) == [(-(2**63), 2**63 - 1)]
        assert len(store.missing("s", 1, 1_000_000, freq=1)) == 999_999
        with pytest.raises(InvalidValueError, match="1,000,000"):
            store.resample("edges", 1, fill=0)
        assert store.range("edges", freq=2**63 - 1) == [(-(2**63), 1.0), (2**63 - 1, 2.0)]


def test_patterns_are_soon_matched(tmp_path: Path) -> None:
    with Store(tmp_path / "store.db", frozen=False, durability="normal") as store:
        store.update({"a" * 2040: 1, "ab" * 1000: 2})
        for pattern in ("?" * 10**6, "*a" * 1000 + "b", "*?" * 1000 + "c", "*a*b" * 500 + "c", "x" * 10**7):
            store.find(pattern)
        assert store.find("?" * 2040) == [("a" * 2040, 1)]
        assert store.find("*" * 5000 + "b" * 1 + "*") == [("ab" * 1000, 2)]


# -- everything -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_damaged_bytes_take_little_and_raise_errors_of_ours(seed: int) -> None:
    program = Path(__file__).parents[1] / "helpers" / "decoder_fuzz.py"
    done = subprocess.run(
        [sys.executable, str(program), str(seed), "4"], capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert sum(json.loads(done.stdout)["counts"].values()) > 200


def test_sequences_that_are_appended_to_end(tmp_path: Path) -> None:
    with Store(tmp_path / "store.db", frozen=False, durability="normal") as store:
        store.apply("e", {"x": "a" * 9_000_000})
        with pytest.raises(StoreIntegrityError, match="add"):
            store.apply("e", {"x": (operator.add, "a" * 9_000_000)})
        assert len((store.current("e") or {})["x"]) == 9_000_000
