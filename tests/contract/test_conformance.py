from __future__ import annotations

import uuid
from collections import Counter
from pathlib import Path

import pytest
from value_suite import AllFlavours

from rstore.testing import StoreSuite
from rstore.testing.belonging import BelongingSuite
from rstore.testing.transactions import TransactionSuite


class TestSqlite(AllFlavours, StoreSuite):
    @pytest.fixture
    def dsn(self, tmp_path: Path) -> str:
        return f"sqlite://{tmp_path}/store.db"


class TestMemory(StoreSuite):
    persistent = False

    @pytest.fixture
    def dsn(self) -> str:
        return f"memory://{uuid.uuid4()}"


class ServerSuite(StoreSuite):
    local_clock = False


class TestPostgresql(ServerSuite):
    @pytest.fixture
    def dsn(self, postgresql_dsn: str) -> str:
        return postgresql_dsn


class TestRedis(ServerSuite):
    snapshots = False
    backups = False

    @pytest.fixture
    def dsn(self, redis_dsn: str) -> str:
        return redis_dsn


class TestRedisCluster(ServerSuite):
    across_keys = False
    snapshots = False
    transactional = False
    backups = False

    @pytest.fixture
    def dsn(self, redis_cluster_dsn: str) -> str:
        # With fewer buckets, since every test looks through them many times; the tests of the cluster have all of them.
        return f"{redis_cluster_dsn}?buckets=16"


class TestRedisClusterInOneBucket(TransactionSuite, BelongingSuite):
    """Where a namespace of a cluster is one place."""

    local_clock = False

    @pytest.fixture
    def dsn(self, redis_cluster_dsn: str) -> str:
        return f"{redis_cluster_dsn}?buckets=1"


def test_no_test_of_one_suite_hides_that_of_another() -> None:
    names = Counter(
        name for suite in StoreSuite.__mro__ for name in vars(suite) if name.startswith("test_") or name == "flavour"
    )
    assert [name for name, count in names.items() if count > 1] == []
    assert len(names) > 100
