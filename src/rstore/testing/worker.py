"""A second process that keeps stores open and calls their verbs, for tests of stores that two processes share.

Nouns: a *worker* (the process, as its parent sees it).
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, Self

from rstore import Store, Transaction
from rstore.testing.flavours import Flavour

_TIMEOUT_S = 60.0

_ITERATORS = frozenset({"items", "values", "scan", "batches", "history", "__iter__"})


def call(store: Store | Transaction, verb: str, *args: Any, **kwargs: Any) -> Any:
    """Call a verb by its name; a stream comes back as a list."""
    result = getattr(store, verb)(*args, **kwargs)
    return list(result) if verb in _ITERATORS else result


def _serve(pipe: Connection) -> None:
    stores: dict[str, Store] = {}
    while True:
        try:
            task, name, args, kwargs = pipe.recv()
        except EOFError:
            return
        try:
            pipe.send((True, _do(stores, task, name, args, kwargs)))
        except Exception as error:  # noqa: BLE001 - the parent judges it
            # Type and arguments alone: an error need not survive being pickled whole.
            pipe.send((False, (type(error), tuple(map(str, error.args)))))


def _do(stores: dict[str, Store], task: str, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if task == "open":
        flavour, dsn, namespace = args
        stores[name] = flavour.make(dsn, namespace, **kwargs)
        stores[name].open()
        return None
    if task == "close":
        stores.pop(name).close()
        return None
    if task == "run":
        function: Callable[..., Any] = args[0]
        return function(stores[name], *args[1:], **kwargs)
    return call(stores[name], task, *args, **kwargs)


def _begin_anew() -> Any:  # one of two classes, of which Windows lacks the second
    """Return a context whose children inherit nothing from their parent; a fork server imports the library once."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context


class Worker:
    """A second process. Its stores have names; an error of a verb there is raised here, of the same type.

    One thread may use it at a time.
    """

    def __init__(self) -> None:
        context = _begin_anew()
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs,), daemon=True)
        self._process.start()
        theirs.close()

    def open(
        self, flavour: Flavour, dsn: str, namespace: str | None = None, *, name: str = "store", **options: Any
    ) -> None:
        """Open a store; it stays open until it is closed."""
        self._ask("open", name, flavour, dsn, namespace, **options)

    def close(self, name: str = "store") -> None:
        """Close a store."""
        self._ask("close", name)

    def call(self, verb: str, *args: Any, name: str = "store", **kwargs: Any) -> Any:
        """Call a verb of a store, and return what it returns."""
        return self._ask(verb, name, *args, **kwargs)

    def run(self, function: Callable[..., Any], *args: Any, name: str = "store") -> Any:
        """Call a function that can be pickled with a store, and return what it returns."""
        return self._ask("run", name, function, *args)

    def start(self, function: Callable[..., Any], *args: Any, name: str = "store") -> None:
        """Begin to call a function; call `wait` before any other method."""
        self._pipe.send(("run", name, (function, *args), {}))

    def wait(self) -> Any:
        """Return the result of the function that was started."""
        if not self._pipe.poll(_TIMEOUT_S):
            raise TimeoutError("the second process does not answer")
        done, result = self._pipe.recv()
        if not done:
            kind, args = result
            error: Exception = kind.__new__(kind, *args)
            error.args = args
            raise error
        return result

    def kill(self) -> None:
        """Kill the process, whatever it is doing."""
        self._process.kill()
        self._process.join()
        self._pipe.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    def _ask(self, task: str, name: str, *args: Any, **kwargs: Any) -> Any:
        self._pipe.send((task, name, args, kwargs))
        return self.wait()
