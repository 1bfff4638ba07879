"""The state machine, with chunks and checkpoints of the real sizes and of tiny ones, where every edge is near."""

from __future__ import annotations

import itertools
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test
from redis_servers import Cluster, Server
from small import shrink

from rstore.testing import machine
from rstore.testing.flavours import PICKLED, Flavour
from rstore.testing.worker import Worker

pytest_plugins = ["redis_fixtures"]

# The same examples every time, so that a pass means the same on every machine; EXAMPLES=1000 goes searching.
_SEARCH = int(os.environ.get("EXAMPLES", "0"))
_SETTINGS = settings(
    max_examples=_SEARCH or 20,
    stateful_step_count=40,
    derandomize=not _SEARCH,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
    print_blob=True,
)
_flavours = pytest.mark.parametrize("flavour", PICKLED, ids=str)


@pytest.fixture
def worker() -> Iterator[Worker]:
    with Worker() as worker:
        yield worker


def _files(directory: Path) -> Iterator[str]:
    return (f"sqlite://{directory}/{i}.db" for i in itertools.count())


@_flavours
def test_memory(flavour: Flavour) -> None:
    run_state_machine_as_test(machine(lambda: f"memory://{uuid.uuid4()}", flavour=flavour), settings=_SETTINGS)


@_flavours
def test_sqlite(flavour: Flavour, tmp_path: Path, worker: Worker) -> None:
    files = _files(tmp_path)
    run_state_machine_as_test(machine(lambda: next(files), flavour=flavour, worker=worker), settings=_SETTINGS)


@_flavours
def test_memory_in_small(flavour: Flavour, monkeypatch: pytest.MonkeyPatch) -> None:
    shrink(monkeypatch.setattr)
    tiny = machine(lambda: f"memory://{uuid.uuid4()}", flavour=flavour, bulk_sizes=(5, 20, 60))
    run_state_machine_as_test(tiny, settings=settings(_SETTINGS, max_examples=3 * _SETTINGS.max_examples))


@_flavours
def test_sqlite_in_small(flavour: Flavour, tmp_path: Path, worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    shrink(monkeypatch.setattr)
    _shrink_in(worker, f"sqlite://{tmp_path}/setup.db")
    files = _files(tmp_path)
    tiny = machine(lambda: next(files), flavour=flavour, worker=worker, bulk_sizes=(5, 20, 60))
    run_state_machine_as_test(tiny, settings=settings(_SETTINGS, max_examples=3 * _SETTINGS.max_examples))


@_flavours
def test_redis(flavour: Flavour, redis_server: Server, worker: Worker) -> None:
    def fresh() -> str:
        redis_server.do("FLUSHALL")
        return redis_server.dsn

    run_state_machine_as_test(machine(fresh, flavour=flavour, worker=worker), settings=_SETTINGS)


@_flavours
def test_redis_in_small(
    flavour: Flavour, redis_server: Server, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fresh() -> str:
        redis_server.do("FLUSHALL")
        return redis_server.dsn

    shrink(monkeypatch.setattr)
    _shrink_in(worker, redis_server.dsn)
    tiny = machine(fresh, flavour=flavour, worker=worker, bulk_sizes=(5, 20, 60))
    run_state_machine_as_test(tiny, settings=settings(_SETTINGS, max_examples=2 * _SETTINGS.max_examples))


@_flavours
def test_redis_cluster(flavour: Flavour, redis_cluster: Cluster, worker: Worker) -> None:
    def fresh() -> str:
        redis_cluster.flush()
        return redis_cluster.dsn

    run_state_machine_as_test(machine(fresh, flavour=flavour, worker=worker), settings=_SETTINGS)


def _shrink_in(worker: Worker, dsn: str) -> None:
    worker.open(PICKLED[0], dsn)
    worker.run(_shrink_there)
    worker.close()


def _shrink_there(_: object) -> None:
    shrink(setattr)
