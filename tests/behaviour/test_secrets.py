"""Keys and passwords stay out of whatever shows the variables of a traceback."""

from __future__ import annotations

import base64
import hashlib
import hmac
import pickle
import traceback
import uuid
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import apsw
import pytest

import rstore
from rstore import Passphrase, Store, StoreError, WrongKeyError

ROOT = Path(rstore.__file__).parent
RAW, OTHER = bytes(range(200, 232)), bytes(range(100, 132))
PHRASE = "correct horse battery"
PASSWORD = "s3cr3t/p%w"  # noqa: S105 - of nobody


def spellings(secret: bytes) -> list[str]:
    """The ways in which a secret may be shown."""
    return [
        repr(secret)[2:-1],
        repr(bytearray(secret))[12:-2],
        secret.hex(),
        base64.b64encode(secret).decode().rstrip("="),
        base64.urlsafe_b64encode(secret).decode().rstrip("="),
        quote(secret),
    ]


def secrets_of(raw: bytes) -> list[str]:
    """A key and the root of all that is derived from it, in all spellings."""
    root = hmac.new(raw, b"rstore/1/root", hashlib.sha512).digest()
    return [*spellings(raw), *spellings(root)]


def shown(error: BaseException) -> Iterator[tuple[str, str]]:
    """Everything that a tool shows of an error and of its causes: messages, attributes, variables of all frames."""
    left, seen = [error], set[int]()
    while left:
        one = left.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        yield "message", str(one)
        yield "attributes", repr(vars(one))
        yield "notes and arguments", repr(one.args)
        for frame, line in traceback.walk_tb(one.__traceback__):
            if Path(frame.f_code.co_filename) == Path(__file__):
                continue  # the user's own
            for name, value in frame.f_locals.items():
                yield f"{frame.f_code.co_filename}:{line} {frame.f_code.co_qualname} {name}", repr(value)
                for inner in getattr(type(value), "__slots__", ()) if isinstance(value, tuple) else ():
                    yield f"{name}.{inner}", repr(getattr(value, inner, None))
        left += (other for other in (one.__cause__, one.__context__) if other is not None)


def check(call: Callable[[], Any], secrets: list[str]) -> type[BaseException]:
    with pytest.raises(StoreError) as raised:
        call()
    for where, text in shown(raised.value):
        assert not [secret for secret in secrets if secret in text], f"a secret is shown at {where}"
    return type(raised.value)


def _open(dsn: str, **options: Any) -> None:
    Store(dsn, **options).open()


def used(store: Store) -> list[Callable[[], Any]]:
    """Calls that fail where the key is another one."""
    return [
        lambda: store["k"],
        lambda: store.set("k", 1),
        lambda: store.delete("k"),
        lambda: store.modify("k", str),
        lambda: dict(store),
        lambda: store.range("s"),
        lambda: store.last("many"),
        lambda: store.extend("s", (1, 1)),
        lambda: store.remove("many"),
        lambda: store.current("e"),
        lambda: store.apply("e", {"a": 1}),
        lambda: store.undo("e", 1),
        lambda: store.revert("e", 0),
        lambda: store.apply_many([("e", 10**15, {"a": 1})]),
        lambda: store.prune("e"),
    ]


@pytest.fixture(params=["memory", "sqlite", "postgres", "redis", "cluster"])
def dsn(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "memory":
        return f"memory://{uuid.uuid4()}"
    if request.param == "sqlite":
        return f"sqlite://{tmp_path}/store.db"
    fixture = {"postgres": "postgresql_dsn", "redis": "redis_dsn", "cluster": "redis_cluster_dsn"}[request.param]
    found: str = request.getfixturevalue(fixture)
    return f"{found}?buckets=16" if request.param == "cluster" else found


def fill(dsn: str, key: Any) -> None:
    with Store(dsn, key=key, frozen=False) as store:
        store.update(k=1, large="v" * 10_000)
        store.extend("s", (1, 1))
        store.extend_many("many", ((t, t) for t in range(2000)))
        store.apply("e", {"a": 1}, 1)
        store.apply("e", {"a": 2}, 2)


def test_of_errors_of_keys(dsn: str) -> None:
    fill(dsn, RAW)
    secrets = [*secrets_of(RAW), *secrets_of(OTHER), PHRASE]
    keys: list[Any] = [OTHER, [OTHER], [OTHER, Passphrase(PHRASE)], Passphrase(PHRASE)]
    for key in keys:
        for frozen in (True, False):
            assert check(partial(_open, dsn, key=key, frozen=frozen), secrets) is WrongKeyError
    with Store(dsn, key=[OTHER, RAW], frozen=False):
        pass
    with Store(dsn, key=OTHER, frozen=False) as store:
        for call in used(store):
            assert check(call, secrets) is WrongKeyError
        with store.transaction() if "cluster" not in dsn else store as inside:
            assert check(lambda: inside.set("k", 1), secrets) is WrongKeyError
    with Store(dsn, frozen=False, allow_plaintext=True) as store:
        for call in used(store):
            check(call, secrets)
        store.discard()


@pytest.mark.slow
@pytest.mark.parametrize("spoil", ["altered", "cut", "plain", "suite", "fact"])
def test_of_errors_of_what_was_tampered_with(tmp_path: Path, spoil: str) -> None:
    path = tmp_path / "store.db"
    keys: list[Any] = [RAW, Passphrase(PHRASE)]
    fill(str(path), [Passphrase(PHRASE)])
    with Store(path, key=keys, frozen=False) as store:
        store["k"] = 1
    file = apsw.Connection(str(path))
    record: bytes = file.execute("SELECT record FROM records WHERE key = 'k'").get
    spoilt = {
        "altered": record[:-1] + bytes((record[-1] ^ 1,)),
        "cut": record[:70],
        "plain": b"\x10" * 20,
        "suite": b"\xc1\x02" + record[2:],
        "fact": record,
    }
    file.execute("UPDATE records SET record = ? WHERE key = 'k'", (spoilt[spoil],))
    if spoil == "fact":
        file.execute("UPDATE facts SET fact = x'0203'")
    file.close()

    def read() -> None:
        with Store(path, key=keys) as store:
            store.get("k")

    check(read, [*secrets_of(RAW), PHRASE])


@pytest.mark.parametrize(
    "key",
    ["A" * 43, "A" * 45, "A" * 43 + "!", b"B" * 33, ["A" * 43], [RAW, "A" * 43], (b"B" * 31,)],
    ids=ascii,
)
def test_of_errors_of_malformed_keys(tmp_path: Path, key: Any) -> None:
    class Keyed(Store):
        _key = key

    secrets = ["A" * 20, "B" * 20, *secrets_of(RAW), "\\x00" * 12]
    check(lambda: Store(tmp_path / "store.db", key=key), secrets)
    check(lambda: Keyed(tmp_path / "store.db"), secrets)


def test_of_errors_of_other_arguments(tmp_path: Path) -> None:
    secrets = [*secrets_of(RAW), PHRASE]
    options: Any
    for options in ({"timeout": -1}, {"durability": "x"}, {"serializer": "x"}, {"frozen": 1}, {"namespace": ""}):
        for key in (RAW, base64.urlsafe_b64encode(RAW), Passphrase(PHRASE)):
            check(partial(Store, tmp_path / "s.db", key=key, **options), secrets)
    check(lambda: Store(42, key=RAW), secrets)  # type: ignore[arg-type]
    check(lambda: Store("nope://x", key=RAW), secrets)


@pytest.mark.parametrize(
    "dsn",
    [
        "postgresql://u:{}@127.0.0.1:1/d",
        "postgresql://u@127.0.0.1:1/d?password={}",
        "postgresql://u@127.0.0.1:1/d?sslpassword={}",
        "postgresql://u:{}@127.0.0.1:1/d?nonsense=1",
        "postgresql://u:{}@[::1/d",
        "postgresql://u:{}@127.0.0.1:port/d",
        "redis://u:{}@127.0.0.1:1",
        "redis://:{}@127.0.0.1:1/0",
        "rediss://:{}@127.0.0.1:1/0",
        "redis+cluster://:{}@127.0.0.1:1",
        "redis://u:{}@127.0.0.1:99999",
        "redis://u:{}@127.0.0.1:1/0?nonsense=1",
        "redis://127.0.0.1:1/0?password={}",
        "mysql://u:{}@h/d",
    ],
)
@pytest.mark.parametrize("frozen", [True, False])
def test_of_errors_of_passwords(dsn: str, frozen: bool) -> None:
    secrets = [PASSWORD, quote(PASSWORD, safe=""), *spellings(PASSWORD.encode())]
    check(lambda: Store(dsn.format(quote(PASSWORD, safe="")), frozen=frozen, timeout=0.3).open(), secrets)


def test_of_a_password_that_a_server_refuses(redis_dsn: str, postgresql_dsn: str) -> None:
    secrets = [PASSWORD, quote(PASSWORD, safe=""), *spellings(PASSWORD.encode())]
    for dsn in (redis_dsn, postgresql_dsn):
        scheme, _, rest = dsn.partition("://")
        asked = f"{scheme}://nobody:{quote(PASSWORD, safe='')}@{rest.rpartition('@')[2]}"
        check(partial(_open, asked, frozen=False, timeout=2), secrets)


def test_of_stores_and_passphrases_themselves() -> None:
    store = Store("memory://", key=[RAW, Passphrase(PHRASE)])
    for text in (repr(store), repr(vars(store)), repr(Passphrase(PHRASE))):
        for secret in (*secrets_of(RAW), PHRASE):
            assert secret not in text
    with pytest.raises(TypeError):
        pickle.dumps(store._keys[0])  # noqa: SLF001 - the key alone
