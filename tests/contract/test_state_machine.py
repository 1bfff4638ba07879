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
from postgresql import Server, check_schema
from redis_servers import Cluster
from redis_servers import Server as RedisServer
from small import shrink

from rstore.testing import machine
from rstore.testing.flavours import PICKLED, Flavour
from rstore.testing.worker import Worker

# The same examples every time, so that a pass means the same on every machine; EXAMPLES=1000 goes searching.
_SEARCH = int(os.environ.get("EXAMPLES", "0"))
_SETTINGS = settings(
    max_examples=_SEARCH or 10,
    stateful_step_count=40,
    derandomize=not _SEARCH,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
    print_blob=True,
)
_FEWER = settings(_SETTINGS, max_examples=_SEARCH or 6)  # where a step is several round trips, or a process away
_flavours = pytest.mark.parametrize("flavour", PICKLED, ids=str)


@pytest.fixture
def worker() -> Iterator[Worker]:
    with Worker() as worker:
        yield worker


def _files(directory: Path) -> Iterator[str]:
    return (f"sqlite://{directory}/{i}.db" for i in itertools.count())


def _schemas(server: Server, schema: str) -> Iterator[str]:
    """Yield the DSN of one schema again and again: it is checked, and emptied, before the next store comes there."""
    while True:
        if server.left_in(schema):  # by an example that failed, or is being shrunk
            check_schema(server, schema)
            server.empty(schema)
        yield server.dsn(schema=schema)


@pytest.mark.slow
@_flavours
def test_memory(flavour: Flavour) -> None:
    run_state_machine_as_test(machine(lambda: f"memory://{uuid.uuid4()}", flavour=flavour), settings=_SETTINGS)


@pytest.mark.slow
@_flavours
def test_sqlite(flavour: Flavour, tmp_path: Path, worker: Worker) -> None:
    files = _files(tmp_path)
    run_state_machine_as_test(machine(lambda: next(files), flavour=flavour, worker=worker), settings=_SETTINGS)


@_flavours
def test_postgresql(flavour: Flavour, postgresql: Server, worker: Worker) -> None:
    with postgresql.schema() as schema:
        dsns = _schemas(postgresql, schema)
        run_state_machine_as_test(machine(lambda: next(dsns), flavour=flavour, worker=worker), settings=_FEWER)


@pytest.mark.slow
@_flavours
def test_memory_in_small(flavour: Flavour, monkeypatch: pytest.MonkeyPatch) -> None:
    shrink(monkeypatch.setattr)
    tiny = machine(lambda: f"memory://{uuid.uuid4()}", flavour=flavour, bulk_sizes=(5, 20, 60))
    run_state_machine_as_test(tiny, settings=settings(_SETTINGS, max_examples=2 * _SETTINGS.max_examples))


@pytest.mark.slow
@_flavours
def test_sqlite_in_small(flavour: Flavour, tmp_path: Path, worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    shrink(monkeypatch.setattr)
    worker.open(PICKLED[0], f"sqlite://{tmp_path}/setup.db")
    worker.run(_shrink_there)
    worker.close()
    files = _files(tmp_path)
    tiny = machine(lambda: next(files), flavour=flavour, worker=worker, bulk_sizes=(5, 20, 60))
    run_state_machine_as_test(tiny, settings=settings(_SETTINGS, max_examples=2 * _SETTINGS.max_examples))


@_flavours
def test_postgresql_in_small(
    flavour: Flavour, postgresql: Server, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    shrink(monkeypatch.setattr)
    with postgresql.schema() as schema:
        worker.open(PICKLED[0], postgresql.dsn(schema=schema))
        worker.run(_shrink_there)
        worker.call("discard")
        worker.close()
        dsns = _schemas(postgresql, schema)
        tiny = machine(lambda: next(dsns), flavour=flavour, worker=worker, bulk_sizes=(5, 20, 60))
        run_state_machine_as_test(tiny, settings=_SETTINGS)


@_flavours
def test_redis(flavour: Flavour, redis_server: RedisServer, worker: Worker) -> None:
    def fresh() -> str:
        redis_server.do("FLUSHALL")
        return redis_server.dsn

    run_state_machine_as_test(machine(fresh, flavour=flavour, worker=worker, snapshots=False), settings=_FEWER)


@_flavours
def test_redis_in_small(
    flavour: Flavour, redis_server: RedisServer, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fresh() -> str:
        redis_server.do("FLUSHALL")
        return redis_server.dsn

    shrink(monkeypatch.setattr)
    worker.open(PICKLED[0], redis_server.dsn)
    worker.run(_shrink_there)
    worker.close()
    tiny = machine(fresh, flavour=flavour, worker=worker, bulk_sizes=(5, 20, 60), snapshots=False)
    run_state_machine_as_test(tiny, settings=_SETTINGS)


@_flavours
def test_redis_cluster(flavour: Flavour, redis_cluster: Cluster, worker: Worker) -> None:
    def fresh() -> str:
        redis_cluster.flush()
        return f"{redis_cluster.dsn}?buckets=16"  # with fewer, since every rule looks through them many times

    run_state_machine_as_test(
        machine(fresh, flavour=flavour, worker=worker, transactional=False, snapshots=False), settings=_FEWER
    )


def _shrink_there(_: object) -> None:
    shrink(setattr)
