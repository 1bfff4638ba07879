"""`find`: two wildcards, and everything else literal."""

from __future__ import annotations

import time
from typing import Any

import pytest

from rstore import InvalidArgumentError, Store
from rstore.testing.flavours import pickled, plain
from rstore.testing.oracle import Oracle, matches, utf8
from rstore.testing.suite import Suite, shown

KEYS = (
    "a", "b", "ab", "abc", "abcd", "aXc", "a.c", "a%c", "a_c", "a\\c", "a\nc", "a[b]c", "a]c", "a[c", "[ab]", "^a",
    "a$", "a|b",
    "(a)", "a+", "{1}", "a-z", "!a", "A", "AB", "Abc", "\u00e9", "e\u0301", "\U0001f600", "a\U0001f600c", "a\uffffc",
    "*", "?",
    "a*c", "a?c", "**", "\\*", "\\", "%", "_", "%%", "__", "a b", " a", "a ", "\n", "abc\n", "\nabc", "aaaa", "aaab",
    "baaa",
    "abab", "ab/cd", "ab.cd", "'", '"', "a'c", ";", "--",
)  # fmt: skip
PATTERNS = (
    "*", "?", "??", "???", "*?", "?*", "**", "*a", "a*", "*a*", "a?c", "a*c", "ab*", "*b", "*b*", "abc", "a", "A*",
    "[ab]", "[ab]*",
    "[!a]", "a[b]c", "a.c", ".*", ".", "a%c", "%", "_", "a_c", "__", "%%", "\\", "\\*", "a\\c", "\\?", "a\nc", "*\n",
    "\n*", "^a",
    "a$", "a|b", "(a)", "a+", "{1}", "a-z", "!a", "\u00e9", "?\u0301", "\U0001f600", "a\U0001f600*", "*\uffff*", "a**c",
    "*a*b*", "**?",
    "?**?", "a*a*a", "*ab*ab*", "nothing", "*nothing*", "a* ", " *", "*/*", "*.*", "'", '"', "*'*", ";", "--", "a\x01*",
    "", "\ud800*", "a\udfff?", "x" * 3000 + "*",
)  # fmt: skip


class FindingSuite(Suite):
    """`find` by pattern."""

    @pickled
    def test_every_pattern(self, store: Store, oracle: Oracle) -> None:
        pairs = {key: i for i, key in enumerate(KEYS)}
        store.update(pairs)
        oracle.values.update(pairs)
        ordered = sorted(pairs.items(), key=lambda item: utf8(item[0]))
        assert store.find() == store.find(None) == ordered
        for pattern in PATTERNS:
            expected = [(key, value) for key, value in ordered if matches(pattern, key)]
            assert store.find(pattern) == expected, pattern

    def test_find_returns_the_values_too(self, store: Store) -> None:
        store.update({"a1": [1], "a2": None, "b1": "x"})
        assert store.find("a*") == [("a1", [1]), ("a2", None)]
        assert store.find("a3") == []

    @plain
    def test_find_among_many(self, store: Store) -> None:
        store.update({f"{i:05}/{i % 7}": i for i in range(12_000)})
        assert store.find("*/3") == [(f"{i:05}/3", i) for i in range(3, 12_000, 7)]
        assert store.find("117??/*") == [(f"{i:05}/{i % 7}", i) for i in range(11_700, 11_800)]
        assert store.find("11999/1") == [("11999/1", 11_999)]

    @plain
    def test_no_pattern_takes_long(self, store: Store) -> None:
        # A matcher that backtracks would never come to an end here.
        store["a" * 2000] = 1
        begin = time.perf_counter()
        assert store.find("*a" * 20 + "*b") == []
        assert store.find("a*" * 20 + "?b") == []
        assert time.perf_counter() - begin < 2

    @pytest.mark.parametrize("pattern", [42, b"a*", ["a"], 1.5], ids=shown)
    @plain
    def test_a_pattern_is_a_str(self, store: Store, pattern: Any) -> None:
        with pytest.raises(InvalidArgumentError):
            store.find(pattern)
