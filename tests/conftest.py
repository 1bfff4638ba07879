from __future__ import annotations

from collections.abc import Iterator

import pytest
from postgresql import Server, check_schema


@pytest.fixture(scope="session")
def postgresql() -> Iterator[Server]:
    """A server for all tests of this process."""
    with Server() as server:
        yield server


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
        check_schema(postgresql, _schema)
        postgresql.empty(_schema)
