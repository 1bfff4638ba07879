"""Attacks of a database writer on keys and salts, and the mistakes that people make with them."""

from __future__ import annotations

import base64
import operator
import resource
import struct
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import apsw
import pytest

from rstore import (
    CorruptionError,
    EncryptionError,
    InvalidTypeError,
    InvalidValueError,
    KeyRequiredError,
    Passphrase,
    Store,
    StoreError,
    TamperedError,
    UnencryptedWarning,
    WrongKeyError,
    generate_key,
)

KEY, OTHER = generate_key(), generate_key()
SALTED = struct.Struct(">BIIB16s")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


@contextmanager
def file_of(path: Path) -> Generator[apsw.Connection]:
    file = apsw.Connection(str(path))
    try:
        yield file
    finally:
        file.close()


def fill(path: Path, key: Any, what: str) -> None:
    with Store(path, key=key, frozen=False) as store:
        store["role"] = what
        store["large"] = what * 500
        store.extend("series", (1, what))
        store.extend_many("many", ((t, what) for t in range(2000)))
        store.apply("events", {"role": what}, 1)


READS: dict[str, tuple[str, Callable[[Store], Any]]] = {
    "value": ("UPDATE records SET record = (SELECT record FROM o.records WHERE key = 'role') WHERE key = 'role'",
        lambda s: s["role"]),
    "large value": ("UPDATE blobs SET record = (SELECT record FROM o.blobs)", lambda s: s["large"]),
    "point": ("UPDATE hot SET body = (SELECT body FROM o.hot o WHERE o.log = hot.log)", lambda s: s.range("series")),
    "chunk": ("UPDATE chunks SET body = (SELECT body FROM o.chunks)", lambda s: s.range("many")),
    "meta": ("UPDATE chunks SET meta = (SELECT meta FROM o.chunks)", lambda s: s.last("many")),
    "change": ("UPDATE hot SET body = (SELECT body FROM o.hot o WHERE o.log = hot.log)", lambda s: s.events("events")),
    "facts": ("UPDATE logs SET facts = (SELECT facts FROM o.logs o WHERE o.id = logs.id)",
        lambda s: s.past("events", 1)),
}  # fmt: skip


@pytest.mark.parametrize("name", READS)
def test_what_was_moved_here_from_another_store_of_the_same_key_is_refused(tmp_path: Path, name: str) -> None:
    ours, theirs = tmp_path / "ours.db", tmp_path / "theirs.db"
    fill(ours, KEY, "user")
    fill(theirs, KEY, "admin")
    move, read = READS[name]
    with file_of(ours) as file:
        file.execute("ATTACH ? AS o", (str(theirs),))
        file.execute(move)
    with Store(ours, key=KEY) as store:
        with pytest.raises(TamperedError):
            read(store)
        assert store.check() != []


@pytest.mark.parametrize("name", ["value", "point", "change"])
def test_what_was_put_back_from_before_a_discard_is_refused(path: Path, tmp_path: Path, name: str) -> None:
    fill(path, KEY, "admin")
    with file_of(path) as file:
        file.execute("VACUUM INTO ?", (str(tmp_path / "before.db"),))
    with Store(path, "other", frozen=False), Store(path, key=KEY, frozen=False) as store:
        store.discard()
    fill(path, KEY, "user")
    move, read = READS[name]
    with file_of(path) as file:
        file.execute("ATTACH ? AS o", (str(tmp_path / "before.db"),))
        file.execute(move.replace("o.log = hot.log", "o.t = hot.t AND o.log = (hot.log - 1) % 3 + 1"))
    with Store(path, key=KEY) as store, pytest.raises(TamperedError):
        read(store)


@pytest.mark.slow
def test_a_copy_of_a_copy_opens_and_what_is_new_in_it_is_its_own(path: Path, tmp_path: Path) -> None:
    for key in (KEY, Passphrase("correct horse")):
        one, two = tmp_path / f"{id(key)}.1.db", tmp_path / f"{id(key)}.2.db"
        with Store(path, "copied", key=key, frozen=False) as store:
            store["role"] = "user"
            store.backup(one)
        with Store(one, "copied", key=key, frozen=False) as copy:
            assert copy["role"] == "user"
            copy["role"] = "changed"
            copy.backup(two)
        with Store(two, "copied", key=key) as copy:
            assert copy["role"] == "changed"
        with Store(path, "copied", frozen=False, allow_plaintext=True) as store:
            store.discard()


@pytest.mark.parametrize("pruned", [True, False])
def test_emptied_facts_are_noticed(path: Path, pruned: bool) -> None:
    with Store(path, key=KEY, frozen=False) as store:
        for t in (1, 2, 3):
            store.apply("log", {"admin": t}, t)
        if pruned:
            assert store.prune("log") == 2
    with file_of(path) as file:
        assert file.execute("SELECT length(facts) FROM logs").get > 0
        file.execute("UPDATE logs SET facts = x''")
    with Store(path, key=KEY, frozen=False) as store:
        for read in (
            lambda: store.past("log", 1),
            lambda: store.current("log"),
            lambda: store.apply("log", {"admin": (operator.add, 1)}),
            lambda: store.apply("log", {"b": 1}, 0),
            lambda: store.prune("log"),
        ):
            with pytest.raises(TamperedError):
                read()
        assert {finding.key for finding in store.check()} == {"log"}
    with Store(path) as store, pytest.raises(KeyRequiredError):
        store.current("log")


# -- passphrases ------------------------------------------------------------------------------------------------------


def _fact(path: Path) -> bytes:
    with file_of(path) as file:
        fact: bytes = file.execute("SELECT fact FROM facts WHERE name = 'key 0'").get
        return fact


@pytest.mark.slow
@pytest.mark.parametrize(
    ("cost", "refusal"),
    [
        ((3, 65536, 4), WrongKeyError),  # its own cost, and a salt of an attacker
        ((2, 19 * 1024, 1), WrongKeyError),
        ((0, 0, 0), CorruptionError),
        ((1, 65536, 4), CorruptionError),
        ((3, 1024, 4), CorruptionError),
        ((2**32 - 1, 2**32 - 1, 255), CorruptionError),
        ((3, 1024 * 1024, 4), CorruptionError),
    ],
)
def test_a_salt_and_a_cost_that_nobody_with_the_passphrase_chose_are_refused(
    path: Path, cost: tuple[int, int, int], refusal: type[StoreError]
) -> None:
    phrase = Passphrase("correct horse")
    with Store(path, key=phrase, frozen=False) as store:
        store["old"] = 1
    original = _fact(path)
    with file_of(path) as file:
        altered = SALTED.pack(2, *cost, b"S" * 16) + original[SALTED.size :]
        file.execute("UPDATE facts SET fact = ?", (altered,))
    keys: list[Any] = [phrase, [generate_key(), phrase]]
    for key in keys:
        for frozen in (True, False):
            with pytest.raises(refusal):
                Store(path, key=key, frozen=frozen).open()
    with file_of(path) as file:
        assert file.execute("SELECT count(*) FROM records").get == 1
        file.execute("UPDATE facts SET fact = ?", (original,))
    with Store(path, key=phrase) as store:
        assert store["old"] == 1


@pytest.mark.slow
def test_the_dearest_cost_takes_bounded_memory_and_time(path: Path) -> None:
    with Store(path, key=Passphrase("correct horse"), frozen=False) as store:
        store["k"] = 1
    with file_of(path) as file:
        dearest = SALTED.pack(2, 4, 256 * 1024, 8, b"S" * 16) + bytes(32)
        file.execute("UPDATE facts SET fact = ?", (dearest,))
        file.executemany(
            "INSERT INTO facts SELECT ns, 'key ' || ?, fact FROM facts WHERE name = 'key 0'",
            [(i,) for i in range(1, 60)],
        )
    program = """
import sys
from rstore import Passphrase, Store, WrongKeyError
try:
    Store(sys.argv[1], key=Passphrase("x")).open()
except WrongKeyError:
    print("refused")
"""
    before = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", program, str(path)],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (2**30, 2**30)),
    )
    assert (done.stdout, done.stderr) == ("refused\n", "")
    assert time.monotonic() - before < 60


@pytest.mark.slow
def test_more_passphrases_than_are_looked_through_are_refused(path: Path) -> None:
    phrases, cheapest = [Passphrase("0")], SALTED.pack(2, 2, 19 * 1024, 1, b"S" * 16)
    with Store(path, key=phrases, frozen=False) as store:
        store["k"] = 0
    with file_of(path) as file:
        file.executemany(
            "INSERT INTO facts SELECT ns, 'key ' || ?, ? FROM facts WHERE name = 'key 0'",
            [(i, cheapest + bytes([i] * 32)) for i in range(1, 16)],
        )
    with pytest.raises(StoreError, match="16 passphrases"):
        Store(path, key=[Passphrase("new"), *phrases], frozen=False).open()
    with Store(path, key=phrases) as store:
        assert store["k"] == 0


# -- facts that were removed, or made up ------------------------------------------------------------------------------


def test_without_its_facts_a_namespace_is_as_one_whose_keys_nobody_knows(path: Path) -> None:
    fill(path, KEY, "user")
    with file_of(path) as file:
        file.execute("DELETE FROM facts")
    with Store(path, key=OTHER) as store, pytest.raises(WrongKeyError):
        store.get("role")
    with Store(path, key=KEY) as store:
        assert store["role"] == "user"
    with Store(path, key=KEY, frozen=False) as store:  # which lets the namespace know it again
        store["new"] = 1
    with pytest.raises(WrongKeyError):
        Store(path, key=OTHER).open()


@pytest.mark.parametrize("fact", [b"", b"\1", b"\1" + bytes(32), b"\2" + bytes(57), b"\x7f" * 40, bytes(1000)])
def test_a_fact_that_was_made_up_lets_nobody_in_and_loses_nothing(path: Path, fact: bytes) -> None:
    fill(path, KEY, "user")
    with file_of(path) as file:
        file.execute("INSERT INTO facts SELECT ns, 'key 1', ? FROM facts", (fact,))
    with Store(path, key=KEY, frozen=False) as store:
        assert store["role"] == "user"
        store["role"] = "changed"
        store.extend("series", (1, "changed"))
        assert (store["role"], store.last("series"), store.check()) == ("changed", (1, "changed"), [])
    with pytest.raises(WrongKeyError):
        Store(path, key=OTHER).open()
    with file_of(path) as file:
        file.execute("DELETE FROM facts WHERE name = 'key 0'")
    with pytest.raises(WrongKeyError):
        Store(path, key=KEY).open()


def test_a_store_without_a_key_warns_by_the_facts_alone(path: Path) -> None:
    fill(path, KEY, "user")
    with pytest.warns(UnencryptedWarning):
        Store(path, frozen=False).open()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Store(path).open()
        with pytest.raises(UnencryptedWarning):
            Store(path, frozen=False).open()


# -- slips ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spell", [str, str.encode])
@pytest.mark.parametrize("around", ["{}\n", "{}\r\n", " {} ", "\t{}"])
def test_a_key_as_a_file_or_a_variable_holds_it(path: Path, around: str, spell: Callable[[str], Any]) -> None:
    with Store(path, key=KEY, frozen=False) as store:
        store["k"] = 1
    with Store(path, key=spell(around.format(KEY))) as store:
        assert store["k"] == 1


def test_32_raw_bytes_are_never_stripped(path: Path) -> None:
    raw = b"\n" + bytes(range(30)) + b"\n"
    with Store(path, key=raw, frozen=False) as store:
        store["k"] = 1
    with Store(path, key=base64.urlsafe_b64encode(raw)) as store:
        assert store["k"] == 1


@pytest.mark.parametrize(
    ("key", "kind", "message"),
    [
        (Path("key.txt"), InvalidTypeError, "read_text"),
        ([KEY, None], InvalidTypeError, "variable"),
        ("", InvalidValueError, "variable"),
        ("\n", InvalidValueError, "variable"),
        (b"", InvalidValueError, "variable"),
        ("key.txt", InvalidValueError, "not its path"),
        ("correct horse", InvalidValueError, "Passphrase"),
        (42, InvalidTypeError, "int"),
    ],
)
def test_what_is_no_key_is_refused_with_what_to_do(path: Path, key: Any, kind: type[StoreError], message: str) -> None:
    with pytest.raises(kind, match=message):
        Store(path, key=key)


def test_an_empty_passphrase_is_most_likely_a_variable_that_is_not_set() -> None:
    with pytest.raises(InvalidValueError, match="variable"):
        Passphrase("")


def test_errors_of_encryption_have_one_base() -> None:
    for kind in (KeyRequiredError, WrongKeyError, TamperedError):
        assert issubclass(kind, EncryptionError)
