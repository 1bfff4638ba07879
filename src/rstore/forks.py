"""Objects that have to be renewed in the child of a fork: its parent's threads, sockets and salts are not its own."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TypeVar
from weakref import WeakSet

T = TypeVar("T")


def call_in_child(hook: Callable[[], object]) -> None:
    """Call `hook` in the child of every fork; nothing forks on Windows."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=hook)


def renewed_in_child(renew: Callable[[T], object]) -> WeakSet[T]:
    """Return a set of objects: in the child of every fork `renew` is called with each that is still alive."""
    objects: WeakSet[T] = WeakSet()

    def renew_all() -> None:
        for one in list(objects):
            renew(one)

    call_in_child(renew_all)
    return objects
