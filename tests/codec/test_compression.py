"""Compressed values: their bytes, what they save, and bytes that are damaged or lie."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from time import process_time
from typing import Any, cast

import pytest
import zstandard
from backends import make_backend
from processes import linux

from rstore import CorruptionError, InvalidArgumentError, KeyRequiredError, Store, UnsafeValueError
from rstore.backends.contract import Backend
from rstore.backends.types import Options, Write

PATH = Path(__file__).parents[1] / "vectors" / "compressed.json"
VECTORS = cast("list[dict[str, Any]]", json.loads(PATH.read_text())["vectors"])
KEY = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
TEXT = "again and " * 300
RANDOM = random.Random(5).randbytes(3_000_000)


@pytest.fixture
def backend() -> Iterator[Backend]:
    """What the store of these tests keeps its records in."""
    backend = make_backend("memory://compression", "default", Options(frozen=False, durability="normal", timeout_s=5))
    backend.open()
    yield backend
    backend.discard()
    backend.close()


def opened(**options: Any) -> Store:
    return Store("memory://compression", frozen=False, **options)


def put(backend: Backend, encoded: bytes) -> None:
    """Keep an encoded value as a record without encryption."""
    backend.write([Write("k", encoded[:1] + b"versions" + encoded[1:])], backend.create())


def frame_of(body: bytes, **options: Any) -> bytes:
    return zstandard.ZstdCompressor(write_checksum=True, **options).compress(body)


def size_of(backend: Backend) -> int:
    return len(backend.get("k") or b"")


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])
def test_the_published_bytes_are_what_the_layout_says(vector: dict[str, Any]) -> None:
    encoded = bytes.fromhex(vector["encoded"])
    assert encoded[:2] == bytes((6, vector["codec"]))
    assert zstandard.decompress(encoded[2:]) == vector["body"].encode()
    parameters = zstandard.get_frame_parameters(encoded[2:])
    assert (parameters.content_size, parameters.has_checksum) == (len(vector["body"]), True)


@pytest.mark.parametrize("vector", VECTORS[:2], ids=lambda vector: vector["name"])
def test_the_library_reads_the_published_bytes(backend: Backend, vector: dict[str, Any]) -> None:
    put(backend, bytes.fromhex(vector["encoded"]))
    with opened(serializer="json") as store:
        assert store["k"] == (json.loads(vector["body"]) if vector["codec"] == 2 else vector["body"])


def test_it_is_off_unless_asked_for(backend: Backend) -> None:
    for options, least, most in (
        ({}, 3000, 3100), ({"key": KEY}, 3000, 3100), ({"compress": True}, 20, 100),
        ({"compress": True, "key": KEY}, 100, 200),
    ):  # fmt: skip
        with opened(**options) as store:
            store["k"] = TEXT
            assert least < size_of(backend) < most
            assert store["k"] == TEXT
            store.discard()  # what a key has sealed, a store without it would not replace


@pytest.mark.parametrize("wrong", [1, None, "zstd"])
def test_it_is_on_or_off(wrong: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="compress is True or False"):
        opened(compress=wrong)


def test_what_does_not_shrink_by_a_tenth_stays_as_it_is(backend: Backend) -> None:
    with opened(compress=True) as store:
        for value in (RANDOM[:5000], RANDOM[:200_000], RANDOM, RANDOM + bytes(100_000), b"x" * 900):
            store["k"] = value
            assert size_of(backend) >= len(value)
            assert store["k"] == value
        # The samples do not tell of what lies between them; then a part of it is compressed, and left.
        store["k"] = value = bytes(8) + b"".join(
            bytes(8000) + RANDOM[i : i + 367_000] for i in range(0, 2_900_000, 367_000)
        )
        assert size_of(backend) >= len(value)
        assert store["k"] == value


@pytest.mark.usefixtures("backend")
def test_what_cannot_be_compressed_costs_little() -> None:
    def cpu(*, compress: bool) -> float:
        with opened(compress=compress) as store:
            begin = process_time()
            for _ in range(30):
                store["k"] = RANDOM
            return process_time() - begin

    cpu(compress=True)
    assert min(cpu(compress=True) for _ in range(3)) < 1.5 * min(cpu(compress=False) for _ in range(3)) + 0.01


@pytest.mark.parametrize("size", [2**20 - 1, 2**20 + 1, 2**21, 50_000_000])
def test_the_most_that_can_be_saved_is_believed(backend: Backend, size: int) -> None:
    with opened(compress=True) as store:
        store["k"] = bytes(size)
        assert size_of(backend) < size / 1000
        assert store["k"] == bytes(size)


DAMAGED: dict[str, bytes] = {
    "nothing inside": b"\x06",
    "no frame": b"\x06\x13",
    "compressed twice": b"\x06\x06" + frame_of(b"\x13" + frame_of(b"x")),
    "an unknown codec": b"\x06\x7f" + frame_of(b"x"),
    "no zstd": b"\x06\x13" + bytes(50),
    "says nothing of its size": b"\x06\x13" + frame_of(b"x" * 5000, write_content_size=False),
    "something behind it": b"\x06\x13" + frame_of(b"x" * 5000) + b"x",
    "something behind a large one": b"\x06\x13" + frame_of(b"x" * 3_000_000) + b"x",
    "another one behind it": b"\x06\x13" + 2 * frame_of(b"x" * 5000),
    "another one behind a large one": b"\x06\x13" + 2 * frame_of(b"x" * 3_000_000),
    "without its checksum": b"\x06\x13" + frame_of(b"x" * 5000)[:-4],
    "large, without its checksum": b"\x06\x13" + frame_of(b"x" * 3_000_000)[:-4],
}  # fmt: skip


@pytest.mark.parametrize("encoded", DAMAGED.values(), ids=DAMAGED)
def test_damaged_bytes_are_an_error(backend: Backend, encoded: bytes) -> None:
    put(backend, encoded)
    with opened() as store:
        with pytest.raises(CorruptionError, match="'k' in namespace 'default'"):
            store.get("k")
        assert len(store.check()) == 1
        store["k"] = TEXT
        assert not store.check()


@pytest.mark.parametrize("size", [5000, 2_500_000], ids=["small", "large"])
def test_each_cut_and_each_flipped_bit_is_an_error(backend: Backend, size: int) -> None:
    text = "".join(random.Random(1).choices("abcdefgh ", k=2500)) * (size // 2500)
    with opened(compress=True) as store:
        store["k"] = text
        record = backend.get("k") or b""
        assert record[0] == 6
        chosen = random.Random(2)
        for _ in range(40 if size > 10_000 else 400):
            at = chosen.randrange(10, len(record))
            flipped = bytearray(record)
            flipped[at] ^= 1 << chosen.randrange(8)
            for damaged in (record[:at], bytes(flipped)):
                backend.write([Write("k", damaged)], backend.create())
                # A bit of a frame's header may mean nothing.
                try:
                    assert store["k"] == text
                except CorruptionError:
                    continue
                assert damaged is not record[:at]


def declaring(size: int, frame: bytes) -> bytes:
    """Return a frame that says it holds `size` bytes: a header with eight bytes for it, and the frame's own blocks."""
    header, window = zstandard.frame_header_size(frame), 0x58  # 2 MB
    return frame[:4] + bytes((0b1100_0100, window)) + size.to_bytes(8, "little") + frame[header:]


@pytest.mark.skipif(not linux, reason="limits on memory are Linux's")
@pytest.mark.parametrize(
    "size", [2**62, 2**40, 30_000 * 60, 2**20 + 1], ids=["absurd", "huge", "many times", "a little"]
)
def test_a_frame_that_promises_much_gets_no_memory_for_it(backend: Backend, size: int) -> None:
    put(backend, b"\x06\x13" + declaring(size, frame_of(bytes(2**20))))
    with opened() as store, pytest.raises(CorruptionError):
        store.get("k")


def test_a_frame_that_holds_more_than_it_says_is_not_unpacked_to_its_end(backend: Backend) -> None:
    put(backend, b"\x06\x13" + declaring(2**23, frame_of(bytes(2**28))))
    with opened() as store:
        tracemalloc.start()
        try:
            with pytest.raises(CorruptionError):
                store.get("k")
            assert tracemalloc.get_traced_memory()[1] < 2**27
        finally:
            tracemalloc.stop()


@pytest.mark.parametrize("serializer", ["json", "msgpack"])
def test_a_compressed_pickle_is_refused_before_it_is_unpacked(backend: Backend, serializer: Any) -> None:
    put(backend, b"\x06\x01 no frame at all")
    with opened(serializer=serializer) as store, pytest.raises(UnsafeValueError):
        store.get("k")


def test_a_compressed_value_is_sealed_like_any_other(backend: Backend) -> None:
    with opened(compress=True, key=KEY) as store:
        store["k"] = TEXT
        assert b"again" not in (backend.get("k") or b"")
    with opened(allow_plaintext=True) as store, pytest.raises(KeyRequiredError):
        store.get("k")


@pytest.mark.skipif(not linux, reason="/proc tells how much memory a process has taken")
def test_memory_of_a_large_compressed_value() -> None:
    """Value, encoded value and less than that compressed: below four times its size even where it hardly shrinks."""
    program = f"""
import zlib
import numpy as np
from pathlib import Path
from rstore import Store
def resident(line):
    return next(int(one.split()[1]) for one in open("/proc/self/status") if one.startswith(line)) * 1024
size = 20_000_000
with Store("memory://", key={KEY!r}, frozen=False, compress=True) as store:
    store.set("small", {{"a": "x" * 2000}}), store.get("small")
    value = np.random.default_rng(1).integers(0, 256, size, np.uint8)
    value.reshape(-1, 1000)[:, :200] = 0
    before = resident("VmRSS") - size
    Path("/proc/self/clear_refs").write_text("5")
    store.set("k", value)
    wrote = resident("VmHWM") - before
    check = zlib.crc32(value)
    del value
    Path("/proc/self/clear_refs").write_text("5")
    value = store["k"]
    print(wrote / size, (resident("VmHWM") - before) / size)
    assert zlib.crc32(value) == check
    del value
    assert len(store._reader.backend.get("k")) < 0.9 * size
"""
    # What is freed goes back to the system at once, as it does with values that are larger still.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "1000000"}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    assert all(float(figure) < 4 for figure in done.stdout.split()), done.stdout


def test_many_values_are_compressed_one_by_one(tmp_path: Path) -> None:
    with Store(tmp_path / "store.db", frozen=False, compress=True) as store:
        tracemalloc.start()
        try:
            store.update((f"{i}", f"{i}" * 500_000) for i in range(50))
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak < 10_000_000
        assert store["49"] == "49" * 500_000
