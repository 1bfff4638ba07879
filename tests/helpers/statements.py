"""A walk through all three models that runs every statement of a backend."""

from __future__ import annotations

import operator

from rstore import Store


def use(dsn: str) -> None:
    """Use every statement of the backend, and discard."""
    with Store(dsn, frozen=False, durability="normal") as store:
        store.update({f"{i}": i for i in range(100)})
        store.setdefault("other", 1)
        assert (store.pop("other"), store.delete("1", "2"), len(store), store.get("3")) == (1, 2, 98, 3)
        store.extend("s", (1, 1), (2, 2))
        store.extend_many("s", ((t, t) for t in range(20_000)))
        store.remove("s", start=5, end=9)
        assert (store.last("s"), len(store.range("s")), store.range("s", 4, n=2)) == (
            (19_999, 19_999),
            19_995,
            [(4, 4), (10, 10)],
        )
        for i in range(200):
            store.apply("e", {"count": (operator.add, 1) if i else 0, "last": i})
        store.apply("e", {"past": 1}, 5)
        store.prune("e")
        assert store.current("e") == {"count": 199, "last": 199, "past": 1}
        store.remove("s")
        store.clear()
        assert (store.keys(), store.timeseries(), store.eventsources()) == ([], [], ["e"])
        store.discard()
