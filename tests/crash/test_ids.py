"""Writers on a server that are killed again and again, and go on with ids that they may have used: each counts once."""

from __future__ import annotations

import random
import time

import programs
import pytest
from processes import Program

from rstore import Store

pytestmark = pytest.mark.server

KILLS = 4


@pytest.mark.parametrize("server", ["postgresql_dsn", "redis_dsn", "redis_cluster_dsn"])
def test_a_change_with_an_id_is_there_once(server: str, request: pytest.FixtureRequest) -> None:
    dsn, chosen, said = request.getfixturevalue(server), random.Random(server), 0
    for _ in range(KILLS):
        with Program(programs.apply_once, dsn) as writer:
            for _ in range(chosen.randrange(1, 30)):
                said = int(writer.hear())
            time.sleep(chosen.random() * 0.01)
            said = max([said, *(int(line) for line in writer.kill() if line.isdigit())])
    with Store(dsn) as store:
        state = store.current("e") or {}
        assert state["n"] in (said, said + 1)
        assert [change.id for change in store.history("e")] == ["first", *map(str, range(1, state["n"] + 1))]
        assert store.check() == []
