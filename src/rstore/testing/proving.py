"""Proofs: a sequence is what was committed, and a digest that was kept elsewhere holds it to that."""

from __future__ import annotations

import operator
import random
from typing import Any

import pytest

from rstore import CorruptionError, HorizonError, InvalidArgumentError, Store, TamperedError
from rstore.testing.flavours import pickled, sealed
from rstore.testing.suite import Opener, Suite


class ProvingSuite(Suite):
    """`digest` and `verify`."""

    def test_a_sequence_contains_its_earlier_digests(self, store: Store) -> None:
        assert (store.digest("k"), store.verify("k")) == (None, None)
        kept: list[str] = []
        for t in (10, 20, 15, 30, 5, 25, 35):  # some of them dated back
            store.apply("k", {f"at {t}": t}, t)
            kept.append(store.digest("k") or "")
            assert [store.verify("k", one) for one in kept] == [kept[-1]] * len(kept)
        assert len({*kept}) == len(kept)
        assert [one.split(".")[:2] for one in kept] == [[f"{n}", "0"] for n in range(1, 8)]
        assert all(len(one) < 60 for one in kept)

    def test_another_sequence_does_not(self, store: Store, opener: Opener) -> None:
        for key, value in (("one", 1), ("other", 2)):
            for t in range(3):
                store.apply(key, {"a": value}, t)
        unlike = TamperedError if opener.flavour.key else CorruptionError
        with pytest.raises(unlike, match="the event sequence 'one' in namespace 'default'"):
            store.verify("one", store.digest("other"))
        kept = store.digest("one")
        store.prune("one", before=99, remove=True)
        with pytest.raises(HorizonError) as refused:
            store.verify("one", kept)
        assert (refused.value.key, refused.value.horizon) == ("one", 2)
        store.apply("other", {"a": _DELETE})
        kept = store.digest("other")
        store.prune("other")
        assert store.current("other") is None
        with pytest.raises(unlike, match="gone"):
            store.verify("other", kept)
        store.apply("other", {"a": 2}, 0)
        with pytest.raises(unlike, match="before the digest was taken"):
            store.verify("other", kept)

    def test_a_prune_begins_the_digest_anew(self, store: Store) -> None:
        for t in (10, 20, 30, 15, 40):
            store.apply("k", {"a": t, f"b{t}": t}, t)
        kept = [store.digest("k")]
        for before in (None, 18, 25):
            assert store.prune("k", before=before) > 0
            for old in kept:
                with pytest.raises(HorizonError):
                    store.verify("k", old)
            kept.append(store.digest("k"))
            assert store.verify("k", kept[-1]) == kept[-1]
            assert store.prune("k", before=before) == 0
            assert store.digest("k") == kept[-1]
        store.apply("k", {"a": (operator.add, 1)}, 50)
        store.apply("k", {"a": (operator.add, 1)}, 45)
        assert store.verify("k", kept[-1]) == store.digest("k") != kept[-1]

    @sealed
    def test_a_long_sequence(self, store: Store) -> None:
        chosen, kept = random.Random(3), ""
        taken: set[int] = set()
        for i in range(1500):
            t = i * 10 if chosen.random() < 0.9 else chosen.randrange(i * 10 + 1)
            if t not in taken:
                taken.add(t)
                store.apply("k", {f"{t % 7}": t}, t)
            if i == 700:
                kept = store.digest("k") or ""
        assert store.verify("k", kept) == store.digest("k")
        store.prune("k", before=7000)
        assert store.verify("k") == store.digest("k")
        if self.snapshots:
            with store.snapshot() as view:
                store.apply("k", {"later": 1})
                assert view.verify("k") == view.digest("k") != store.digest("k")

    @pickled
    def test_what_is_no_digest(self, store: Store) -> None:
        store.apply("k", {"a": 1})
        good = store.digest("k") or ""
        wrong: list[Any] = [
            "",
            "1",
            good[:-1],
            f"{good}A",
            f"-{good}",
            f"{good}\n",
            5,
            good.encode(),
            good[2:],
        ]
        for digest in wrong:
            with pytest.raises(InvalidArgumentError):
                store.verify("k", digest)


_DELETE = (operator.delitem, None)
