"""Doors that stay shut: what cannot be reached, opened or written says so, and what to do, and tells no password."""

from __future__ import annotations

import socket
import subprocess
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from threading import Barrier, Thread
from time import monotonic, sleep
from urllib.parse import quote

import psycopg
import pytest
from backends import make_backend
from postgresql import PASSWORD, Server
from waiting import until

from rstore import (
    FrozenStoreError,
    InvalidArgumentError,
    NotSupportedError,
    Store,
    StoreBusyError,
    StoreError,
    StoreNotAvailableError,
)
from rstore.backends.postgres.transport import pool
from rstore.backends.types import Commit, Log, Model, Options, Row, Write


@pytest.fixture
def user(postgresql: Server) -> Iterator[str]:
    with postgresql.role("somebody"):
        yield "somebody"


def refusal(dsn: str, *, frozen: bool = False, timeout: float = 30) -> StoreError:
    with pytest.raises(StoreError) as refused, Store(dsn, frozen=frozen, timeout=timeout):
        pass
    assert PASSWORD not in "".join(traceback.format_exception(refused.value))
    shown = traceback.TracebackException.from_exception(refused.value, capture_locals=True)
    if not isinstance(refused.value, InvalidArgumentError):  # where the DSN itself is refused
        assert not [frame.name for frame in shown.stack[1:] if PASSWORD in str(frame.locals)]
    return refused.value


# -- reaching the server ----------------------------------------------------------------------------------------------


def test_a_wrong_password(postgresql: Server, user: str) -> None:
    error = refusal(postgresql.tcp_dsn(user, "wrong"))
    assert type(error) is StoreNotAvailableError
    assert "password" in str(error)
    assert "wrong" not in str(error)


def test_a_user_who_is_not_there(postgresql: Server) -> None:
    assert "check the user" in str(refusal(postgresql.dsn(user="nobody_at_all")))


def test_a_user_who_may_not_come_in(postgresql: Server, user: str) -> None:
    postgresql.execute(f"ALTER ROLE {user} NOLOGIN")
    error = refusal(postgresql.dsn(user=user))
    assert type(error) is StoreNotAvailableError
    assert "ALTER ROLE … LOGIN" in str(error)
    postgresql.execute(f"ALTER ROLE {user} LOGIN")
    postgresql.execute("CREATE DATABASE closed")
    postgresql.execute("REVOKE CONNECT ON DATABASE closed FROM PUBLIC")
    error = refusal(postgresql.dsn("closed", user=user))
    postgresql.execute("DROP DATABASE closed")
    assert type(error) is StoreNotAvailableError
    assert "GRANT CONNECT" in str(error)


def test_a_database_that_is_not_there(postgresql: Server) -> None:
    error = refusal(postgresql.dsn("nowhere"))
    assert type(error) is StoreNotAvailableError
    assert "CREATE DATABASE" in str(error)


def test_a_server_that_is_not_there(postgresql: Server) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        error = refusal(postgresql.tcp_dsn("somebody", PASSWORD, port=free.getsockname()[1]))
    assert type(error) is StoreNotAvailableError
    assert "is the server running" in str(error)


@pytest.fixture
def silent() -> Iterator[int]:
    """A port that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def test_options_that_libpq_knows(postgresql: Server, postgresql_schema: str, monkeypatch: pytest.MonkeyPatch) -> None:
    dsn = postgresql.dsn(schema=postgresql_schema)
    with Store(f"{dsn}&ssl_min_protocol_version=TLSv1.2&application_name=somebody", frozen=False) as store:
        assert store.keys() == []
    monkeypatch.setenv("PGCONNECT_TIMEOUT", "soon")
    error = refusal(dsn)
    assert type(error) is StoreNotAvailableError
    assert "connect_timeout is not a whole number of seconds" in str(error)


@pytest.mark.parametrize("hosts", [1, 3])
@pytest.mark.parametrize("options", ["", "connect_timeout=6"])
def test_a_server_that_says_nothing(silent: int, hosts: int, options: str) -> None:
    """Opening takes no longer than the time-out, over however many hosts and addresses."""
    names = ",".join(["127.0.0.1"] * hosts)
    began = monotonic()
    error = refusal(f"postgresql://{names}/db?port={silent}&{options}", timeout=1.2)
    assert type(error) is StoreNotAvailableError
    assert "no answer in time" in str(error)
    assert 1.1 < monotonic() - began < 2


def test_a_silent_host_among_others(
    postgresql: Server, postgresql_schema: str, silent: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It takes its share of the time, or what the DSN allows it, and the next one is asked."""
    both = f"127.0.0.1:{silent},127.0.0.1:{postgresql.port}"
    with postgresql.role("somebody", "SUPERUSER"):
        dsn = f"postgresql://somebody:{PASSWORD}@{both}/postgres?schema={quote(postgresql_schema)}"
        for options, timeout, least_s, most_s in (("", 2, 0.9, 1.6), ("&connect_timeout=1", 20, 0.9, 1.6)):
            began = monotonic()
            with Store(dsn + options, frozen=False, timeout=timeout) as store:
                store.set("k", 1)
            assert least_s < monotonic() - began < most_s
        (tmp_path / "services").write_text(
            f"[ours]\nhost=127.0.0.1,127.0.0.1\nport={silent},{postgresql.port}\nuser=somebody\ndbname=postgres\n"
        )
        monkeypatch.setenv("PGSERVICEFILE", str(tmp_path / "services"))
        monkeypatch.setenv("PGPASSWORD", PASSWORD)
        with Store(f"postgresql:///?service=ours&schema={quote(postgresql_schema)}", timeout=1) as store:
            assert store["k"] == 1
        postgresql.execute(
            f'ALTER SCHEMA "{postgresql_schema}" OWNER TO postgres; REASSIGN OWNED BY somebody TO postgres'
        )
        for session in ("read-write", "prefer-standby"):
            hosts = f"127.0.0.1:1,127.0.0.1:{postgresql.port}"
            dsn = f"postgresql://somebody:{PASSWORD}@{hosts}/postgres?schema={quote(postgresql_schema)}"
            with Store(f"{dsn}&target_session_attrs={session}&load_balance_hosts=random") as store:
                assert store["k"] == 1


def test_a_peer_that_is_gone_is_noticed_as_soon_as_the_user_says(
    postgresql: Server, postgresql_dsn: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def idle(dsn: str) -> bytes | None:
        with Store(dsn, frozen=False) as store:
            (connection,) = store._writer.backend._session.pool.connections  # type: ignore[attr-defined]  # noqa: SLF001
            values: dict[bytes, bytes | None] = {option.keyword: option.val for option in connection._pgconn.info}  # noqa: SLF001
            return values[b"keepalives_idle"]

    assert idle(postgresql_dsn) == b"30"
    assert idle(f"{postgresql_dsn}&keepalives_idle=7") == b"7"
    (tmp_path / "services").write_text(
        f"[short]\nkeepalives_idle=5\n[plain]\nuser=postgres\n[off]\nkeepalives=0\nhost={postgresql.directory}\n"
    )
    monkeypatch.setenv("PGSERVICEFILE", str(tmp_path / "services"))
    assert [idle(f"{postgresql_dsn}&service={name}") for name in ("short", "plain", "off")] == [b"5", b"30", None]


@pytest.mark.parametrize(
    "rest",
    [
        "h:port/db", "u:hunter2@h:hunter2/db", "/db?nonsense=1", "/db?schema=", "/db?schema=pg_catalog",
        "/db?schema=information_schema", "/db?prepare=maybe", "/db?schema=" + "x" * 64, "/db?pool=0", "/db?pool=many",
        "/db?connect_timeout=soon", "%zz/db",
    ],
)  # fmt: skip
def test_a_dsn_that_means_nothing(rest: str) -> None:
    for frozen in (True, False):
        assert isinstance(refusal(f"postgresql://{rest}", frozen=frozen), InvalidArgumentError)


def test_a_repr_shows_no_password() -> None:
    for dsn in (
        "postgresql://user:hunter2@host/db",
        "postgres://user:hun/ter2@hunter2@host/db",
        "postgresql://host/db?user=me&password=hunter2&sslpassword=hunter2",
        "postgresql:///db?password=hunter2",
    ):
        shown = repr(Store(dsn))
        assert "hunter2" not in shown
        assert "db" in shown


@pytest.mark.parametrize(
    "password",
    [
        "s/cret", "s?cret", "s@cret", "s:cret", "s#cret", "12/cret", "12?cret", "12?a=cret", "1/2@cret", "[cret",
        "s%cret", "12?schema=cret", "12?pool=cret", "12?prepare=cret", "1/x?dbname=cret", "1/x?host=cret",
    ],
)  # fmt: skip
def test_a_password_that_should_have_been_quoted_is_shown_nowhere(password: str) -> None:
    """Whatever such a dsn means to libpq: neither what is refused nor what cannot be reached tells any of it."""
    for dsn in (
        f"postgresql://user:{password}@127.0.0.1:1/db",
        f"postgresql://127.0.0.1:1/db?user=a&password={password}",
    ):
        store = Store(dsn, timeout=1)
        assert "cret" not in repr(store)
        with pytest.raises(StoreError) as refused:
            store.open()
        assert "cret" not in "".join(traceback.format_exception(refused.value))


def test_a_quoted_password_is_the_password(postgresql: Server, postgresql_schema: str) -> None:
    password = "a/b?c@d:e#f%g&h="  # noqa: S105 - of a user that goes with the test
    with postgresql.role("odd", "SUPERUSER"):
        postgresql.execute(f"ALTER ROLE odd PASSWORD '{password}'")
        with Store(
            postgresql.tcp_dsn("odd", quote(password, safe=""), schema=postgresql_schema), frozen=False
        ) as store:
            store.set("k", 1)
            assert password not in repr(store)
        postgresql.execute(f'ALTER SCHEMA "{postgresql_schema}" OWNER TO postgres; REASSIGN OWNED BY odd TO postgres')


def test_an_encoding_that_cannot_hold_every_key(postgresql: Server) -> None:
    postgresql.execute("CREATE DATABASE latin ENCODING 'LATIN1' TEMPLATE template0 LOCALE 'C'")
    error = refusal(postgresql.dsn("latin"))
    postgresql.execute("DROP DATABASE latin")
    assert type(error) is StoreNotAvailableError
    assert "UTF8" in str(error)


def test_no_driver(postgresql: Server) -> None:
    program = f"""
import sys
sys.modules["psycopg"] = None
from rstore import Store
Store({postgresql.dsn()!r}).open()"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert "StoreNotAvailableError" in done.stderr
    assert "pip install 'rlib-store[postgresql]'" in done.stderr


# -- too many connections ---------------------------------------------------------------------------------------------


def test_a_server_without_a_free_connection() -> None:
    with Server(max_connections=4, superuser_reserved_connections=0, max_wal_senders=0) as server:
        dsn = server.dsn()
        with Store(dsn, frozen=False) as store:
            store.set("k", 1)
        held = [psycopg.connect(server.conninfo()) for _ in range(4)]
        error = refusal(dsn, timeout=0.5)
        assert type(error) is StoreBusyError
        assert "max_connections" in str(error)

        def let_go() -> None:
            sleep(0.5)
            held.pop().close()

        later = Thread(target=let_go)
        later.start()
        with Store(dsn) as store:  # waits for one
            assert store["k"] == 1
        later.join()
        for connection in held:
            connection.close()


def test_a_pool_without_a_free_connection(postgresql: Server, postgresql_schema: str) -> None:
    dsn = postgresql.dsn(schema=postgresql_schema, pool=1)
    with Store(dsn, frozen=False):
        pass  # the tables are made in more time than the backend below has
    options = Options(frozen=False, durability="full", timeout_s=0.3)
    backend = make_backend(dsn, "default", options)
    backend.open()
    backend.create()
    refused: list[BaseException] = []

    def read() -> None:
        try:
            backend.get("k")
        except StoreBusyError as error:
            refused.append(error)

    with backend.exclusive(Log(Model.SERIES, "s")):
        reader = Thread(target=read)
        reader.start()
        reader.join()
    backend.close()
    assert "?pool=" in str(refused[0])


def test_connections_that_nobody_uses_are_closed_by_a_call(
    postgresql: Server, postgresql_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    together = Barrier(4)

    def use(store: Store) -> None:
        with store.transaction() as tx:
            tx.get("k")
            together.wait()

    monkeypatch.setattr(pool, "_IDLE_S", 0.2)
    until(lambda: not postgresql.sessions(), "a session of an earlier test is left")
    with Store(postgresql_dsn, frozen=False) as store:
        threads = [Thread(target=use, args=(store,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(postgresql.sessions()) == 4
        sleep(0.3)
        store.get("k")
        until(lambda: len(postgresql.sessions()) == 1, "they are left open")


# -- servers that only read -------------------------------------------------------------------------------------------


def test_a_server_that_only_reads(postgresql: Server, postgresql_schema: str) -> None:
    dsn = postgresql.dsn(schema=postgresql_schema)
    with Store(dsn, frozen=False) as store:
        store.set("k", 1)
        store.extend("s", (1, 1))
        postgresql.execute("ALTER ROLE postgres SET default_transaction_read_only = on")
        try:
            postgresql.terminate()
            for write in (
                lambda: store.set("k", 2),
                lambda: store.run(lambda tx: tx.set("k", 2)),
                lambda: store.remove("s"),
                lambda: store.remove("s", "t"),
            ):
                with pytest.raises(StoreNotAvailableError, match="only reads"):
                    write()
            assert (store["k"], store.range("s")) == (1, [(1, 1)])
            assert "only reads" in str(refusal(dsn))
            with Store(dsn) as frozen:
                assert frozen["k"] == 1
        finally:
            with psycopg.connect(postgresql.conninfo(), autocommit=True) as connection:
                connection.execute("SET default_transaction_read_only = off")
                connection.execute("ALTER ROLE postgres RESET default_transaction_read_only")
        store.set("k", 3)  # the session that could not is not used again
        assert store["k"] == 3


def test_a_standby() -> None:
    with Server(wal_level="replica") as primary, Server(hot_standby="on") as standby:
        dsn = primary.dsn()
        with Store(dsn, frozen=False):
            pass
        standby.stop()
        standby.remove_data()
        standby.run(
            "pg_basebackup", "-D", str(standby.data), "-h", str(primary.directory), "-p", str(primary.port),
            "-U", "postgres", "--write-recovery-conf", "--checkpoint=fast",
        )  # fmt: skip
        with Store(dsn, frozen=False) as store:
            store.set("k", 1)
            store.extend("s", (1, 1))
            standby.start()
            with Store(standby.dsn()) as copy:
                until(lambda: copy.range("s") == [(1, 1)], "the standby does not follow")
                assert copy["k"] == 1
                with pytest.raises(FrozenStoreError):
                    copy.set("k", 2)
            assert "standby" in str(refusal(standby.dsn()))
            # Given both, libpq finds the one that can be written.
            hosts = f"host={standby.directory},{primary.directory}&port={standby.port},{primary.port}"
            with Store(
                f"postgresql://postgres@/postgres?{hosts}&target_session_attrs=read-write", frozen=False
            ) as any_one:
                any_one.set("k", 2)
            assert store["k"] == 2


# -- rights -----------------------------------------------------------------------------------------------------------


def test_no_right_to_create_the_schema(postgresql: Server, postgresql_schema: str, user: str) -> None:
    error = refusal(postgresql.dsn(user=user, schema=postgresql_schema))
    assert type(error) is StoreNotAvailableError
    assert "CREATE on the database" in str(error)
    assert not postgresql.has_tables(postgresql_schema)


def test_the_right_to_an_empty_schema_is_enough(postgresql: Server, postgresql_schema: str, user: str) -> None:
    postgresql.execute(f'CREATE SCHEMA "{postgresql_schema}" AUTHORIZATION {user}')
    with Store(postgresql.tcp_dsn(user, PASSWORD, schema=postgresql_schema), frozen=False) as store:
        store.update(a=1, b=2)
        store.extend_many("s", ((t, t) for t in range(5000)))
        store.apply("e", {"x": 1})
        assert (len(store), len(store.range("s")), store.current("e")) == (2, 5000, {"x": 1})
        store.discard()


def test_a_reader_needs_the_right_to_read_only(postgresql: Server, postgresql_schema: str, user: str) -> None:
    reader = postgresql.dsn(user=user, schema=postgresql_schema)
    with Store(postgresql.dsn(schema=postgresql_schema), frozen=False) as store:
        store.set("k", 1)
        store.extend_many("s", ((t, t) for t in range(5000)))
        store.apply("e", {"x": 1})
    assert "lacks a right" in str(refusal(reader, frozen=True))
    schema = f'"{postgresql_schema}"'
    postgresql.execute(f"GRANT USAGE ON SCHEMA {schema} TO {user}")
    postgresql.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA {schema} TO {user}")
    with Store(reader) as store:
        assert (store["k"], store.last("s"), store.current("e")) == (1, (4999, 4999), {"x": 1})
        assert (store.keys(), len(store), len(store.range("s"))) == (["k"], 1, 5000)
    with Store(reader, frozen=False) as store, pytest.raises(StoreNotAvailableError, match="lacks a right"):
        store.set("k", 2)
    postgresql.execute(f"GRANT INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {schema} TO {user}")
    with Store(reader, frozen=False) as store:
        store.set("k", 2)
        store.remove("s")
        store.apply("e", {"x": 2})
        store.discard()


# -- schemas ----------------------------------------------------------------------------------------------------------


def test_frozen_creates_nothing(postgresql: Server, postgresql_schema: str) -> None:
    dsn = postgresql.dsn(schema=postgresql_schema)
    assert "frozen=False" in str(refusal(dsn, frozen=True))
    assert not postgresql.has_tables(postgresql_schema)
    with Store(dsn, "one", frozen=False):
        pass
    assert "no namespace 'default'" in str(refusal(dsn, frozen=True))


@pytest.mark.parametrize("table", ["format", "records"])
def test_tables_of_another_application(postgresql: Server, postgresql_schema: str, table: str) -> None:
    postgresql.execute(f'CREATE SCHEMA "{postgresql_schema}"')
    postgresql.execute(f'CREATE TABLE "{postgresql_schema}".{table} (name text)')
    for frozen in (False,) if table == "records" else (False, True):
        error = refusal(postgresql.dsn(schema=postgresql_schema, password=PASSWORD), frozen=frozen)
        assert type(error) is StoreNotAvailableError
        assert "another application" in str(error)
    postgresql.execute(f'DROP TABLE "{postgresql_schema}".{table}')


def test_a_newer_format(postgresql: Server, postgresql_schema: str) -> None:
    dsn = postgresql.dsn(schema=postgresql_schema)
    with Store(dsn, frozen=False):
        pass
    postgresql.execute(f'UPDATE "{postgresql_schema}".format SET version = 99')
    for frozen in (True, False):
        assert "newer version of rstore" in str(refusal(dsn, frozen=frozen))


def test_a_schema_that_is_dropped_under_an_open_store(postgresql: Server, postgresql_schema: str) -> None:
    with Store(postgresql.dsn(schema=postgresql_schema), frozen=False) as store:
        postgresql.execute(f'DROP SCHEMA "{postgresql_schema}" CASCADE')
        with pytest.raises(StoreNotAvailableError):
            store.get("k")
        with pytest.raises(StoreNotAvailableError):
            store.set("k", 1)


# -- values -----------------------------------------------------------------------------------------------------------


def test_what_is_too_large_is_refused_before_it_is_sent(postgresql_dsn: str) -> None:
    large = bytes(1_000_000_001)  # the system hands out no memory for zeros that nobody looks at
    backend = make_backend(postgresql_dsn, "default", Options(frozen=False, durability="normal", timeout_s=5))
    backend.open()
    incarnation = backend.create()
    for writes in ([Write("k", large)], [Write("a", b"1"), Write("k", large)]):
        with pytest.raises(NotSupportedError, match="'k' in namespace 'default' takes 1,000,000,001 bytes"):
            backend.write(writes, incarnation)
    with pytest.raises(NotSupportedError, match="'k' in namespace 'default'"):
        backend.write_if(Write("k", large), None, incarnation)
    with Store(postgresql_dsn, frozen=False) as store:
        store.extend("s", (1, 1))
        head = backend.view(Log(Model.SERIES, "s")).head
        assert head is not None
        log = Log(Model.SERIES, "s")
        for rows in ([Row(2, 0, large)], [Row(2, 0, b"1"), Row(3, 0, large)]):
            with pytest.raises(NotSupportedError, match="'s' in namespace 'default' takes 1,000,000,001 bytes"):
                backend.append(log, head, rows, incarnation)
            with pytest.raises(NotSupportedError, match="'s' in namespace 'default'"):
                backend.commit(log, Commit(if_epoch=head.epoch, put_rows=rows), incarnation)
        assert (store.keys(), store.range("s")) == ([], [(1, 1)])
    backend.close()


def test_a_large_value(postgresql_dsn: str) -> None:
    value = bytes(range(256)) * 200_000  # 51 MB
    with Store(postgresql_dsn, frozen=False, durability="normal") as store:
        store.set("k", value)
        store.update(a=value, b=1)
        assert store["k"] == store["a"] == value
        assert [key for key, _ in store.items()] == ["a", "b", "k"]


def test_a_nul_in_a_key(postgresql_dsn: str) -> None:
    with Store(postgresql_dsn, frozen=False) as store:
        for write in (
            lambda: store.set("a\0b", 1),
            lambda: store.extend("a\0b", (1, 1)),
            lambda: store.apply("\0", {}),
        ):
            with pytest.raises(InvalidArgumentError):
                write()
        with pytest.raises(InvalidArgumentError):
            Store(postgresql_dsn, "a\0b")
        store.set("k", "a\0b")
        assert store["k"] == "a\0b"
