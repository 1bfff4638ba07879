"""Transactions on Redis: the same as in the reference, whatever is done inside, and nothing of it before the end."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest
from backends import make_backend
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis_transactions import WRITABLE, Caller, calls

from rstore.backends.types import ScanQuery


@pytest.fixture(params=["redis_dsn", "redis_cluster_dsn"], ids=["redis", "redis+cluster"])
def dsn(request: pytest.FixtureRequest) -> str:
    return f"{request.getfixturevalue(request.param)}?buckets=1"


@given(before=st.lists(calls, max_size=6), inside=st.lists(calls, max_size=12), fails=st.booleans())
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_transaction_is_that_of_the_reference(dsn: str, before: Any, inside: Any, fails: bool) -> None:
    callers = []
    backends = [make_backend(where, "default", WRITABLE) for where in (f"memory://{uuid4()}", dsn)]
    for backend in backends:
        backend.open()
        backend.discard()
        backend.create()
        callers.append(Caller(backend))
    reference, redis = callers
    for call in before:
        assert redis.make(call) == reference.make(call)
    other = make_backend(dsn, "default", WRITABLE)
    other.open()
    stored = Caller(other).everything()
    assert stored == reference.everything()
    expected = reference.make(("block", inside, fails))

    def look() -> None:
        assert redis.backend.count() == len(redis.backend.scan(ScanQuery(100, keys_only=True)).records)
        assert Caller(other).everything() == stored

    assert redis.make(("block", inside, fails, look)) == expected
    assert redis.everything() == Caller(other).everything() == reference.everything()
    for backend in (*backends, other):
        backend.close()
