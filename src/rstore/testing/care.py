"""Taking care of a store: namespaces, stats, durability, checks, backups and vacuum."""

from __future__ import annotations

import operator
import os
import stat
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest

from rstore import (
    Durability,
    FrozenStoreError,
    InvalidTypeError,
    InvalidValueError,
    NotSupportedError,
    Passphrase,
    SerializationError,
    Stats,
    Store,
    StoreError,
    StoreNotAvailableError,
    WrongKeyError,
)
from rstore.testing.flavours import KEY, OTHER_KEY, pickled, plain, sealed
from rstore.testing.integrity import check_oracle
from rstore.testing.oracle import EventOracle, Oracle, SeriesOracle
from rstore.testing.suite import Opener, Suite

_NAMES = ("a", "a.b", "A", "\u00e4", "\U0001f600", "{a}", "a*", " ")
_EMPTY = Stats(0, 0, 0, 0, 0, 0, 0, 0)
_SEALED_BYTES = 200
"""The largest overhead of a value: codec byte, stamp, envelope and the frame of a pickle."""


class _Bomb:
    armed: ClassVar[bool] = False

    def __reduce__(self) -> tuple[Any, ...]:
        return _explode, ()


def _explode() -> _Bomb:
    assert not _Bomb.armed, "a value was unpickled"
    return _Bomb()


class CareSuite(Suite):
    """A store as a whole: its names, numbers, durability, checks and backups."""

    @plain
    def test_namespaces_are_named_while_they_exist(self, opener: Opener) -> None:
        for name in _NAMES:
            with opener(name):
                pass
        expected = sorted(_NAMES, key=str.encode)
        with opener("a") as store:
            assert store.namespaces() == expected
        with opener("{a}") as store:
            store.discard()
            expected.remove("{a}")
            assert store.namespaces() == expected
            store["k"] = 1  # it is there again
            assert store.namespaces() == sorted([*expected, "{a}"], key=str.encode)
        with opener("A", frozen=True) as frozen:
            assert frozen.namespaces() == sorted([*expected, "{a}"], key=str.encode)

    @pickled
    def test_stats_count_what_is_there(self, opener: Opener) -> None:
        with opener("other") as other:
            other["k"] = 1
        with opener() as store:
            assert store.stats() == _EMPTY
            _load(store)
            stats = store.stats()
        assert (stats.keys, stats.series, stats.points, stats.sequences, stats.changes) == (102, 2, 3003, 1, 5)
        assert 100 * 50 + 10_000 < stats.values_bytes < 102 * (50 + _SEALED_BYTES) + 10_000
        assert 3000 * 20 < stats.series_bytes < 3000 * (20 + 10) + 3 * _SEALED_BYTES + 1000
        assert 5 * 100 < stats.events_bytes < 5 * (100 + _SEALED_BYTES)
        with opener(frozen=True) as frozen:
            assert frozen.stats() == stats
        with opener() as store:
            store.clear()
            store.remove("few", "many")
            store.prune("log", remove=True)
            assert store.stats() == replace(_EMPTY, sequences=1, changes=1, events_bytes=store.stats().events_bytes)

    @plain
    def test_a_point_that_is_folded_in_counts_once(self, store: Store) -> None:
        store.extend_many("s", ((t, t) for t in range(2000)))
        store.extend("s", (5, 6), (3000, 1))
        store.compact("s")
        assert store.stats().points == len(store.range("s")) == 2001

    @plain
    def test_durability_says_what_it_was_read_from(self, opener: Opener) -> None:
        with opener(durability="full") as store:
            told = store.durability()
            assert isinstance(told, Durability)
            assert told.meaning
            assert all(type(name) is type(value) is str for name, value in told.settings.items())
            assert told.settings or not self.persistent
            if not self.persistent:
                assert told[:2] == (False, False)
        with opener(frozen=True) as frozen:
            assert frozen.durability().settings.keys() == told.settings.keys()

    @pickled
    def test_check_loads_no_pickle(self, opener: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
        with opener() as store:
            store["k"] = _Bomb()
            store.extend("few", (1, _Bomb()))
            store.extend_many("many", ((t, _Bomb()) for t in range(2000)))
            for t in range(200):
                store.apply("log", {"a": _Bomb(), "b": [t] if t == 0 else (operator.concat, [t])}, t)
            monkeypatch.setattr(_Bomb, "armed", True)
            assert store.check() == []
            with pytest.raises(SerializationError):
                store.get("k")

    @sealed
    def test_check_under_another_key_finds_every_part(self, opener: Opener) -> None:
        with opener() as store:
            store["k"] = 1
            store.extend("few", (1, 1))
            store.extend_many("many", ((t, t) for t in range(2000)))
            store.apply("log", {"a": 1})
            assert store.check() == []
        with opener(key=[OTHER_KEY, KEY]):
            pass
        with opener(frozen=True, key=OTHER_KEY) as frozen:
            found = [*dict.fromkeys((finding.model, finding.key) for finding in frozen.check())]
        assert found == [("values", "k"), ("series", "few"), ("series", "many"), ("events", "log")]
        with opener(frozen=True, key=None) as frozen:
            assert {finding.key for finding in frozen.check()} == {"k", "few", "many", "log"}

    @pickled
    def test_a_backup_is_a_store(self, opener: Opener, oracle: Oracle, tmp_path: Path) -> None:
        path = tmp_path / "copy.db"
        with opener() as store:
            _fill(store, oracle)
            if not self.backups:
                with pytest.raises(NotSupportedError):
                    store.backup(path)
                assert list(tmp_path.glob("copy*")) == []
                return
            with opener(frozen=True) as frozen:
                stats = frozen.stats()
                frozen.backup(path)
            expires = store.entry("later")
            store["k1"] = "changed"
            store.extend("many", (9, 9))
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert [one.name for one in tmp_path.glob("copy*")] == ["copy.db"]
        with opener.flavour.make(f"sqlite://{path}", frozen=True) as copy:
            entry = copy.entry("later")
            assert entry is not None
            assert expires is not None
            assert entry.version == expires.version
            assert abs((entry.expires or 0) - (expires.expires or 0)) < 60_000
            assert copy.check() == []
            assert copy.stats() == stats  # the checkpoints are copied, too
            check_oracle(copy, oracle)
        with opener.flavour.make(f"sqlite://{path}") as copy:
            copy["new"] = 1
            copy.extend("many", (-1, -1))
            copy.apply("log", {"a": (operator.add, 1)})
            assert copy.check() == []

    @plain
    def test_a_backup_never_replaces_a_file(self, opener: Opener, tmp_path: Path) -> None:
        if not self.backups:
            pytest.skip("there are no backups")
        path = tmp_path / "copy.db"
        path.write_text("mine")
        (tmp_path / "link.db").symlink_to(tmp_path / "nowhere")
        with opener() as store:
            for there in (path, tmp_path / "link.db", tmp_path):
                with pytest.raises(InvalidValueError, match="there already"):
                    store.backup(there)
            with pytest.raises(InvalidValueError, match="names a directory"):
                store.backup(tmp_path.root)
            with pytest.raises(StoreNotAvailableError):
                store.backup(tmp_path / "no directory" / "copy.db")
            for wrong in (None, 5, b"copy.db"):
                with pytest.raises(InvalidTypeError):
                    store.backup(wrong)  # type: ignore[arg-type]
            for name in ("", "a\0b"):
                with pytest.raises(InvalidValueError):
                    store.backup(name)
        assert path.read_text() == "mine"
        assert list(tmp_path.glob("*.tmp")) == []

    @sealed
    def test_a_backup_stays_sealed(self, opener: Opener, tmp_path: Path) -> None:
        if not self.backups:
            pytest.skip("there are no backups")
        phrase = Passphrase("correct horse")
        with opener("phrase", key=phrase) as store:
            store["k"] = "v"
            store.backup(tmp_path / "phrase.db")
        with Store(tmp_path / "phrase.db", "phrase", key=Passphrase("correct horse")) as copy:
            assert copy["k"] == "v"
        with opener() as store:
            store["k"] = "v"
            store.extend("s", (1, 1))
            store.backup(tmp_path / "copy.db")
        with pytest.raises(WrongKeyError):
            Store(tmp_path / "copy.db", key=OTHER_KEY).open()
        with Store(tmp_path / "copy.db", key=KEY, frozen=False) as copy:
            assert (copy["k"], copy.range("s")) == ("v", [(1, 1)])
            copy["k"] = "w"
            copy.backup(tmp_path / "again.db")
        with Store(tmp_path / "again.db", key=[OTHER_KEY, KEY]) as again:
            assert (again["k"], again.range("s")) == ("w", [(1, 1)])

    @pickled
    def test_vacuum_loses_nothing_but_what_has_expired(self, opener: Opener, oracle: Oracle) -> None:
        with opener() as store:
            _fill(store, oracle)
            store.update({f"old{i}": "x" * 2000 for i in range(20)})
            for i in range(20):
                store.touch(f"old{i}", 0.001)
            time.sleep(0.005)
            done = store.vacuum()
            assert done.expired == 20
            assert done.bytes is None or done.bytes >= 0
            assert store.vacuum().expired == 0
        with opener(frozen=True) as frozen:
            check_oracle(frozen, oracle)
            with pytest.raises(FrozenStoreError):
                frozen.vacuum()

    @plain
    def test_care_of_a_store_that_is_gone(self, opener: Opener) -> None:
        with opener() as store:
            store["k"] = 1
            store.discard()
            assert store.stats() == _EMPTY
            assert "default" not in store.namespaces()
            assert store.vacuum().expired == 0
            try:
                findings = store.check()
            except StoreError as error:
                pytest.fail(f"check raised {error!r}")
            assert findings == []


def _load(store: Store) -> None:
    store.set_many({f"k{i}": os.urandom(50) for i in range(100)}, ttl=1000, atomic=False)
    store["k100"] = os.urandom(10_000)
    store["k101"] = 1
    store.set("gone", 1, ttl=0.001)
    store.extend("few", (1, 1), (2, 2), (3, 3), (3, 4))
    store.extend_many("many", ((t, os.urandom(20)) for t in range(3000)))
    for t in range(5):
        store.apply("log", {"a": os.urandom(100)}, t)
    time.sleep(0.005)
    assert "gone" not in store


def _fill(store: Store, oracle: Oracle) -> None:
    oracle.values.update({f"k{i}": [i, "x" * i * 50] for i in range(50)} | {"later": "on"})
    store.update(oracle.values)
    store.touch("later", 1000)
    points = [(t, t * 0.5) for t in range(3000)]
    store.extend_many("many", points)
    store.extend("many", (4, 4.5), (-5, 1.0))
    oracle.series["many"] = SeriesOracle([*points, (4, 4.5), (-5, 1.0)])
    log = oracle.events["log"] = EventOracle()
    for t in range(250):
        change = {"a": 0} if t == 0 else {"a": (operator.add, t)}
        store.apply("log", change, t)
        log.apply(change, t)
