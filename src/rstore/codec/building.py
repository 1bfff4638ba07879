"""Builds the objects that a pickle of data describes: each blueprint becomes its object, in its place."""

from __future__ import annotations

import decimal
from collections.abc import Iterable
from typing import Any, Final

from rstore.codec.blueprints import Blueprint
from rstore.errors import CorruptionError, UnsafeValueError


def build(root: Any, most_hashed: int) -> Any:
    """Build all blueprints of a loaded value, without recursion: nesting has no limit but memory.

    Lists, dicts and sets are filled in place, so that what is shared stays shared, and what holds itself holds itself.
    Each object is looked at once, or twice if it holds itself. The keys of dicts and the items of sets
    have hashes that look at `most_hashed` objects altogether.
    """
    return _Building(most_hashed).build(root)


class _Building:
    """Builds all objects of one pickle."""

    def __init__(self, most_hashed: int) -> None:
        self.built: dict[int, Any] = {}
        """The replacements of objects, by their ids."""
        self.kept: list[Any] = []
        """Other objects that were looked at, kept so that no id is used twice."""
        self.begun: set[int] = set()
        """The objects that wait for their parts."""
        self.costs: dict[int, int] = {}
        """How many objects a hash of one looks at, if more than one."""
        self.most_hashed = self.left = most_hashed

    def build(self, root: Any) -> Any:
        todo: list[tuple[Any, bool]] = [(root, False)]
        while todo:
            one, ready = todo.pop()
            if ready:
                if id(one) not in self.built or self._is_begun(one):
                    self._finish(one)
            elif id(one) in self.begun:
                if id(one) not in self.built:
                    self._settle(one)
            elif (pending := self._enter(one)) is not None:
                todo.append((one, True))
                todo.extend([(part, False) for part in pending])
        return self.built.get(id(root), root)

    def _enter(self, one: Any) -> list[Any] | None:
        """Return the parts that have to be built before an object is; None if it is built, or is none to be built."""
        at, kind = id(one), type(one)
        if kind is type:
            self.built[at] = _named(one)
        elif isinstance(one, Blueprint):
            self.kept.append(one)
            self.begun.add(at)
            self._begin(one)
            return [part for part in one.parts() if part is not None and type(part) not in _LEAVES]
        elif kind in _CONTAINERS and at not in self.begun:
            self.kept.append(one)
            self.begun.add(at)
            if kind in _IN_PLACE:
                self.built[at] = one
            parts = (*one, *one.values()) if kind is dict else one
            pending = [part for part in parts if type(part) not in _LEAVES]
            if pending:
                return pending
            self.built[at] = one
            self.costs[at] = 1 + len(one)
        return None

    def _begin(self, one: Blueprint) -> None:
        if one.begun is None and (begun := one.begin()) is not None:
            one.begun = self.built[id(one)] = begun

    def _is_begun(self, one: Any) -> bool:
        return type(one) in _IN_PLACE or (isinstance(one, Blueprint) and one.begun is not None)

    def _finish(self, one: Any) -> None:
        parts = one.parts() if isinstance(one, Blueprint) else one.values() if type(one) is dict else one
        costs = self.costs
        cost = 1 + sum([costs.get(id(part), 1) for part in parts])
        self.left -= sum([costs.get(id(key), 1) for key in _hashed(one)])
        if self.left < 0:
            raise UnsafeValueError("a pickle holds a key whose hash takes too long: it was not loaded")
        made = self.built[id(one)] = _rebuilt(one, self.built)
        self.kept.append(made)
        costs[id(one)] = costs[id(made)] = min(cost, self.most_hashed + 1)

    def _settle(self, one: Any) -> None:
        """Build an object that is part of itself: what lies between is filled later, and so has to be there only."""
        todo, settling = [(one, False)], set[int]()
        while todo:
            part, ready = todo.pop()
            if id(part) in self.built or type(part) in _LEAVES:
                continue
            if ready:
                self._finish(part)
            elif id(part) in settling:
                raise CorruptionError("a pickle holds an object that is part of itself, and cannot be: forged")
            elif type(part) in _IN_PLACE:
                self.built[id(part)] = part
                self.kept.append(part)
            elif isinstance(part, Blueprint | tuple | frozenset):
                self.kept.append(part)
                if isinstance(part, Blueprint):
                    self._begin(part)
                    if part.begun is not None:
                        continue
                settling.add(id(part))
                todo.append((part, True))
                todo.extend([(inner, False) for inner in (part.parts() if isinstance(part, Blueprint) else part)])


_IN_PLACE: Final = frozenset((list, dict, set))
_CONTAINERS: Final = _IN_PLACE | {tuple, frozenset}
_LEAVES: Final = frozenset((type(None), bool, int, float, complex, str, bytes, bytearray, decimal.Decimal))


def _named(kind: type) -> Any:
    """Return the class that a pickle only names."""
    if not issubclass(kind, Blueprint):
        return kind
    if kind.original is None:
        raise UnsafeValueError("a pickle holds a function: it was not loaded")
    return kind.original


def _hashed(one: Any) -> Iterable[Any]:
    """Return the parts of an object that are hashed when it is built."""
    if isinstance(one, Blueprint):
        return one.hashed()
    return one if type(one) in (dict, set, frozenset) else ()


def _rebuilt(one: Any, built: dict[int, Any]) -> Any:
    """Return an object with its parts replaced by those that were built."""

    def of(part: Any) -> Any:
        return built.get(id(part), part)

    if isinstance(one, Blueprint):
        one.args, one.state, one.items = tuple(map(of, one.args)), of(one.state), list(map(of, one.items))
        return one.build()
    if type(one) is dict:
        pairs = [(of(key), of(value)) for key, value in one.items()]
        one.clear()
        one.update(pairs)
        return one
    parts = [of(part) for part in one]
    if type(one) is list:
        one[:] = parts
    elif type(one) is set:
        one.clear()
        one.update(parts)
    else:
        return type(one)(parts)
    return one
