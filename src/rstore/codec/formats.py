"""The ready-made serializers: pickle, JSON and MessagePack; `data_pickle` has the one for data alone.

Nouns: a *serializer* (a pair of functions, and the codec byte that marks what they wrote).
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Iterable, Iterator
from typing import Any, ClassVar, Final, Protocol

from rstore.codec.data_pickle import DataPickle
from rstore.errors import InvalidValueError, SerializationError, StoreNotAvailableError

# No codec byte is 0xC1: a plain record can then never be taken for a sealed one.
PICKLE: Final = 0x01
JSON: Final = 0x02
MSGPACK: Final = 0x03

_LEAVES: Final = frozenset((str, int, float, bool, bytes, type(None)))


class Serializer(Protocol):
    """A pair of functions and the codec byte that marks what they wrote."""

    codec: ClassVar[int]
    """The byte in front of a body."""
    runs_code: ClassVar[bool]
    """Whether loading a body may run code that its writer chose."""

    def dumps(self, value: Any, /) -> bytes:
        """Return the bytes of a value."""
        ...

    def loads(self, body: bytes, /) -> Any:
        """Return the value of the bytes."""


class Pickle:
    """Any Python object; to be loaded only from trusted writers."""

    codec: ClassVar[int] = PICKLE
    runs_code: ClassVar[bool] = True

    # Which pickles are trusted is decided in `Codec.load`.
    loads = staticmethod(pickle.loads)

    @staticmethod
    def dumps(value: Any, /) -> bytes:
        """Return the pickle of a value."""
        return pickle.dumps(value, 5)  # cheaper than a partial with a keyword


class Json:
    """Values that JSON can express: tuples come back as lists, keys of dicts as str, subclasses as their base."""

    codec: ClassVar[int] = JSON
    runs_code: ClassVar[bool] = False

    def dumps(self, value: Any) -> bytes:
        """Return the JSON of a value, in UTF-8.

        Raises `SerializationError` if two keys of a dict would become one.
        """
        body = json.dumps(value, separators=(",", ":")).encode()
        for keys in _keys_of_dicts(value):
            if len({key if isinstance(key, str) else json.dumps(key) for key in keys}) < len(keys):
                raise SerializationError("two keys of a dict in it become one in JSON, which has keys of type str only")
        return body

    def loads(self, body: bytes) -> Any:
        """Return the value of JSON."""
        return json.loads(body)


class MsgPack:
    """Values that MessagePack can express: tuples come back as lists, subclasses as their base; ints end at 64 bits."""

    codec: ClassVar[int] = MSGPACK
    runs_code: ClassVar[bool] = False

    def __init__(self) -> None:
        try:
            import msgpack
        except ModuleNotFoundError as error:
            raise StoreNotAvailableError(
                "the serializer 'msgpack' needs a package that is not installed: pip install 'rlib-store[msgpack]'"
            ) from error
        self._msgpack = msgpack

    def dumps(self, value: Any) -> bytes:
        """Return the MessagePack of a value.

        Raises `SerializationError` if a key of a dict is a tuple: it would come back as a list, which cannot be a key.
        """
        body = bytes(self._msgpack.packb(value))
        for keys in _keys_of_dicts(value):
            if any(isinstance(key, tuple | list) for key in keys):
                raise SerializationError(
                    "a dict in it has a tuple as a key, which MessagePack gives back as a list, and a list cannot be "
                    "a key: serializer='data' takes it"
                )
        return body

    def loads(self, body: bytes) -> Any:
        """Return the value of MessagePack."""
        return self._msgpack.unpackb(body, strict_map_key=False)


def _keys_of_dicts(value: Any) -> Iterator[Any]:
    """Yield the keys of each dict in a value that has others than str; the value was dumped, so it has an end."""
    todo = [value]
    while todo:
        one = todo.pop()
        if isinstance(one, dict):
            if not set(map(type, one)) <= {str}:
                yield one.keys()
            parts: Iterable[Any] = one.values()
        elif isinstance(one, list | tuple):
            parts = one
        else:
            continue
        if not _LEAVES.issuperset(map(type, parts)):
            todo.extend(part for part in parts if type(part) not in _LEAVES)


SERIALIZERS: Final[dict[str, Callable[[], Serializer]]] = {
    "pickle": Pickle,
    "data": DataPickle,
    "json": Json,
    "msgpack": MsgPack,
}


def make_serializer(chosen: Any) -> Serializer:
    """Return the ready-made serializer of that name, or the one that was made already."""
    if isinstance(chosen, DataPickle):
        return chosen
    try:
        make = SERIALIZERS[chosen]
    except (KeyError, TypeError):
        name = repr(chosen) if isinstance(chosen, str) else type(chosen).__name__
        if chosen is DataPickle:
            name = "the class: call it"
        raise InvalidValueError(
            f"serializer is one of {', '.join(map(repr, SERIALIZERS))}, or a DataPickle(allow=[…]), not {name}"
        ) from None
    return make()
