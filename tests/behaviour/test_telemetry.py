"""Events behind the calls, on real files and servers: counted once each, and told without values."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from postgres_proxy import Proxy as PostgresProxy
from redis_proxy import Proxy as RedisProxy
from redis_servers import Server as RedisServer

from rstore import Store


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    caplog.set_level(logging.DEBUG, "rstore")
    yield caplog
    assert not [record for record in caplog.records if "a secret value" in record.getMessage()]


def _lines(told: pytest.LogCaptureFixture, logger: str, level: int) -> list[str]:
    return [one.getMessage() for one in told.records if one.name == logger and one.levelno == level]


def test_a_lost_reply_of_postgresql_is_counted(
    proxied_dsn: str, proxy: PostgresProxy, told: pytest.LogCaptureFixture
) -> None:
    with Store(proxied_dsn, frozen=False) as store:
        store["k"] = "a secret value"
        assert store.stats().counters["lost_replies"] == 0
        proxy.answers_to_lose = 1
        store["k"] = "another"
        assert store.stats().counters["lost_replies"] == 1
        assert store["k"] == "another"
    assert len(_lines(told, "rstore.postgres", logging.WARNING)) == 1


def test_a_connection_that_breaks_in_the_pool_is_counted(
    proxied_dsn: str, proxy: PostgresProxy, told: pytest.LogCaptureFixture
) -> None:
    with Store(proxied_dsn, frozen=False) as store:
        store["k"] = 1
        proxy.cut()
        assert store["k"] == 1
        assert store.stats().counters["reconnections"] == 1
    assert len(_lines(told, "rstore.postgres", logging.INFO)) == 1


def test_a_lost_reply_of_redis_is_counted(redis_server: RedisServer, told: pytest.LogCaptureFixture) -> None:
    with RedisProxy(redis_server.port) as proxy, Store(f"redis://127.0.0.1:{proxy.port}", frozen=False) as store:
        store["k"] = "a secret value"
        proxy.lose(b"another", forward=True)
        store["k"] = "another"
        assert proxy.lost == 1
        assert store.stats().counters["lost_replies"] == 1
        assert store["k"] == "another"
        store.discard()
    assert len(_lines(told, "rstore.redis", logging.WARNING)) == 1


def test_a_wait_for_another_writer_of_the_file_is_counted(tmp_path: Path, told: pytest.LogCaptureFixture) -> None:
    path, writes, over = tmp_path / "store.db", threading.Event(), threading.Event()

    def write() -> None:
        with Store(path, frozen=False) as other, other.transaction() as tx:
            tx["other"] = 1
            writes.set()
            over.wait(5)

    with Store(path, frozen=False) as store:
        store["k"] = 1
        thread = threading.Thread(target=write)
        thread.start()
        writes.wait(5)
        threading.Timer(0.2, over.set).start()
        store["k"] = 2
        thread.join()
        assert store.stats().counters["waits"] == 1
        assert dict(store) == {"k": 2, "other": 1}
    assert len(_lines(told, "rstore.sqlite", logging.DEBUG)) == 1


def test_a_file_that_is_replaced_is_counted(tmp_path: Path, told: pytest.LogCaptureFixture) -> None:
    path, other = tmp_path / "store.db", tmp_path / "other.db"
    for one in (path, other):
        with Store(one, frozen=False) as store:
            store["k"] = one.name
    with Store(path, frozen=False) as store:
        assert store["k"] == "store.db"
        store["j"] = 1
        other.rename(path)
        store["j"] = 2
        assert store["k"] == "other.db"
        assert store.stats().counters["reconnections"] >= 1
    assert _lines(told, "rstore.sqlite", logging.INFO)


def test_nothing_is_printed_by_itself(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with Store(tmp_path / "store.db", frozen=False) as store:
        store.extend_many("s", [(t, t) for t in range(5000)])
        assert store.stats().counters["seals"] == 1
    assert capfd.readouterr() == ("", "")
