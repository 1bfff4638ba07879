"""Compressed values: a codec byte of their own, the codec byte of the value inside, and a zstd frame of its body.

The inner codec byte stands outside of the frame, so that a value that must not be loaded is refused before it is
unpacked.
"""

from __future__ import annotations

from io import BytesIO
from typing import Final

import zstandard

from rstore.backends.types import LARGE_BYTES
from rstore.errors import CorruptionError

COMPRESSED: Final = 0x06
_LEVEL: Final = 3
_MIN_BYTES: Final = 1024
_WORTHWHILE: Final = 0.9
"""A frame above this share of the value's size does not pay for unpacking at each reading."""
_SAMPLED_BYTES: Final = 128 * 1024
_SAMPLES: Final = 8
_SAMPLE_BYTES: Final = 4096
_PIECE_BYTES: Final = 1024 * 1024
_FED_BYTES: Final = 1024
"""Unpacked in one step, to 32 MiB at most: four bytes can stand for 128 KiB."""
_FREE_BYTES: Final = 64 * 1024 * 1024
_MAX_TIMES: Final = 10
"""A value larger than 64 MiB plus ten times its frame is neither stored as a frame nor unpacked from one."""
_MAX_WINDOW: Final = 8 * 1024 * 1024
"""The largest window that a frame may ask for; frames written here ask for 2 MiB."""


def compress(encoded: bytes) -> bytes:
    """Return an encoded value in fewer bytes, or as it is where that does not save a tenth."""
    size = len(encoded)
    if size < _MIN_BYTES or (size > _SAMPLED_BYTES and not _may_shrink(encoded)):
        return encoded
    whole, most = memoryview(encoded)[1:], int(size * _WORTHWHILE)
    # With a checksum: without one, most flipped bits unpack to another value in silence.
    compressor = zstandard.ZstdCompressor(_LEVEL, write_checksum=True)
    if size <= LARGE_BYTES:
        frame = compressor.compress(whole)
        return encoded if len(frame) > most else b"%c%c%b" % (COMPRESSED, encoded[0], frame)
    # `getvalue` returns the buffer itself; a frame joined to its two bytes would be held twice.
    packed, pieces = BytesIO(), compressor.compressobj(size=len(whole))
    packed.write(bytes((COMPRESSED, encoded[0])))
    for begin in range(0, len(whole), _PIECE_BYTES):
        packed.write(pieces.compress(whole[begin : begin + _PIECE_BYTES]))
        if packed.tell() > most:
            return encoded
    packed.write(pieces.flush())
    return encoded if size > _most_bytes(packed.tell()) else packed.getvalue()


def _most_bytes(packed: int) -> int:
    return _FREE_BYTES + _MAX_TIMES * packed


def _may_shrink(encoded: bytes) -> bool:
    """Return whether samples of a large value shrink, since trying all of it would take far longer.

    A value that repeats itself only over long distances is taken for random. That costs space and nothing else.
    """
    step = len(encoded) // _SAMPLES
    sample = b"".join(encoded[i * step : i * step + _SAMPLE_BYTES] for i in range(_SAMPLES))
    return len(zstandard.ZstdCompressor(_LEVEL).compress(sample)) <= _WORTHWHILE * len(sample)


def decompress(frame: bytes | memoryview) -> bytes:
    """Return the content of a frame.

    Raises `CorruptionError` if it is damaged, cut short, followed by other bytes, or states a wrong size. The stated
    size is not trusted: no memory is allocated for it ahead of the content, and no more than it is unpacked.
    """
    try:
        size = zstandard.frame_content_size(frame)
        if 0 <= size <= LARGE_BYTES:
            return zstandard.ZstdDecompressor().decompress(frame, allow_extra_data=False)
        return _decompress_large(frame, size) if 0 <= size <= _most_bytes(len(frame)) else _refuse()
    except zstandard.ZstdError as error:
        raise CorruptionError("a compressed value is damaged: it cannot be unpacked") from error


def _decompress_large(frame: bytes | memoryview, size: int) -> bytes:
    # Not in one call: that allocates the stated size before any of the content is there.
    body, whole = BytesIO(), memoryview(frame)
    unpacking = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW).decompressobj()
    for begin in range(0, len(whole), _FED_BYTES):
        if unpacking.eof:
            return _refuse()
        body.write(unpacking.decompress(whole[begin : begin + _FED_BYTES]))
        if body.tell() > size:
            return _refuse()
    return body.getvalue() if unpacking.eof and not unpacking.unused_data and body.tell() == size else _refuse()


def _refuse() -> bytes:
    raise CorruptionError("a compressed value is damaged: it is not as long as it says")
