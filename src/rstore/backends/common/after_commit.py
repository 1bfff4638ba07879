"""Work behind the commit of a call: where it fails it is put off, and it never becomes the outcome of the call."""

from __future__ import annotations

import logging
from collections.abc import Generator
from contextlib import contextmanager
from typing import Final

_logger: Final = logging.getLogger("rstore.afterwards")


@contextmanager
def behind_commit(work: str) -> Generator[None, None, None]:
    """Log errors raised inside instead of raising them: what the call has written is there, and acknowledged.

    A request to stop the program goes on: an interrupt says nothing about what the call has done.
    """
    try:
        yield
    except (KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:  # noqa: BLE001 - also of a panic in Rust, which is no Exception
        # Its class alone: the message of another library may show a value.
        _logger.warning("%s is put off: %s", work, type(error).__name__)
