"""The grammar of pickles that hold data, checked before the pickle machine runs, so that no bytes can hurt it.

Nouns: an *opcode* (one byte and its argument).
"""

from __future__ import annotations

import re
from collections import Counter
from typing import Final

from rstore.errors import CorruptionError, UnsafeValueError

# The machine's own limits are too wide. A memo index of 4 bytes allocates up to 64 GiB (LONG_BINPUT, before the fix of
# cpython#115952), a length of 8 bytes as much, an extension code finds its object past `find_class`, and the hash of a
# tuple nested 400,000 deep overflows the C stack. Protocols 4 and 5 write few opcodes; all others are refused.
_TUPLES: Final = (b"\x85", b"\x86", b"\x87", b"t")
_OTHERS: Final = b"N\x88\x89)]}\x8f\x90\x91(aesu\x9401\x98\x93R\x81b"
_GETS: Final = rb"h.|j.{4}"  # BINGET, LONG_BINGET
_LENGTHS: Final = b"(?:%b)" % b"|".join(b"%b.{%d}" % (re.escape(bytes((n,))), n) for n in range(256))


def _run(bare: bytes, gets: bytes) -> bytes:
    """Return the pattern of any number of opcodes whose length takes a byte at most."""
    return (
        rb"(?:\x8c%b\x94?"  # SHORT_BINUNICODE, mostly memoized: first, since most opcodes of most values are these
        rb"|K.|%bG.{8}|[%b]|M..|J.{4}"
        rb"|[C\x8a]%b"  # SHORT_BINBYTES, LONG1
        rb"|\x95.{8})*+"  # FRAME
    ) % (_LENGTHS, gets and gets + b"|", re.escape(bare), _LENGTHS)


_BARE: Final = _OTHERS + b"".join(_TUPLES)
_FEW: Final = 12
_MIN_SHARING: Final = 144
"""Two uses of a tuple in another one take 6 bytes; a chain of 24 such pairs makes one hash slow (0.1 s)."""
_short: Final = re.compile(_run(_BARE, _GETS), re.DOTALL)
_whole: Final = re.compile(rb"\x80[\x04\x05]%b\." % _run(_BARE, _GETS), re.DOTALL)
_without_tuples: Final = re.compile(rb"\x80[\x04\x05]%b\." % _run(_OTHERS, _GETS), re.DOTALL)
# Finds each MEMOIZE, with a group where the memoized object may be a tuple; skips all other opcodes.
_FLAT_THEN: Final = rb"\x8c%b|[)\]}\x8fR\x81\x93]|C%b" % (_LENGTHS, _LENGTHS)
_memos: Final = re.compile(
    rb"(?:(?:%b)(?!\x94)|K.|h.|j.{4}|G.{8}|[%b]|M..|J.{4}|\x8a%b|\x95.{8})*+(?:(?:%b)\x94|(\x94))|.+"
    % (_FLAT_THEN, re.escape(bytes(set(_BARE) - set(b")]}\x8fR\x81\x93\x94"))), _LENGTHS, _FLAT_THEN),
    re.DOTALL,
)
_gets: Final = re.compile(rb"%b(%b)|.+" % (_run(_BARE, b""), _GETS), re.DOTALL)

_PROTO_BYTES: Final = 2
# BINUNICODE, BINBYTES, LONG4; BINUNICODE8, BINBYTES8, BYTEARRAY8: how many bytes tell their length.
_COUNTED: Final = {0x58: 4, 0x42: 4, 0x8B: 4, 0x8D: 8, 0x8E: 8, 0x96: 8}
_STOP: Final = 0x2E
_MAX_NESTED: Final = 5_000
"""The deepest tuple whose hash fits the smallest stacks, of 128 KiB; no Pickler nests deeper than 1,000."""


def check(body: bytes | memoryview) -> None:
    """Check that a pickle holds no opcode but those of data.

    Takes about as long as loading it (benchmarks: `serializers`).

    Raises `UnsafeValueError` for an opcode that data never has, and `CorruptionError` for bytes that are no pickle.
    """
    if _without_tuples.fullmatch(body) is not None:
        return  # most pickles: and without a tuple no hash is deep, or long
    if _whole.fullmatch(body) is None:
        _check_by_opcodes(body)
    _check_hashes(body)


def _check_by_opcodes(body: bytes | memoryview) -> None:
    """Check a pickle with opcodes whose length takes more than one byte, which the pattern does not know."""
    size = len(body)
    if size < _PROTO_BYTES + 1 or body[0] != 0x80 or body[1] not in (4, 5):
        raise CorruptionError("a pickle does not begin as one of protocol 4 or 5")
    at = _PROTO_BYTES
    while True:
        if (run := _short.match(body, at)) is None or run.end() == size:
            raise CorruptionError("a pickle was cut short")
        at = run.end()
        opcode = body[at]
        if (width := _COUNTED.get(opcode)) is not None:
            at += 1 + width
            counted = int.from_bytes(body[at - width : at], "little")
            if counted > size - at:
                raise CorruptionError("a pickle was cut short, or a length in it is damaged")
            at += counted
        elif opcode != _STOP:
            raise UnsafeValueError(f"a pickle has the opcode 0x{opcode:02X}, which data never has: it was not loaded")
        elif at < size - 1:
            raise CorruptionError(f"{size - at - 1} bytes follow the end of a pickle")
        else:
            return


def most_hashed(size: int) -> int:
    """Return how many objects the hashes of all keys in a pickle of that size may look at; 10 million take 0.1 s."""
    return 10_000_000 + 1_000 * size


def check_written(body: bytes) -> None:
    """Check that the keys in a pickle that a Pickler has written can be hashed when it is loaded.

    Raises `UnsafeValueError` if not.
    """
    # A Pickler puts each tuple that it may use again into the memo at once.
    if len(body) >= _MIN_SHARING and (
        b"\x86" in body or b"\x87" in body or b"\x85" in body or b"t\x94" in body
    ):  # single bytes where they suffice: finding one is far faster than finding two, or a pattern
        _check_hashes(body)


def _check_hashes(body: bytes | memoryview) -> None:
    """Check that the keys in a pickle can be hashed, as it is loaded.

    A tuple that holds another one twice, which does the same in turn, doubles the time of a hash with each level: 370
    bytes would take for ever. A tuple nested too deeply overflows the C stack.

    Raises `UnsafeValueError` if not.
    """
    whole = bytes(body)
    if sum(map(whole.count, _TUPLES)) <= _MAX_NESTED and not _may_share(whole):
        return
    deepest, hashed = _measure(whole)
    if deepest > _MAX_NESTED:
        raise UnsafeValueError("a pickle nests tuples deeper than any Pickler writes: it was not loaded")
    if hashed > most_hashed(len(whole)):
        raise UnsafeValueError("a pickle holds a key whose hash takes too long: it was not loaded")


def _may_share(body: bytes) -> bool:
    """Return whether shared tuples may make hashes look at far more objects than the pickle holds."""
    if body.count(b"h") + body.count(b"j") <= _FEW or not any(map(body.count, _TUPLES)):
        return False  # each use doubles it at most
    if _without_tuples.fullmatch(body) is not None:
        return False
    if _whole.fullmatch(body) is None:
        return True
    tuples = _memos.findall(body, _PROTO_BYTES)
    factor = 1
    for get, uses in Counter(_gets.findall(body, _PROTO_BYTES)).items():
        index = int.from_bytes(get[1:], "little")
        if get and index < len(tuples) and tuples[index]:
            factor *= 1 + uses
            if factor * len(body) > most_hashed(len(body)):
                return True
    return False


def _measure(body: bytes) -> tuple[int, int]:
    """Return the deepest nesting of tuples, and the number of objects that the hashes of all keys look at."""
    deepest, hashed, at, size = 0, 0, _PROTO_BYTES, len(body)
    most = most_hashed(size) + 1
    stack: list[tuple[int, int]] = []  # of each object: how deep, and what its hash looks at
    marks: list[int] = []
    memo: list[tuple[int, int]] = []
    while at < size:
        opcode = body[at]
        at += 1
        if opcode in _PUSHES:
            stack.append(_FLAT)
            at += _PUSHES[opcode]
        elif (width := _LENGTH_BYTES.get(opcode)) is not None:
            at += width + int.from_bytes(body[at : at + width], "little")
            stack.append(_FLAT)
        elif opcode == 0x94:  # MEMOIZE
            memo.append(stack[-1] if stack else _FLAT)
        elif opcode in (0x68, 0x6A):  # BINGET, LONG_BINGET
            width = 1 if opcode == 0x68 else 4
            index = int.from_bytes(body[at : at + width], "little")
            stack.append(memo[index] if index < len(memo) else _FLAT)
            at += width
        elif opcode == 0x28:  # MARK
            marks.append(len(stack))
        elif opcode == 0x95:  # FRAME
            at += 8
        elif opcode in _TO_MARK:
            base = marks.pop() if marks else 0
            parts = stack[base:]
            del stack[base:]
            if opcode == 0x74:  # TUPLE
                stack.append(_nested(parts, most))
                deepest = max(deepest, stack[-1][0])
            elif opcode in (0x75, 0x90, 0x91):  # SETITEMS, ADDITEMS, FROZENSET
                hashed += sum([cost for _, cost in (parts[::2] if opcode == 0x75 else parts)])
                if opcode == 0x91:  # which keeps its hash
                    stack.append(_FLAT)
        elif (taken := _TAKES.get(opcode)) is not None:
            parts = stack[-taken:]
            del stack[-taken:]
            stack.append(_nested(parts, most) if opcode in (0x85, 0x86, 0x87) else _FLAT)
            deepest = max(deepest, stack[-1][0])
        elif opcode in _DROPS:
            if opcode == 0x73 and len(stack) > 1:  # SETITEM
                hashed += stack[-2][1]
            del stack[len(stack) - _DROPS[opcode] :]
    return deepest, hashed


_FLAT: Final = (0, 1)


def _nested(parts: list[tuple[int, int]], most: int) -> tuple[int, int]:
    if not parts:
        return 1, 1
    return 1 + max([deep for deep, _ in parts]), min(most, 1 + sum([cost for _, cost in parts]))


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
