"""A connection that breaks between a write and the WAIT behind it: the server has done what it was sent."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import redis

WAIT = b"*3\r\n$4\r\nWAIT"


def lose_wait(monkeypatch: pytest.MonkeyPatch, meanwhile: Callable[[], object]) -> None:
    """Send all but the next WAIT, of which the system takes nothing: the connection is closed, after what others do."""
    send: Callable[[Any, Sequence[bytes | memoryview], bool], None] = redis.Connection.send_packed_command

    def sending(self: Any, command: Sequence[bytes | memoryview], check_health: bool = True) -> None:
        data = b"".join(command)
        at = data.rfind(WAIT)
        if at < 0:
            send(self, [data], check_health)
            return
        monkeypatch.undo()
        send(self, [data[:at]], check_health)
        self.can_read(5)  # by then it is done
        meanwhile()
        self.disconnect()
        raise redis.ConnectionError("the connection was reset")

    monkeypatch.setattr(redis.Connection, "send_packed_command", sending)
