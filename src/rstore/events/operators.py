"""The operators of event sequences: their names, their operands, and how they compute.

Operators are stored by name. Each reads and writes exactly one item and computes from nothing else: from exact builtin
types only, to which NumPy's scalars and enums of ints and strings are converted, with decimals under a fixed context,
and to results of a bounded size.
"""

from __future__ import annotations

import datetime as dt
import decimal
import operator
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from enum import Enum
from fractions import Fraction
from typing import Any, Final
from zoneinfo import ZoneInfo

import numpy as np

from rstore.errors import CorruptionError, InvalidTypeError

_NUMBERS: Final = frozenset({bool, int, float, complex, Decimal, Fraction})
_TEXTS: Final = frozenset({str, bytes})
SEQUENCES: Final = frozenset({str, bytes, list, tuple})
_TIMES: Final = frozenset({dt.datetime, dt.date, dt.time, dt.timedelta})
_ZONED: Final = frozenset({dt.datetime, dt.time})
_ZONES: Final = frozenset({type(None), dt.timezone, ZoneInfo})
_OPERANDS: Final = _NUMBERS | SEQUENCES | _TIMES
# Their truth is computed by the interpreter alone.
_TRUTHS: Final = _OPERANDS | {type(None), dict, set, frozenset, bytearray}

# Not `longdouble`, which is no float of Python's, nor datetime64 and timedelta64, which may be finer than Python's.
_SCALARS: Final = frozenset(np.dtype(code).type for code in "?bhilqBHILQefdFDSU")

# A change of 20 bytes, of which compression leaves one, must not take long to replay: within these bounds the slowest
# operators take a fraction of a millisecond.
MAX_BITS: Final = 2**14
"""No integer grows past 2 KiB, 4,932 digits, by computing, and none that is longer is computed with."""
MAX_FRACTION_BITS: Final = 2**13
"""The same for fractions, of which each step takes a greatest common divisor: 1 KiB."""
MAX_BYTES: Final = 2**20
"""No string, list or tuple grows past about 1 MiB by being repeated."""
MAX_APPENDED: Final = 2**24
"""Nor past about 16 MiB by being appended to, each time of which all of it is read and written."""

_DECIMALS: Final = decimal.Context(
    prec=28,
    rounding=decimal.ROUND_HALF_EVEN,
    Emin=-999999,
    Emax=999999,
    capitals=1,
    clamp=0,
    flags=[],
    traps=[decimal.InvalidOperation, decimal.DivisionByZero, decimal.Overflow],
)


class Oversized(ArithmeticError):  # noqa: N818 - users see it as a cause only
    """The result would be absurdly large; it was not computed."""


class Unfit(TypeError):  # noqa: N818 - as above
    """The operator does not take such operands; the message tells their types, never themselves."""


@dataclass(frozen=True, slots=True)
class Operator:
    """One operator of the table."""

    name: str
    function: Callable[..., Any]
    unary: bool = False
    resets: bool = False
    """Whether the item's earlier history no longer matters behind it."""

    def compute(self, value: Any, operand: Any, size: int) -> Any:
        """Return the result of an operator; `size` is how many bytes the two operands take where they are stored."""
        allowed = _TRUTHS if self.name == "not_" else _OPERANDS
        if type(value) not in allowed or type(operand) not in allowed:
            value, operand = _builtin(value), _builtin(operand)
        operands = (value,) if self.unary else (value, operand)
        for one in operands:
            if type(one) not in allowed:
                raise Unfit(f"{self.name} does not take a {type(one).__name__}")
            if type(one) in _ZONED and type(one.tzinfo) not in _ZONES:  # others would run code of their own
                raise Unfit(f"{self.name} takes time zones of datetime and zoneinfo only")
        self._bound(value, operand, size)
        if Decimal in map(type, operands):
            with decimal.localcontext(_DECIMALS):
                if self.name == "pow":  # the only one whose work the context does not bound
                    operands = tuple(_rounded(one) for one in operands)
                return self.function(*operands)
        return self.function(*operands)

    def _bound(self, value: Any, operand: Any, size: int) -> None:
        """Refuse operands whose result would be absurdly large, or take absurdly long."""
        if self.name == "mod" and type(value) in _TEXTS:
            raise Unfit("% does not format text here: '%99999999d' % 1 takes 100 MB")
        if self.name == "mul" and (type(value) in SEQUENCES or type(operand) in SEQUENCES):
            sequence, times = (value, operand) if type(value) in SEQUENCES else (operand, value)
            each = len(sequence) if type(sequence) in _TEXTS else max(size, 8 * len(sequence))
            if sequence and type(times) in (int, bool) and each * times > MAX_BYTES:
                raise Oversized("the repeated sequence would be absurdly large")
            return
        if self.name in ("add", "concat") and type(value) is type(operand) in SEQUENCES:
            if (len(value) + len(operand) if type(value) in _TEXTS else size) > MAX_APPENDED:
                raise Oversized("the sequence would be absurdly large: divide it among several items, or keys")
            return
        if self.name == "not_":  # it looks at the size only
            return
        limit = MAX_FRACTION_BITS if Fraction in (type(value), type(operand)) else MAX_BITS
        bits = _bits(value) + _bits(operand)
        if self.name == "pow":
            exponent = operand.numerator if type(operand) is Fraction and operand.denominator == 1 else operand
            # A negative power of two ints is a float, which cannot be large.
            grows = type(exponent) in (int, bool) and (exponent > 0 or limit == MAX_FRACTION_BITS)
            # To make a decimal of a long int takes the square of its length.
            bits = max(bits, _bits(value) * abs(exponent) if grows and _bits(value) > 1 else 0)
        if bits > limit:
            raise Oversized("the result would be absurdly large, or take absurdly long to compute")


def _builtin(value: Any) -> Any:
    """Return a scalar of NumPy, or a member of an enum of ints or strings, as a builtin; others as they are.

    It calls no method of the enum's class, which could be overridden.
    """
    if type(value) in _SCALARS:
        return value.item()
    if isinstance(value, Enum):
        if isinstance(value, int):
            return int.__index__(value)
        if isinstance(value, str):
            return str.__str__(value)
    return value


def _rounded(value: Any) -> Any:
    return _DECIMALS.create_decimal(value) if type(value) in (int, bool, Decimal) else value


def _bits(value: Any) -> int:
    if type(value) in (int, bool):
        return int(value).bit_length()
    if type(value) is Fraction:
        return max(value.numerator.bit_length(), value.denominator.bit_length())
    return 0


OPERATORS: Final[dict[str, Operator]] = {
    one.name: one
    for one in (
        Operator("setitem", operator.setitem, resets=True),
        Operator("delitem", operator.delitem, unary=True, resets=True),
        Operator("add", operator.add),
        Operator("sub", operator.sub),
        Operator("mul", operator.mul),
        Operator("truediv", operator.truediv),
        Operator("floordiv", operator.floordiv),
        Operator("mod", operator.mod),
        Operator("pow", operator.pow),
        Operator("concat", operator.concat),
        Operator("neg", operator.neg, unary=True),
        Operator("not_", operator.not_, unary=True),
    )
}
_BY_FUNCTION: Final[dict[Callable[..., Any], Operator]] = {one.function: one for one in OPERATORS.values()}

SETITEM: Final = OPERATORS["setitem"]


def find_operator(function: Any) -> Operator | None:
    """Return the operator of a function such as `operator.add`; None for anything else."""
    try:
        return _BY_FUNCTION.get(function)
    except TypeError:  # unhashable
        return None


def check_operator(function: Any) -> Operator:
    """Return the operator of a function such as `operator.add`, and refuse everything else."""
    found = find_operator(function)
    if found is None:
        name = getattr(function, "__name__", type(function).__name__)
        if isinstance(function, str) and function in OPERATORS:
            raise InvalidTypeError(f"the name of an operator is not the operator: write operator.{function}")
        raise InvalidTypeError(f"{name} is not an operator of event sequences: these are {', '.join(OPERATORS)}")
    return found


def stored_operator(name: str) -> Operator:
    """Return the operator of a stored name."""
    found = OPERATORS.get(name)
    if found is None:
        raise CorruptionError(f"the operator {name!r} is unknown: damaged, or written by a newer version")
    return found
