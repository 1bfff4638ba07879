"""The behaviour that every backend is held to: a suite of pytest classes, and a state machine of Hypothesis.

Subclass `StoreSuite` in a test module, give it a `dsn` fixture, and pytest runs all of it on your backend:

    class TestMine(StoreSuite):
        @pytest.fixture
        def dsn(self, tmp_path):
            return f'mine://{tmp_path}/store'

Both need the extra `testing`: pytest and hypothesis. docs/backends.md says how to write a backend.
"""

from rstore.testing.conformance import StoreSuite
from rstore.testing.machine import StoreMachine, machine
from rstore.testing.oracle import Oracle
from rstore.testing.worker import Worker

__all__ = ["Oracle", "StoreMachine", "StoreSuite", "Worker", "machine"]
