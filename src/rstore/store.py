"""The Store: opening and closing, and the verbs of all three models in one object."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from inspect import isasyncgenfunction, iscoroutinefunction, isfunction, isgeneratorfunction, unwrap
from os import PathLike
from threading import RLock
from types import TracebackType
from typing import Any, Final, Literal, NoReturn, Self, TypeVar, cast
from weakref import WeakSet

from rstore.arguments import check_choice, check_namespace, check_schema_version, check_timeout, check_ttl
from rstore.backends.credentials import Credentials
from rstore.backends.registry import check_dsn, check_login, make_checked_backend, show_dsn
from rstore.backends.types import Options, RolledBack, close_scope
from rstore.codec.data_pickle import DataPickle
from rstore.codec.formats import make_serializer
from rstore.codec.keys import Key, check_keys
from rstore.codec.serializers import Codec
from rstore.errors import (
    ConflictError,
    FrozenStoreError,
    InvalidTypeError,
    NotSupportedError,
    StoreClosedError,
    forgetful,
)
from rstore.events.projecting import Projecting
from rstore.events.retention import Forgetting
from rstore.forks import renewed_in_child
from rstore.incarnation import Incarnations
from rstore.keyvalue.leases import Computing
from rstore.keyvalue.watching import Watching
from rstore.maintenance.verbs import Maintenance
from rstore.models import Models
from rstore.namespace import Retries, Setup
from rstore.notes import Notes
from rstore.session import SnapshotSession, StoreSession
from rstore.transactions import SNAPSHOT_ENDED, Snapshot, ThreadOwn, Transaction, transaction

T = TypeVar("T")
_DURABILITIES: Final = ("full", "normal")

_log: Final = logging.getLogger("rstore.store")


class Store(Computing, Models, Watching, Projecting, Forgetting, Maintenance):
    """Key/value pairs, time series and event sequences in one place.

    Args:
        dsn: `sqlite://PATH` or a bare path (a SQLite file), `postgresql://…` (a PostgreSQL database), `redis://…`,
            `unix://…`, `redis+sentinel://…` or `redis+cluster://…` (Redis, or Valkey, which `valkey` says as well; with
            TLS `rediss`), or `memory://NAME` (for tests).
        namespace: What isolates this data from other data in the same store; `'default'` if neither this nor the class
            attribute `_namespace` is given.
        key: Turns encryption on: what `generate_key()` returns, 32 bytes, a `Passphrase`, or a list of them, of which
            the first seals and all open. Else the class attribute `_key`, else values are stored unencrypted.
        frozen: Read-only, the default. A frozen store has to exist.
        serializer: `'pickle'`, `'data'` or a `DataPickle` (pickles of data alone: reading them runs nothing), `'json'`
            or `'msgpack'`; a subclass may override `_dump` and `_load` instead.
        durability: `'full'`: what a call has stored survives a power cut. `'normal'`: the newest calls may not,
            the rest does.
        timeout: How long a call waits, in seconds: for other writers before `StoreBusyError`, for a server.
        allow_plaintext: With a key, read unencrypted values all the same; without one, write where others have
            encrypted values, and be asked no more whether that is meant (`UnencryptedWarning`).
        compress: Store the values of keys in fewer bytes where that saves a tenth; every store reads them. Off by
            default: how far an encrypted value shrinks tells something about its content.
        id_ttl: How long the ids of changes are kept, in seconds (`apply(…, id=…)`): 7 days by default, None for ever.
        credentials: A function that returns the password, or `(user, password)`, for PostgreSQL and Redis. It is called
            for each new connection, by the thread that needs it, so that tokens may rotate.

    A store is opened by `with`, or by `open()` and `close()`, as often as you like. Threads may share it, and it may be
    open across a fork.

    Without a key and with the pickle serializer, reading a store runs whatever code its writers put there: open only
    files that you trust, or choose `serializer='data'`.

    >>> from rstore import Store
    >>> with Store('file.db', frozen=False) as store:
    ...     store['greeting'] = 'hello'
    >>> with Store('file.db') as store:
    ...     store['greeting']
    'hello'
    >>> Store('postgresql://ada@db.example.com/data', credentials=lambda: open('/run/secrets/token').read())
    <Store 'postgresql://…@db.example.com/data' namespace='default', frozen, closed>
    """

    _namespace: str | None = None
    _key: Key | Sequence[Key] | None = None
    _schema_version: int = 0

    @forgetful
    def __init__(
        self,
        dsn: str | PathLike[str],
        namespace: str | None = None,
        key: Key | Sequence[Key] | None = None,
        frozen: bool = True,
        *,
        serializer: Literal["pickle", "data", "json", "msgpack"] | DataPickle = "pickle",
        durability: Literal["full", "normal"] = "full",
        timeout: float = 30.0,
        allow_plaintext: bool = False,
        compress: bool = False,
        id_ttl: float | None = 7 * 86_400,
        credentials: Credentials | None = None,
    ) -> None:
        self._dsn = dsn
        self._target = check_dsn(dsn)
        namespace = namespace if namespace is not None else self._namespace
        self._namespace = check_namespace("default" if namespace is None else namespace)
        self._keys = check_keys(key if key is not None else self._key)
        self._frozen = _check_flag(frozen, "frozen")
        self._allow_plaintext = _check_flag(allow_plaintext, "allow_plaintext")
        self._compress = _check_flag(compress, "compress")
        self._id_ttl_ms = check_ttl(id_ttl, "id_ttl")
        self._serializer = make_serializer(serializer)
        self._options = Options(
            frozen=self._frozen,
            durability=cast("Any", check_choice(durability, _DURABILITIES, "durability")),
            timeout_s=check_timeout(timeout),
            credentials=check_login(credentials, self._target[0]),
        )
        self._lock = RLock()  # guards what follows, but for what is each thread's own
        self._depth = 0
        self._session: StoreSession | None = None
        self._transactions = 0
        self._own = ThreadOwn()
        self._notes = Notes()
        _stores.add(self)

    # -- opening ------------------------------------------------------------------------------------------------------

    def open(self) -> Self:
        """Open the store; what is opened twice is closed twice.

        Raises `StoreNotAvailableError` if it cannot be reached, is no store of this kind, or is frozen and has no such
        namespace; `WrongKeyError` if there is a key, and none of those that the namespace is encrypted under.
        """
        with self._lock:
            if self._depth == 0:
                self._open()
            self._depth += 1
        return self

    @forgetful
    def _open(self) -> None:
        namespace, codec = str(self._namespace), self._codec()
        backend = make_checked_backend(*self._target, namespace, self._options)
        try:
            backend.open()
            incarnations = Incarnations(
                namespace, self._keys, frozen=self._frozen, allow_plaintext=self._allow_plaintext
            )
            options = self._options
            setup = Setup(codec, incarnations, options.timeout_s, options.telemetry, self._notes, self._id_ttl_ms)
            self._session = StoreSession(backend, setup)
        except BaseException:
            backend.close()
            raise
        self._admit()

    def _admit(self) -> None:
        """Let verbs through to the session at once, or after a check where the store is closed or in transactions."""
        if self._session is not None and not self._transactions:
            self._reader = self._session
            if not self._frozen:
                self._writer = self._session
        else:
            self.__dict__.pop("_reader", None)
            self.__dict__.pop("_writer", None)

    def _get_reader(self) -> StoreSession:
        if self._session is None:
            raise StoreClosedError("the store is not open: use it inside `with store:`, or call open() first")
        self._own.stack.check_outside()
        return self._session

    def _get_writer(self) -> StoreSession:
        if self._frozen and self._session is not None:
            raise FrozenStoreError("the store is read-only: open it with frozen=False to write")
        return self._get_reader()

    def _alone(self, verb: str, *, writes: bool = False) -> StoreSession:
        if self._own.stack.is_here:
            raise NotSupportedError(f"{verb} is a verb of the store alone, outside of a transaction: end that first")
        return self._get_writer() if writes else self._get_reader()

    def close(self) -> None:
        """Close the store. Closing it once too often is fine."""
        with self._lock:
            if self._depth == 0:
                return
            self._depth -= 1
            if self._depth == 0:
                session, self._session = self._session, None
                self._admit()
                if session is not None:
                    session.closed = True
                    session.whole.close()

    def __enter__(self) -> Self:
        return self.open()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def discard(self) -> None:
        """Delete the whole namespace, of all three models. A SQLite file with no namespace left in it is removed.

        Raises `NotSupportedError` inside a transaction.
        """
        self._alone("discard", writes=True).whole.discard()

    # -- several verbs as one -----------------------------------------------------------------------------------------

    @contextmanager
    def transaction(self) -> Generator[Transaction, None, None]:
        """Do several verbs, of all three models, together or not at all: nothing if the block is left by an exception.

        Reads inside see the writes inside, and no other reader sees a part. The result is as if no concurrent write
        had come in between: where one did, it raises `ConflictError`, and nothing is applied (`run` tries again). On
        PostgreSQL, single verbs of other clients may change what it only reads. On SQLite, other writers wait for its
        end instead: keep it short. It nests. It belongs to one thread, and in an event loop to one task: await nothing
        inside. To that thread the store itself refuses its verbs, with `NotSupportedError`, until the transaction ends.

        Raises `NotSupportedError` on a Redis Cluster, unless the namespace is in one bucket.

        >>> store['paid'], store['due'] = 0, 10
        >>> with store.transaction() as tx:
        ...     tx.incr('paid', 10), tx.incr('due', -10)
        ...     state = tx.apply('invoice', {'settled': True})
        ...     tx['paid'] + tx['due']
        (10, 0)
        10
        """
        stack = self._own.stack  # of this thread, wherever it ends
        session = self._session
        outer = stack.innermost or self._get_writer()
        self._count_transactions(1)
        try:
            with transaction(outer, self._freq, stack) as inside:
                yield inside
                if self._session is not session:
                    raise StoreClosedError("the store was closed inside a transaction; nothing was applied")
        finally:
            self._count_transactions(-1)

    def _count_transactions(self, more: int) -> None:
        with self._lock:
            self._transactions += more
            self._admit()

    def run(self, fn: Callable[[Transaction], T]) -> T:
        """Return the result of `fn(transaction)`, called in a transaction, and again if a concurrent write was faster.

        It may be called several times, so it should have no effects but through the transaction. Inside another
        transaction it is called once: that one has to be run again as a whole.

        Raises `StoreBusyError` if others were faster again and again until the time-out.

        >>> def move(tx):
        ...     task = tx['todo'].pop()
        ...     tx['todo'], tx['done'] = tx['todo'][:-1], tx['done'] + [task]
        ...     return task
        >>> store.update(todo=['sow', 'reap'], done=[])
        >>> store.run(move), store['todo'], store['done']
        ('reap', ['sow'], ['reap'])
        """
        if not callable(fn):
            raise InvalidTypeError(f"run takes a function of a transaction, not {type(fn).__name__}")
        if any(map(_is_begun_later, (fn, getattr(fn, "__call__", None)))):  # noqa: B004 - what is asynchronous in it
            raise InvalidTypeError(
                "run takes a function that does its work when it is called, not a generator or coroutine function, "
                "whose work would begin when the transaction is over"
            )
        nested = self._own.stack.is_here
        retries = Retries(
            self._options.timeout_s,
            "concurrent writers keep changing what a transaction had read",
            self._options.telemetry,
        )
        while True:
            try:
                with self.transaction() as inside:
                    return fn(inside)
            except ConflictError as conflict:
                if nested or not isinstance(conflict.__cause__, RolledBack):
                    raise  # in the latter case a version that was known before: it would be in the way again
            retries.wait()

    @contextmanager
    def snapshot(self) -> Generator[Snapshot, None, None]:
        """Read many things as of one moment, whatever others write meanwhile; also faster than one by one.

        Threads may share it. It keeps a connection, and on SQLite the write-ahead log from being moved into the file:
        end it soon.

        Raises `NotSupportedError` on Redis; and, when it is read, `ConflictError` if the moment is lost, since the
        process forked or the connection was.

        >>> store.update(a=1, b=2)
        >>> with store.snapshot() as view:
        ...     store['a'] = 3
        ...     view['a'], dict(view), store['a']
        (1, {'a': 1, 'b': 2}, 3)
        """
        session = self._alone("snapshot")
        scope = session.whole.snapshot()
        try:
            with scope as backend:
                view = Snapshot(SnapshotSession(backend, session), self._freq)
                try:
                    yield view
                finally:
                    view._end(SNAPSHOT_ENDED)  # noqa: SLF001 - what begins it ends it
        finally:
            close_scope(scope)

    # -- values to bytes ----------------------------------------------------------------------------------------------

    def _dump(self, value: Any) -> bytes | str:
        """Return the bytes or the str that `value` is stored as; override together with `_load`."""
        return self._serializer.dumps(value)

    def _load(self, data: Any) -> Any:
        """Return the value that `_dump` made `data` of."""
        return self._serializer.loads(data)

    def _upcast(self, item: str, value: Any, version: int) -> Any:
        """Return the value of an item of an event sequence, which was set under an older schema version, as it is now.

        Override it together with `_schema_version`, the version that changes are recorded under from then on: a number
        from 0, the default, to 65,535, which the store takes when it is opened. Every value that an older `setitem`
        has set passes through it as it is read, before later operators apply to it. Nothing stored is rewritten. It
        computes from its arguments alone, and answers alike for as long as the version stays the same.

        >>> class Settings(Store):
        ...     _schema_version = 1
        ...     def _upcast(self, item, value, version):
        ...         return value.split(',') if item == 'tags' and version < 1 else value
        >>> with Store('settings.db', frozen=False) as store:
        ...     store.apply('page', {'tags': 'red,green'})
        {'tags': 'red,green'}
        >>> with Settings('settings.db') as settings:
        ...     settings.current('page')
        {'tags': ['red', 'green']}
        """
        del item, version
        return value

    def _codec(self) -> Codec:
        kind, custom, upcast = type(self), None, None
        if kind._dump is not Store._dump or kind._load is not Store._load:  # noqa: SLF001 - of its own class
            custom = self._dump, self._load
        if kind._upcast is not Store._upcast:  # noqa: SLF001
            upcast = self._upcast
        version = check_schema_version(self._schema_version)
        return Codec(self._serializer, custom, compresses=self._compress, schema_version=version, upcast=upcast)

    # -- the object itself --------------------------------------------------------------------------------------------

    def __repr__(self) -> str:
        state = ("frozen" if self._frozen else "writable") + ", " + ("open" if self._depth else "closed")
        sealed = ", encrypted" if self._keys else ""
        return f"<{type(self).__name__} {show_dsn(self._dsn)!r} namespace={self._namespace!r}{sealed}, {state}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Store cannot be pickled or copied: make one of its own where it is needed")


def _name_verbs() -> None:
    """Let the errors of Python, of an argument that a verb does not take, name the store and not a part of it."""
    for kind in Store.__mro__[1:]:
        for name, verb in vars(kind).items() if kind.__module__.startswith("rstore.") else ():
            if isfunction(verb) and not name.startswith("_"):
                for one in (verb, unwrap(verb)):
                    one.__qualname__, one.__module__ = f"{Store.__name__}.{name}", __name__


_name_verbs()
# The thread that was opening or closing a store at the moment of the fork is not there to let go of its lock.
_stores: WeakSet[Store] = renewed_in_child(lambda store: setattr(store, "_lock", RLock()))


def _is_begun_later(fn: object) -> bool:
    return isgeneratorfunction(fn) or iscoroutinefunction(fn) or isasyncgenfunction(fn)


def _check_flag(flag: Any, name: str) -> bool:
    # Not `bool(flag)`: frozen=None would make a store writable, and allow_plaintext='no' would allow it.
    if not isinstance(flag, bool):
        raise InvalidTypeError(f"{name} is True or False, not {type(flag).__name__}")
    return flag
