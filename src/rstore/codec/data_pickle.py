"""Pickle restricted to data: the types and the speed of pickle, for bytes of untrusted writers.

Nouns: *data* (builtin types, a short list of classes from the standard library, arrays of NumPy) and the classes that
a program *allows* beside them.
"""

from __future__ import annotations

import copyreg
import datetime
import decimal
import fractions
import io
import pickle
import re
import uuid
import zoneinfo
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Iterable
from functools import lru_cache
from typing import Any, ClassVar, Final, cast

import numpy as np

from rstore.codec import blueprints, building, numpy_blueprints, pickle_grammar
from rstore.codec.allowed_classes import AllowedBlueprint, blueprint_for, name_of, refusal
from rstore.codec.blueprints import DIRECT, MAX_FRACTION_BITS, STANDARD, Blueprint
from rstore.codec.numpy_blueprints import NUMPY
from rstore.errors import InvalidTypeError, StoreError, UnsafeValueError

_MAX_NAME: Final = 100
_STACK_GLOBAL: Final = b"\x93"
_global: Final = re.compile(_STACK_GLOBAL)  # not `in`: a memoryview compares its items, and finds no bytes
_INSTANCES: Final = frozenset(
    (
        datetime.datetime, datetime.date, datetime.time, datetime.timedelta, datetime.timezone, zoneinfo.ZoneInfo,
        decimal.Decimal, complex, range, uuid.UUID, deque, OrderedDict, defaultdict, Counter,
    )
)  # fmt: skip
_NAMED: Final = frozenset(
    {id(found) for found in DIRECT.values() if not issubclass(found, Blueprint)}
    | {id(kind.original) for kind in (STANDARD | NUMPY).values()}
    | {id(decimal.Decimal), id(zoneinfo.ZoneInfo)}
)
"""The globals that pickles of these may name, by identity: not all of them have a hash."""
_UNPICKLE_ZONE: Final = zoneinfo.ZoneInfo._unpickle  # type: ignore[attr-defined] # noqa: SLF001 - its pickles name it
_ARRAY_KINDS: Final = frozenset("biufcSUVmM")


class DataPickle:
    """The serializer `'data'`, with more classes than it knows by itself.

    Args:
        allow: Dataclasses, enums, named tuples and attrs classes that values may hold. They are found by module and
            qualified name, so that both have to stay. An object is rebuilt from its fields: neither `__init__` nor
            any other method of its class is called.

    Values may hold None, bool, int, float, complex, str, bytes, bytearray, list, tuple, dict, set, frozenset, range;
    deque, OrderedDict, defaultdict (of a builtin type) and Counter; the types of `datetime`, `ZoneInfo`, `Decimal`,
    `Fraction` and `UUID`; arrays and scalars of NumPy but for those of objects. Subclasses of these are refused.

    It writes pickles, and reads those that the pickle serializer wrote, as long as they hold data alone. Everything
    else raises `SerializationError` when it is stored, with the class named, and `UnsafeValueError` when it is read;
    nothing of it runs.

    Raises `InvalidTypeError` if `allow` holds what is no class, and `InvalidValueError` for a class that cannot be
    rebuilt without running code of its own.

    >>> from http import HTTPMethod
    >>> from rstore import DataPickle, Store
    >>> with Store('file.db', frozen=False, serializer=DataPickle(allow=[HTTPMethod])) as store:
    ...     store['methods'] = {HTTPMethod.GET: 'read', HTTPMethod.PUT: 'write'}
    ...     store['methods'][HTTPMethod.PUT]
    'write'
    """

    codec: ClassVar[int] = 0x01  # that of pickles
    runs_code: ClassVar[bool] = False

    def __init__(self, *, allow: Iterable[type] = ()) -> None:
        if isinstance(allow, type) and not hasattr(type(allow), "__iter__"):
            raise InvalidTypeError(f"allow is a list of classes: allow=[{allow.__name__}]")
        self._allowed = {kind: blueprint_for(kind) for kind in allow}
        table = DIRECT | STANDARD | NUMPY | {name_of(kind): made for kind, made in self._allowed.items()}
        self._unpickler = type("_Loading", (_Unpickler,), {"table": table})
        self._pickler = type("_Dumping", (_Pickler,), {"allowed": self._allowed})

    def __repr__(self) -> str:
        return f"DataPickle(allow=[{', '.join(kind.__qualname__ for kind in self._allowed)}])"

    def dumps(self, value: Any) -> bytes:
        """Return the pickle of a value that holds data alone."""
        buffer = io.BytesIO()
        self._pickler(buffer, 5).dump(value)
        body = buffer.getvalue()
        if copyreg._extension_registry:  # type: ignore[attr-defined] # noqa: SLF001 - it has no public name
            pickle_grammar.check(body)
        else:
            pickle_grammar.check_written(body)
        return body

    def loads(self, body: bytes | memoryview) -> Any:
        """Return the value of a pickle that holds data alone."""
        pickle_grammar.check(body)
        if _global.search(body) is None:
            return pickle.loads(body)  # noqa: S301 - it names nothing, and so makes builtin types alone
        machine = self._unpickler(io.BytesIO(body))
        value = machine.load()
        if machine.needs_building:
            return building.build(value, pickle_grammar.most_hashed(len(body)))
        return value


class _Unpickler(pickle.Unpickler):
    table: ClassVar[dict[tuple[str, str], Any]]
    needs_building = False

    def find_class(self, module: str, name: str, /) -> Any:
        found = self.table.get((module, name))
        if found is None:
            raise UnsafeValueError(
                f"the value is a pickle that holds {_shorten(f'{module}.{name}')}, which is no data: it was not "
                "loaded; serializer=DataPickle(allow=[…]) takes dataclasses, enums, named tuples and attrs classes"
            )
        if issubclass(found, Blueprint) and not found.is_called:
            self.needs_building = True
        return found


def _shorten(name: str) -> str:
    """Return a name that stored bytes give, fit for a message."""
    return repr(name if len(name) <= _MAX_NAME else name[:_MAX_NAME] + "…")


class _Pickler(pickle.Pickler):
    allowed: ClassVar[dict[type, type[AllowedBlueprint]]]
    holds_zone = False

    def reducer_override(self, obj: Any) -> Any:
        """Refuse what cannot be read back; called for every object but those of builtin types."""
        kind = type(obj)
        if kind in _INSTANCES:
            if kind is defaultdict and obj.default_factory not in blueprints.FACTORIES | {None}:
                raise refusal(obj.default_factory, "as the factory of a defaultdict: only builtin types are")
            if kind in (OrderedDict, Counter) and vars(obj):
                raise refusal(obj, "with attributes of its own")
            if kind is zoneinfo.ZoneInfo:
                self.holds_zone = True
                if obj.key not in blueprints.known_zones():
                    raise refusal(obj, "unless it is one of zoneinfo.available_timezones()")
        elif kind in self.allowed:
            self.allowed[kind].check(obj)
        if kind in _INSTANCES or kind in self.allowed:
            if kind in copyreg.dispatch_table and kind is not complex:
                raise refusal(obj, "since copyreg has another way to pickle it")
            return NotImplemented
        if kind is fractions.Fraction:
            if max(obj.numerator.bit_length(), obj.denominator.bit_length()) > MAX_FRACTION_BITS:
                raise refusal(obj, f"with more than {MAX_FRACTION_BITS:,} bits")
            return fractions.Fraction, (obj.numerator, obj.denominator)  # Python 3.11.0 writes a str
        if kind is np.ndarray or (isinstance(obj, np.generic) and kind.__module__ == "numpy"):
            if not _is_exact(obj.dtype) or (kind is not np.ndarray and obj.dtype.kind == "V"):
                raise refusal(obj, f"of dtype {obj.dtype.name}")
            return NotImplemented
        if isinstance(obj, np.dtype):
            if not _is_exact(obj):
                raise refusal(obj, "of objects, or with metadata")
            return NotImplemented
        if id(obj) in _NAMED or (isinstance(obj, type) and obj in self.allowed):
            return NotImplemented
        if self.holds_zone and (obj is getattr or obj == _UNPICKLE_ZONE):  # by which a zone names its class
            return NotImplemented
        raise refusal(obj)


@lru_cache(maxsize=256)
def _is_exact(dtype: np.dtype[Any]) -> bool:
    """Return whether a dtype is read back as it is."""
    if dtype.hasobject or dtype.kind not in _ARRAY_KINDS or dtype.metadata is not None:
        return False
    _, args, state = cast("tuple[Any, tuple[Any, ...], Any]", dtype.__reduce__())
    try:
        again = numpy_blueprints.build_dtype(args, state)
    except (StoreError, ValueError, TypeError):
        return False
    return again == dtype and again.isalignedstruct == dtype.isalignedstruct
