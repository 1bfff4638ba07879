"""Flavours: the combinations of encryption key and serializer that the tests run in."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Final, Literal

import pytest

from rstore import Store

KEY: Final = "cnN0b3JlLnRlc3Rpbmcgc2VhbHMgd2l0aCB0aGlzISE="
OTHER_KEY: Final = "YW5kIHRoaXMgb25lIG11c3Qgbm90IG9wZW4gaXQhISE="


class JsonStore(Store):
    """A store with a serializer of its own, as the documentation shows one."""

    def _dump(self, value: Any) -> str:
        return json.dumps(value)

    def _load(self, data: Any) -> Any:
        return json.loads(data)


@dataclass(frozen=True)
class Flavour:
    """A class of stores with an encryption key and a serializer."""

    name: str
    store: type[Store] = Store
    key: str | None = None
    serializer: Literal["pickle", "data", "json", "msgpack"] = "pickle"
    compress: bool = False

    def __str__(self) -> str:
        return self.name

    def make(self, dsn: str, namespace: str | None = None, *, frozen: bool = False, **options: Any) -> Store:
        """Return a store of this flavour, not yet open; `options` override those of the flavour."""
        options = {"key": self.key, "serializer": self.serializer, "compress": self.compress, **options}
        return self.store(dsn, namespace, frozen=frozen, **options)


PICKLED: Final = (Flavour("plain"), Flavour("sealed", key=KEY))
pickled = pytest.mark.parametrize("flavour", PICKLED, indirect=True, ids=str)
"""For tests of values that only pickle can keep, and for those that do not depend on the serializer."""
sealed = pytest.mark.parametrize("flavour", PICKLED[1:], indirect=True, ids=str)
"""For the slowest tests: a sealed store also takes all the steps of a plain one."""
plain = pytest.mark.parametrize("flavour", PICKLED[:1], indirect=True, ids=str)
"""For tests that do not depend on encryption either, and for those that choose their own keys."""
