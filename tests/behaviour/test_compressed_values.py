"""Values that are stored compressed: every verb reads them, whoever opens the store."""

from __future__ import annotations

import random
from typing import Any, Final

import pytest
from value_suite import ValueSuite

from rstore import Store, UnsafeValueError
from rstore.testing.flavours import KEY, Flavour, JsonStore, plain
from rstore.testing.oracle import Oracle
from rstore.testing.suite import Opener

_random = random.Random(7)
TEXTS: dict[str, Any] = {
    "short": "x" * 100,
    "long": "the same again " * 200,
    "longer": ["the same again " * 20_000],
    "longest": "la" * 2**20,
    "random": _random.randbytes(3000).hex(),
    "random and long": "".join(map(chr, _random.choices(range(0x4E00, 0x9FFF), k=100_000))),
    "rows": [{"id": i, "name": f"user-{i}"} for i in range(300)],
}
COMPRESSED: Final = (
    Flavour("compressed", compress=True),
    Flavour("compressed-sealed", key=KEY, compress=True),
    Flavour("compressed-subclass", JsonStore, compress=True),
    Flavour("compressed-msgpack", serializer="msgpack", compress=True),
)


class TestCompressedValues(ValueSuite):
    """`compress=True`."""

    @pytest.mark.parametrize("flavour", COMPRESSED, indirect=True, ids=str)
    def test_every_verb_reads_what_was_compressed(self, store: Store, oracle: Oracle) -> None:
        store.update(TEXTS)
        assert store.get_many(TEXTS) == dict(store) == TEXTS
        assert {entry.key: entry.value for entry in store.scan()} == dict(store.find("*")) == TEXTS
        text = TEXTS["long"]
        version = store.set("k", text, ttl=60)
        entry = store.entry("k")
        assert entry is not None
        assert (entry.value, entry.version) == (text, version)
        version = store.set("k", text * 2, if_version=version)
        assert store.modify("k", lambda value: value + text) == text * 3
        assert store.modify("new", lambda value: value + text, default=text) == text * 2
        assert store.setdefault("k", 1) == store.get_or_set("k", int) == store.pop("k") == text * 3
        assert store.pop("new") == text * 2
        assert store.add("added", text)
        store["n"] = 1
        assert store.incr("n") == 2
        oracle.values = TEXTS | {"added": text, "n": 2}

    @pytest.mark.parametrize("flavour", COMPRESSED, indirect=True, ids=str)
    def test_stores_that_compress_and_others_read_the_same(self, opener: Opener) -> None:
        with opener() as store, opener(compress=False) as other:
            store.update(TEXTS)
            assert dict(other) == TEXTS
            other.update({key: [value] for key, value in TEXTS.items()})
            assert dict(store) == {key: [value] for key, value in TEXTS.items()}

    @plain
    def test_a_compressed_pickle_is_refused_where_pickles_are(self, opener: Opener) -> None:
        with opener(compress=True) as store, opener(serializer="json") as other:
            store["k"] = ["the same again"] * 1000
            with pytest.raises(UnsafeValueError):
                other.get("k")
