"""The rules of the state machine for key/value pairs."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from rstore import ConflictError, InvalidArgumentError
from rstore.testing import strategies as draw
from rstore.testing.handles import Handles
from rstore.testing.oracle import matches, same, utf8

_LIVES = st.none() | st.sampled_from([3600, 10**9])
_EDGES = st.none() | draw.KEYS


class ValueRules(Handles):
    """Sets, deletes, counts and finds pairs."""

    @rule(who=draw.WRITERS, key=draw.KEYS, value=draw.VALUES, ttl=_LIVES)
    def set(self, who: str, key: str, value: Any, ttl: float | None) -> None:
        """Set a key."""
        version = self.ask(who, "set", key, value, ttl=ttl)
        self.oracle.values[key] = value
        entry = self.ask(who, "entry", key)
        assert same((entry.key, entry.value, entry.version), (key, value, version))
        assert (entry.expires is None) is (ttl is None)

    @rule(who=draw.WRITERS, key=draw.KEYS, value=draw.VALUES, fresh=st.booleans(), delete=st.booleans())
    def set_if(self, who: str, key: str, value: Any, fresh: bool, delete: bool) -> None:
        """Set or delete a key on condition of a version, which may be stale."""
        entry = self.ask(who, "entry", key)
        assert (entry is not None) is (key in self.oracle.values)
        version = entry and entry.version
        if not fresh:
            with pytest.raises(ConflictError) as caught:
                self._write_if(who, key, value, b"of another" if version is None else None, delete=delete)
            assert who == "process" or caught.value.actual == version  # errors come from there without their attributes
            return
        self._write_if(who, key, value, version, delete=delete)
        if delete:
            self.oracle.values.pop(key, None)
        else:
            self.oracle.values[key] = value

    def _write_if(self, who: str, key: str, value: Any, version: bytes | None, *, delete: bool) -> None:
        if delete:
            self.ask(who, "delete", key, if_version=version)
        else:
            self.ask(who, "set", key, value, if_version=version)

    @rule(who=draw.WRITERS, pairs=st.dictionaries(draw.KEYS, draw.VALUES, max_size=4), many=st.booleans())
    def update(self, who: str, pairs: dict[str, Any], many: bool) -> None:
        """Set several keys."""
        if many:
            self.ask(who, "set_many", pairs, atomic=self.transactional)
        else:
            self.ask(who, "update", pairs)
        self.oracle.values.update(pairs)

    @rule(who=draw.WRITERS, keys=st.lists(draw.KEYS, max_size=4))
    def delete(self, who: str, keys: list[str]) -> None:
        """Delete several keys."""
        there = [key for key in set(keys) if key in self.oracle.values]
        assert self.ask(who, "delete", *keys) == len(there)
        for key in there:
            del self.oracle.values[key]

    @rule(who=draw.WRITERS, prefix=draw.KEYS)
    def delete_prefix(self, who: str, prefix: str) -> None:
        """Delete the keys that begin with a prefix."""
        there = [key for key in self.oracle.values if key.startswith(prefix)]
        assert self.ask(who, "count", prefix) == len(there)
        assert self.ask(who, "delete_prefix", prefix) == len(there)
        for key in there:
            del self.oracle.values[key]

    @rule(who=draw.WRITERS, key=draw.KEYS, value=draw.VALUES)
    def put_what_is_missing(self, who: str, key: str, value: Any) -> None:
        """Set keys unless they are there, and pop one."""
        values = self.oracle.values
        assert self.ask(who, "add", key, value) is (key not in values)
        values.setdefault(key, value)
        assert same(self.ask(who, "setdefault", "b", value), values.setdefault("b", value))
        assert same(self.ask(who, "pop", "ab", 5), values.pop("ab", 5))

    @rule(who=draw.WRITERS, key=draw.KEYS, delta=draw.SMALL)
    def incr(self, who: str, key: str, delta: float | bool) -> None:
        """Count up a number or an absent key; other values are refused."""
        before = self.oracle.values.get(key, 0)
        if type(delta) is bool or type(before) not in (int, float):
            with pytest.raises(InvalidArgumentError):
                self.ask(who, "incr", key, delta)
            return
        self.oracle.values[key] = before + delta
        assert same(self.ask(who, "incr", key, delta), self.oracle.values[key])

    @rule(who=draw.WRITERS, key=draw.KEYS, ttl=_LIVES)
    def touch(self, who: str, key: str, ttl: float | None) -> None:
        """Change when a key expires."""
        assert self.ask(who, "touch", key, ttl) is (key in self.oracle.values)
        entry = self.ask(who, "entry", key)
        assert entry is None or (entry.expires is None) is (ttl is None)

    @rule(who=draw.WRITERS)
    @precondition(lambda self: self.oracle.values)
    def popitem(self, who: str) -> None:
        """Pop the last key."""
        last = max(self.oracle.values, key=utf8)
        assert same(self.ask(who, "popitem"), (last, self.oracle.values.pop(last)))

    @rule(who=draw.WRITERS)
    def clear(self, who: str) -> None:
        """Delete all keys."""
        self.ask(who, "clear")
        self.oracle.values.clear()

    @rule(who=draw.READERS, key=draw.KEYS, pattern=st.text(st.sampled_from("ab*?\uffff"), max_size=4))
    def read_values(self, who: str, key: str, pattern: str) -> None:
        """Read pairs in every way."""
        values = self.oracle.values
        assert same(self.ask(who, "get", key, 5), values.get(key, 5))
        assert self.ask(who, "__contains__", key) is (key in values)
        assert self.ask(who, "__len__") == len(values)
        assert self.ask(who, "keys") == sorted(values, key=utf8)
        expected = [(key, values[key]) for key in sorted(values, key=utf8)]
        assert same(self.ask(who, "items"), expected)
        assert same(self.ask(who, "find", pattern), [pair for pair in expected if matches(pattern, pair[0])])
        wanted = [key, "a", "none"]
        assert same(self.ask(who, "get_many", wanted), {one: values[one] for one in wanted if one in values})

    @rule(
        who=draw.READERS, prefix=st.sampled_from(["", "a", "\uffff"]), start=_EDGES, stop=_EDGES,
        reverse=st.booleans(), limit=st.none() | st.integers(0, 4),
    )  # fmt: skip
    def scan(
        self, who: str, prefix: str, start: str | None, stop: str | None, reverse: bool, limit: int | None
    ) -> None:
        """Read a range of keys."""
        chosen = [
            key
            for key in sorted(self.oracle.values, key=utf8, reverse=reverse)
            if key.startswith(prefix)
            and (start is None or utf8(key) >= utf8(start))
            and (stop is None or utf8(key) < utf8(stop))
        ][:limit]
        found = self.ask(who, "scan", prefix, start=start, stop=stop, reverse=reverse, limit=limit)
        assert same([(entry.key, entry.value) for entry in found], [(key, self.oracle.values[key]) for key in chosen])
