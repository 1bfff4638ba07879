"""The notes of a block: what `noting` says of all changes that are recorded inside it."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from types import MappingProxyType
from typing import Any, Final


class Notes:
    """The notes of one store, each thread's and each asyncio task's own."""

    def merged(self, note: Any) -> Any:
        """Return the note of a change: its own, over those of the blocks around it. Mappings merge, others replace."""
        around = _of_blocks.get().get(self)
        if not around:
            return note
        if note is None:
            return {**around}
        return {**around, **_items(note)} if isinstance(note, Mapping) else note

    @contextmanager
    def block(self, note: Mapping[str, Any]) -> Generator[None, None, None]:
        """Add these to the notes of all changes inside."""
        outer = _of_blocks.get()
        token = _of_blocks.set(MappingProxyType({**outer, self: {**outer.get(self, {}), **note}}))
        try:
            yield
        finally:
            with suppress(ValueError):  # it ends in another task, which knows nothing of it
                _of_blocks.reset(token)


# One variable for all stores: a context keeps its variables for ever, and a store is to be collected.
_of_blocks: Final[ContextVar[Mapping[Notes, Mapping[str, Any]]]] = ContextVar(
    "rstore_notes", default=MappingProxyType({})
)


def _items(note: Mapping[Any, Any]) -> dict[Any, Any]:
    return dict(note.items())
