"""Backends of other distributions, which register them as entry points of the group `rstore.backends`.

The name of an entry point is a scheme, its value the class: `folder = "rstore_folder.backend:FolderBackend"`. Only a
scheme that is not built in imports this file.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Any, Final, NamedTuple

from rstore.backends.contract import Backend
from rstore.errors import StoreNotAvailableError

GROUP: Final = "rstore.backends"


class Plugin(NamedTuple):
    """A scheme that a distribution registers."""

    scheme: str
    distribution: str
    value: str
    load: Callable[[], Any]


def find_plugins() -> list[Plugin]:
    """Return all schemes that the installed distributions register.

    Raises `StoreNotAvailableError` if the entry points of a distribution are damaged.
    """
    try:
        return [
            Plugin(
                entry.name.lower(),
                f"{entry.dist.name} {entry.dist.version}" if entry.dist else "an unknown distribution",
                entry.value,
                entry.load,
            )
            for entry in entry_points(group=GROUP)
        ]
    except Exception as error:
        raise StoreNotAvailableError(
            "no built-in backend has this scheme, and the entry points of the installed distributions cannot be read: "
            f"{type(error).__name__}: {error}"
        ) from error


def load_plugin(scheme: str) -> type[Backend]:
    """Return the class that is registered for a scheme.

    Raises `StoreNotAvailableError`, naming the distributions, if it cannot be loaded, is no backend of this version, or
    is not the only one.
    """
    plugins = [plugin for plugin in find_plugins() if plugin.scheme == scheme]
    if len(plugins) != 1:
        claims = " and ".join(sorted(plugin.distribution for plugin in plugins))
        raise StoreNotAvailableError(
            f"the scheme {scheme}:// is registered by {claims}: uninstall all but one"
            if claims
            else f"the distribution that registered the scheme {scheme}:// is gone"
        )
    [plugin] = plugins
    where = f"the backend of {scheme}://, {plugin.value} of {plugin.distribution},"
    try:
        backend = plugin.load()
    except Exception as error:
        raise StoreNotAvailableError(f"{where} cannot be loaded: {type(error).__name__}: {error}") from error
    if not (isinstance(backend, type) and issubclass(backend, Backend)):
        raise StoreNotAvailableError(f"{where} is no subclass of rstore.backends.contract.Backend")
    if missing := sorted(backend.__abstractmethods__):
        raise StoreNotAvailableError(f"{where} is written for another version of rstore: it lacks {', '.join(missing)}")
    return backend
