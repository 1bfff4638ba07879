"""Redis servers that tests share: one of each kind for all tests of a process, started when the first one asks.

A test module names this as its plugin.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from redis_servers import Cluster, Server


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(scope="session")
def redis_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path_factory.mktemp("redis-cluster"))
    yield cluster
    cluster.kill()


@pytest.fixture
def redis_dsn(redis_server: Server) -> str:
    redis_server.do("FLUSHALL")
    return redis_server.dsn


@pytest.fixture
def redis_cluster_dsn(redis_cluster: Cluster) -> str:
    redis_cluster.flush()
    return redis_cluster.dsn
