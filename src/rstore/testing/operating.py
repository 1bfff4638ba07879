"""The operator's view of a store: pings, and counters and logs of events behind the calls."""

from __future__ import annotations

import pytest

from rstore import StoreClosedError
from rstore.testing.flavours import plain
from rstore.testing.suite import Opener, Suite


class OperatingSuite(Suite):
    """Pings, counters and logs."""

    @plain
    def test_a_ping_is_answered_and_takes_some_time(self, opener: Opener) -> None:
        with opener() as store:
            assert 0 < store.ping() < 30
            with opener(frozen=True) as frozen:
                assert 0 < frozen.ping() < 30
        with pytest.raises(StoreClosedError):
            store.ping()

    @plain
    def test_events_behind_the_calls_are_counted_and_logged(
        self, opener: Opener, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level("DEBUG", "rstore")
        with opener() as store:
            before = store.stats().counters
            assert set(before) == {"retries", "waits", "reconnections", "failovers", "lost_replies", "seals"}
            assert before["seals"] == 0
            store.extend_many("secret-free", [(t, f"secret {t}") for t in range(5000)])
            after = store.stats().counters
            assert after["seals"] > 0
            with opener() as other:
                store["k"] = 1

                def raced(value: int) -> int:
                    if other["k"] == 1:
                        other["k"] = 2
                    return value + 1

                assert store.modify("k", raced) == 3
            assert store.stats().counters["retries"] > after["retries"]
        told = [record for record in caplog.records if record.name.startswith("rstore.")]
        assert any("'secret-free'" in record.getMessage() for record in told)
        assert not any("secret " in record.getMessage() for record in told)
