"""The keys of a store: a list that can also do what the keys of a dict can, and `dict(store)` in one pass.

CPython makes a dict of a mapping by a list of its keys and a look-up for each. An entry that expires between the two,
or that others delete, would be a `KeyError`, and each look-up a call of the backend.

Noun: a *dict read* (the pairs that were read for such a call, until it has asked for each of them).
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from collections.abc import Set as AbstractSet
from itertools import chain
from types import FrameType
from typing import Any, cast

Pairs = deque[tuple[str, Any]]


class Keys(list[str]):
    """The keys of a store, in order: a list with the set operations of a dict's keys."""

    __slots__ = ("_read_for_dict",)

    def __init__(self, keys: Iterable[str], read: Callable[[FrameType], Iterable[str]]) -> None:
        """`read` reads all pairs for the call that a frame is in, and returns their keys."""
        super().__init__(keys)
        self._read_for_dict = read

    def __iter__(self) -> Iterator[str]:
        listed: list[FrameType] = []
        listing = cast("_Listing", _Listing.from_iterable(self._read(listed)))  # of what is not yet read
        listing.listed, listing.n = listed, len(self)
        return listing

    def _read(self, listed: list[FrameType]) -> Iterator[Iterable[str]]:
        yield self._read_for_dict(listed[0]) if listed else list.__iter__(self)

    def __reduce_ex__(self, protocol: Any) -> tuple[type[list[str]], tuple[list[str]]]:
        return list, (self[:],)

    def __and__(self, other: Iterable[Any]) -> set[str]:
        return set(self) & set(other)

    def __or__(self, other: Iterable[Any]) -> set[Any]:
        return set(self) | set(other)

    def __sub__(self, other: Iterable[Any]) -> set[str]:
        return set(self) - set(other)

    def __xor__(self, other: Iterable[Any]) -> set[Any]:
        return set(self) ^ set(other)

    __rand__, __ror__, __rxor__ = __and__, __or__, __xor__

    def __rsub__(self, other: Iterable[Any]) -> set[Any]:
        return set(other) - set(self)

    def isdisjoint(self, other: Iterable[Any]) -> bool:
        """Return whether none of the keys is among others."""
        return set(self).isdisjoint(other)

    def __eq__(self, other: object) -> bool:
        return set(self) == other if isinstance(other, AbstractSet) else list.__eq__(self, other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __le__(self, other: Any) -> bool:
        return set(self) <= other if isinstance(other, AbstractSet) else list.__le__(self, other)

    def __lt__(self, other: Any) -> bool:
        return set(self) < other if isinstance(other, AbstractSet) else list.__lt__(self, other)

    def __ge__(self, other: Any) -> bool:
        return set(self) >= other if isinstance(other, AbstractSet) else list.__ge__(self, other)

    def __gt__(self, other: Any) -> bool:
        return set(self) > other if isinstance(other, AbstractSet) else list.__gt__(self, other)

    __hash__ = None


class _Listing(chain[str]):
    """An iterator of the keys, as fast as that of a list, which knows whether a dict is about to be made of them."""

    listed: list[FrameType]
    n: int

    def __length_hint__(self) -> int:
        # Only a list made of an *iterator* asks for this, as in `PyMapping_Keys`; `list(keys)` asks the keys instead.
        self.listed.append(sys._getframe(1))  # noqa: SLF001 - documented, if not by a public name
        return self.n


class DictRead:
    """The pairs that were read for one call, in the order in which it asks for them.

    A call is an instruction of a frame. Another call that asks for a key, even for the next one, is not answered from
    here: it would get an old value.
    """

    __slots__ = ("_call", "_pairs")

    def __init__(self, frame: FrameType, pairs: Pairs) -> None:
        self._call = id(frame), frame.f_lasti
        self._pairs = pairs

    def __len__(self) -> int:
        return len(self._pairs)

    def take(self, key: str, frame: FrameType) -> tuple[str, Any] | None:
        """Return the next pair if it is that of `key`, for the same call; None ends the read."""
        if (id(frame), frame.f_lasti) == self._call and self._pairs and self._pairs[0][0] is key:
            return self._pairs.popleft()
        return None
