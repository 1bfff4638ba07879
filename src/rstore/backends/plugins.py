"""Backends of other distributions, which register them as entry points of the group `rstore.backends`.

The name of an entry point is a scheme, its value the class: `folder = "rstore_folder.backend:FolderBackend"`. Only a
scheme that is not built in imports this file.
"""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points
from typing import Any, Final

from rstore.backends.contract import Backend
from rstore.errors import StoreNotAvailableError

GROUP: Final = "rstore.backends"


def find_plugins() -> dict[str, list[tuple[str, EntryPoint]]]:
    """Return the entry points of the installed distributions by scheme, each with the name of its distribution.

    Raises `StoreNotAvailableError` if the entry points of a distribution are damaged.
    """
    found: dict[str, list[tuple[str, EntryPoint]]] = {}
    try:
        for entry in entry_points(group=GROUP):
            name = f"{entry.dist.name} {entry.dist.version}" if entry.dist else "an unknown distribution"
            found.setdefault(entry.name.lower(), []).append((name, entry))
    except Exception as error:
        raise StoreNotAvailableError(
            "no built-in backend has this scheme, and the entry points of the installed distributions cannot be read: "
            f"{type(error).__name__}: {error}"
        ) from error
    return found


def load_plugin(scheme: str) -> type[Backend]:
    """Return the class that is registered for a scheme.

    Raises `StoreNotAvailableError`, naming the distributions, if it cannot be loaded, is no backend of this version, or
    is not the only one.
    """
    found = find_plugins().get(scheme, [])
    if not found:
        raise StoreNotAvailableError(f"the distribution that registered the scheme {scheme}:// is gone")
    if len(found) > 1:
        claims = " and ".join(sorted(distribution for distribution, _ in found))
        raise StoreNotAvailableError(f"the scheme {scheme}:// is registered by {claims}: uninstall all but one")
    [(distribution, entry)] = found
    where = f"the backend of {scheme}://, {entry.value} of {distribution},"
    try:
        backend: Any = entry.load()
    except Exception as error:
        raise StoreNotAvailableError(f"{where} cannot be loaded: {type(error).__name__}: {error}") from error
    if not (isinstance(backend, type) and issubclass(backend, Backend)):
        raise StoreNotAvailableError(f"{where} is no subclass of rstore.backends.contract.Backend")
    if missing := sorted(backend.__abstractmethods__):
        raise StoreNotAvailableError(f"{where} is written for another version of rstore: it lacks {', '.join(missing)}")
    return backend
