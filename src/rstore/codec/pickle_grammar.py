"""The grammar of pickles that hold data: read before the pickle machine runs, so that no bytes can hurt it.

Nouns: an *opcode* (one byte and its argument).
"""

from __future__ import annotations

import re
from typing import Final

from rstore.errors import CorruptionError, UnsafeValueError

# The machine's own limits are too wide. A memo index of 4 bytes allocates up to 64 GiB (LONG_BINPUT, before the fix of
# cpython#115952), a length of 8 bytes as much, an extension code finds its object past `find_class`, and the hash of a
# tuple nested 400,000 deep overflows the C stack. Protocols 4 and 5 write few opcodes; all others are refused.
_BARE: Final = b"N\x88\x89)]}\x8f\x90\x91(t\x85\x86\x87aesu\x9401\x98\x93R\x81b"
_LENGTHS: Final = b"(?:%b)" % b"|".join(b"%b.{%d}" % (re.escape(bytes((n,))), n) for n in range(256))
_SHORT: Final = (
    rb"(?:\x8c%b\x94?"  # SHORT_BINUNICODE, mostly memoized: first, since most opcodes of most values are these
    rb"|K.|h.|G.{8}|[%b]|M..|[Jj].{4}"
    rb"|[C\x8a]%b"  # SHORT_BINBYTES, LONG1
    rb"|\x95.{8})*+"  # FRAME
) % (_LENGTHS, re.escape(_BARE), _LENGTHS)
_short: Final = re.compile(_SHORT, re.DOTALL)
_whole: Final = re.compile(rb"\x80[\x04\x05]%b\." % _SHORT, re.DOTALL)

_PROTO_BYTES: Final = 2
# BINUNICODE, BINBYTES, LONG4; BINUNICODE8, BINBYTES8, BYTEARRAY8: how many bytes tell their length.
_COUNTED: Final = {0x58: 4, 0x42: 4, 0x8B: 4, 0x8D: 8, 0x8E: 8, 0x96: 8}
_STOP: Final = 0x2E
_TUPLES: Final = (b"\x85", b"\x86", b"\x87", b"t")
_MOST_NESTED: Final = 5_000
"""So deep a tuple may be hashed within the 128 KiB of the smallest stacks; no Pickler goes deeper than 1,000."""


def check(body: bytes | memoryview) -> None:
    """Check that a pickle holds no opcode but those of data.

    Takes about as long as loading it (benchmarks: `serializers`).

    Raises `UnsafeValueError` for an opcode that data never has, and `CorruptionError` for bytes that are no pickle.
    """
    if _whole.fullmatch(body) is None:
        _check_by_opcodes(body)
    if len(body) > _MOST_NESTED:
        _check_depth(body)


def _check_by_opcodes(body: bytes | memoryview) -> None:
    """Do the same for pickles with opcodes whose length takes more than a byte, which the pattern does not know."""
    size = len(body)
    if size < _PROTO_BYTES + 1 or body[0] != 0x80 or body[1] not in (4, 5):
        raise CorruptionError("a pickle does not begin as one of protocol 4 or 5")
    at = _PROTO_BYTES
    while True:
        at = _skip_short(body, at)
        if at >= size:
            raise CorruptionError("a pickle was cut short")
        opcode = body[at]
        if (width := _COUNTED.get(opcode)) is not None:
            at += 1 + width
            counted = int.from_bytes(body[at - width : at], "little")
            if counted > size - at:
                raise CorruptionError("a pickle was cut short, or a length in it is damaged")
            at += counted
        elif opcode == _STOP and at == size - 1:
            return
        else:
            raise _refusal(opcode, size - at)


def _skip_short(body: bytes | memoryview, at: int) -> int:
    found = _short.match(body, at)
    return at if found is None else found.end()


def _refusal(opcode: int, left: int) -> UnsafeValueError | CorruptionError:
    if opcode == _STOP:
        return CorruptionError(f"{left - 1} bytes follow the end of a pickle")
    return UnsafeValueError(f"a pickle has the opcode 0x{opcode:02X}, which data never has: it was not loaded")


def _check_depth(body: bytes | memoryview) -> None:
    """Refuse tuples that are nested deeper than can be hashed."""
    whole = bytes(body)
    if sum(map(whole.count, _TUPLES)) > _MOST_NESTED and _depth(whole) > _MOST_NESTED:
        raise UnsafeValueError("a pickle nests tuples deeper than any Pickler writes: it was not loaded")


def _depth(body: bytes) -> int:
    """Return how deep tuples are nested at most; everything but a tuple counts as flat, since it has no deep hash."""
    deepest, at, size = 0, _PROTO_BYTES, len(body)
    stack: list[int] = []
    marks: list[int] = []
    memo: list[int] = []
    while at < size:
        opcode = body[at]
        at += 1
        if opcode in _PUSHES:
            stack.append(0)
            at += _PUSHES[opcode]
        elif (width := _LENGTH_BYTES.get(opcode)) is not None:
            at += width + int.from_bytes(body[at : at + width], "little")
            stack.append(0)
        elif opcode == 0x94:  # MEMOIZE
            memo.append(stack[-1] if stack else 0)
        elif opcode in (0x68, 0x6A):  # BINGET, LONG_BINGET
            width = 1 if opcode == 0x68 else 4
            index = int.from_bytes(body[at : at + width], "little")
            stack.append(memo[index] if index < len(memo) else 0)
            at += width
        elif opcode == 0x28:  # MARK
            marks.append(len(stack))
        elif opcode == 0x95:  # FRAME
            at += 8
        elif opcode in _TO_MARK:
            base = marks.pop() if marks else 0
            nested = 1 + max(stack[base:], default=0) if opcode == 0x74 else 0
            del stack[base:]
            if opcode in (0x74, 0x91):  # TUPLE, FROZENSET
                stack.append(nested)
                deepest = max(deepest, nested)
        elif (taken := _TAKES.get(opcode)) is not None:
            some = stack[-taken:]
            del stack[-taken:]
            nested = 1 + max(some, default=0) if opcode in (0x85, 0x86, 0x87) else 0
            stack.append(nested)
            deepest = max(deepest, nested)
        elif opcode in _DROPS:
            del stack[len(stack) - _DROPS[opcode] :]
    return deepest


# Opcodes that push one flat object, and the bytes of their argument.
_PUSHES: Final = {
    0x4E: 0, 0x88: 0, 0x89: 0, 0x29: 0, 0x5D: 0, 0x7D: 0, 0x8F: 0, 0x4B: 1, 0x4D: 2, 0x4A: 4, 0x47: 8,
}  # fmt: skip
# Opcodes that push one flat object, and the bytes of its length.
_LENGTH_BYTES: Final = {0x8C: 1, 0x43: 1, 0x8A: 1, **_COUNTED}
# APPENDS, SETITEMS, ADDITEMS, FROZENSET, TUPLE, POP_MARK: what they take lies above the mark.
_TO_MARK: Final = frozenset((0x65, 0x75, 0x90, 0x91, 0x74, 0x31))
# TUPLE1 to TUPLE3, STACK_GLOBAL, REDUCE, NEWOBJ: they replace so many objects by one.
_TAKES: Final = {0x85: 1, 0x86: 2, 0x87: 3, 0x93: 2, 0x52: 2, 0x81: 2}
# APPEND, SETITEM, BUILD, POP.
_DROPS: Final = {0x61: 1, 0x73: 2, 0x62: 1, 0x30: 1}
