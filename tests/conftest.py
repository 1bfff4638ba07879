from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from postgres_proxy import Proxy
from postgresql import PASSWORD, Server, check_schema
from redis_servers import Cluster
from redis_servers import Server as RedisServer

collect_ignore = ["helpers"]  # which hold no examples, and are imported by their own names

TESTS = Path(__file__).parent
FOLDERS = {"postgres": "server", "redis": "server", "cluster": "server", "crash": "crash"}
STARTING = {"postgresql", "redis_server", "redis_cluster", "server"}
"""The fixtures that start a server."""
NAMES = {"postgres", "postgresql", "redis", "redis_cluster", "cluster", "redis in buckets", "redis+cluster"}
"""The parameters that stand for a server, beside the names of fixtures: a test asks for the fixture when it runs."""


SLOW = {"test_so_many_changes_that_most_are_sealed", "test_many_in_place_of_small_large_and_expiring_ones"}
"""Tests of the suite that ships with the package, which knows no marker of ours."""


@pytest.hookimpl(tryfirst=True)  # before `-m` chooses among them
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test by its folder, and by the servers that it asks for."""
    for item in items:
        if item.path.is_relative_to(TESTS) and (mark := FOLDERS.get(item.path.relative_to(TESTS).parts[0])):
            item.add_marker(mark)
        if getattr(item, "originalname", "") in SLOW:
            item.add_marker("slow")
        parameters = vars(item).get("callspec")
        values = parameters.params.values() if parameters else ()
        names = {value.removesuffix("_dsn") for value in values if isinstance(value, str)}
        if STARTING & set(getattr(item, "fixturenames", ())) or NAMES & names:
            item.add_marker("server")


def pytest_xdist_auto_num_workers() -> int:
    """Run tests in two processes more than there are cores: half their time they wait, for a server or a clock."""
    return 2 + (os.cpu_count() or 1)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run the tests of a module that names its `SERVERS` on each of them."""
    servers: dict[str, Path] | None = getattr(metafunc.module, "SERVERS", None)
    if servers and "server" in metafunc.fixturenames:
        metafunc.parametrize("server", servers.values(), ids=servers, indirect=True)


def pytest_collection_finish() -> None:
    """Leave the five thousand tests out of every collection of garbage: looking through them takes a tenth of a run."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def _may_start(pytestconfig: pytest.Config) -> None:
    """Notice a test that starts a server and is not marked with it."""
    if "not server" in pytestconfig.option.markexpr:
        pytest.fail("this test starts a server, and pytest_collection_modifyitems does not see that")


@pytest.fixture(scope="session")
def postgresql(_may_start: None) -> Iterator[Server]:
    """A server for all tests of this process; no machine crashes under it, so that it need not wait for a disk."""
    with Server() as server, server.setting("fsync", "off"):
        yield server


@pytest.fixture
def _synced(postgresql: Server) -> Iterator[None]:
    """Let it wait for the disk, as all servers do unless they are told otherwise."""
    with postgresql.setting("fsync", "on"):
        yield


@pytest.fixture
def postgresql_schema(postgresql: Server) -> Iterator[str]:
    """The name of a schema that is not there yet; what is in it at the end must hold together."""
    with postgresql.schema() as schema:
        yield schema
        if postgresql.has_tables(schema):
            check_schema(postgresql, schema)


@pytest.fixture(scope="session")
def _schema(postgresql: Server) -> Iterator[str]:
    with postgresql.schema() as schema:
        yield schema


@pytest.fixture
def postgresql_dsn(postgresql: Server, _schema: str) -> Iterator[str]:
    """The DSN of a store that does not exist yet; what a test leaves behind there must hold together."""
    yield postgresql.dsn(schema=_schema)
    if postgresql.left_in(_schema):
        try:
            check_schema(postgresql, _schema)
        finally:
            postgresql.empty(_schema)


@pytest.fixture
def proxy(postgresql: Server) -> Iterator[Proxy]:
    proxy = Proxy(postgresql)
    yield proxy
    proxy.stop()


@pytest.fixture
def proxied_dsn(postgresql: Server, proxy: Proxy, postgresql_schema: str) -> Iterator[str]:
    """The DSN of a store behind the proxy."""
    with postgresql.role("somebody", "SUPERUSER"):
        yield postgresql.tcp_dsn("somebody", PASSWORD, port=proxy.port, schema=postgresql_schema)
        postgresql.execute(f'ALTER SCHEMA "{postgresql_schema}" OWNER TO postgres')
        postgresql.execute("REASSIGN OWNED BY somebody TO postgres")


@pytest.fixture(scope="session")
def redis_server(_may_start: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def server(_may_start: None, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis server of this test's own: the one that the tests bring, or each of the `SERVERS` of a module."""
    with RedisServer(tmp_path, executable=getattr(request, "param", None)) as server:
        yield server


@pytest.fixture(scope="session")
def redis_cluster(_may_start: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path_factory.mktemp("redis-cluster"))
    yield cluster
    cluster.kill()


@pytest.fixture
def redis_dsn(redis_server: RedisServer) -> str:
    redis_server.do("FLUSHALL")
    return redis_server.dsn


@pytest.fixture
def redis_cluster_dsn(redis_cluster: Cluster) -> str:
    redis_cluster.flush()
    return redis_cluster.dsn
