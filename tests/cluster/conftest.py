"""A service of Sentinel and a cluster of these tests' own: no others expect servers to change their roles."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from redis_sentinels import Service
from redis_servers import Cluster


@pytest.fixture(scope="session")
def _service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    service = Service(tmp_path_factory.mktemp("service"))
    yield service
    service.kill()


@pytest.fixture
def service(_service: Service) -> Service:
    """Return a service that is whole and empty, whatever the test before has done to it."""
    _service.mend()
    _service.flush()
    return _service


@pytest.fixture(scope="session")
def _cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path_factory.mktemp("cluster"))
    yield cluster
    cluster.kill()


@pytest.fixture
def cluster(_cluster: Cluster) -> Cluster:
    """Return an empty cluster."""
    _cluster.flush()
    return _cluster
