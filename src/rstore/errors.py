"""Everything that rstore raises, in one tree.

StoreError
├── FrozenStoreError          writing to a read-only store
├── StoreClosedError          used outside `with` or after close
├── StoreNotAvailableError    cannot find, reach or open it
├── StoreBusyError            timed out waiting for a lock; nothing was applied
├── StoreFullError            disk, memory or quota; nothing was applied
├── OutcomeUnknownError       connection lost at commit: all or nothing, unknown which
├── StoreIntegrityError       taken timestamp, refused change
│   ├── ChangeRefusedError    the change cannot be replayed
│   └── HorizonError          asked about a time before the horizon
├── ConflictError             a version check failed
├── CorruptionError           stored bytes are damaged
├── EncryptionError
│   ├── KeyRequiredError      sealed bytes, but the store was opened without a key
│   ├── WrongKeyError         sealed under another key
│   ├── TamperedError         sealed bytes were altered or moved
│   └── PlaintextError        unencrypted bytes where sealed ones are expected
├── SerializationError        a value cannot be dumped or loaded
│   ├── UnsafeValueError      a pickle where pickles are not trusted
│   └── NewerSchemaError      a change that a newer program recorded
├── NotSupportedError         this backend cannot do that
└── InvalidArgumentError      bad key, timestamp, dsn or option
    ├── InvalidTypeError      … of the wrong type (also a TypeError)
    └── InvalidValueError     … of the right type (also a ValueError)

UnencryptedWarning            a RuntimeWarning: writing without a key where values are encrypted

Messages name the namespace and the key, never a value or a secret.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from traceback import clear_frames
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class UnencryptedWarning(RuntimeWarning):
    """A store without a key was opened for writing where others have encrypted values.

    Its values are stored as they are. `allow_plaintext=True` says that this is meant:

    >>> from rstore import Store, generate_key
    >>> with Store('file.db', key=generate_key(), frozen=False) as store:
    ...     store['iban'] = 'DE02 1203 0000 0000 2020 51'
    >>> with Store('file.db', frozen=False, allow_plaintext=True) as store:
    ...     store['visits'] = 1
    """


class StoreError(Exception):
    """The base of everything that rstore raises."""

    def __reduce__(self) -> tuple[Any, ...]:
        # The default calls the class with `args`, which knows nothing of keyword-only arguments.
        return _restore, (type(self), self.args, self.__dict__)


def _restore(kind: type[StoreError], args: tuple[Any, ...], state: dict[str, Any]) -> StoreError:
    error = kind.__new__(kind, *args)
    error.args = args
    error.__dict__.update(state)
    return error


class FrozenStoreError(StoreError):
    """A writing verb was called on a read-only store; open it with ``frozen=False``."""


class StoreClosedError(StoreError):
    """The store was used outside ``with`` or after ``close()``."""


class StoreNotAvailableError(StoreError):
    """The store cannot be found, reached or opened."""


class StoreBusyError(StoreError):
    """Waiting for a lock took longer than ``timeout``; nothing was applied."""


class StoreFullError(StoreError):
    """The disk, the memory or a quota is full; nothing was applied."""


class OutcomeUnknownError(StoreError):
    """The connection was lost at commit: all of the call was applied or none, and it is unknown which.

    Or, on SQLite, the disk failed at the commit. Or it is applied on the server, and the replicas that were to confirm
    it have not: the message says so.
    """


class StoreIntegrityError(StoreError):
    """A change would violate the integrity of an event sequence, or a sequence that is followed was set back."""


class ChangeRefusedError(StoreIntegrityError):
    """A change that could not be replayed was refused, and nothing was recorded; its cause is chained.

    Or one cannot be undone: then `n`, `t`, `item` and `op` are those of the later change that builds upon it.
    """

    def __init__(self, message: str, *, key: str, t: int, item: str, op: Any, n: int | None = None) -> None:
        super().__init__(message)
        self.key = key
        self.t = t
        self.item = item
        self.op = op
        self.n = n


class HorizonError(StoreIntegrityError):
    """The history before the horizon was pruned away, so that a state before it is unknown.

    Of a sequence that was removed while it was followed, the horizon is the end of time, and `key` is empty if its name
    is not known any more.
    """

    def __init__(self, message: str, *, key: str, horizon: int) -> None:
        super().__init__(message)
        self.key = key
        self.horizon = horizon


class ConflictError(StoreError):
    """A concurrent write changed the data first, or an id is that of another change; nothing was applied."""

    def __init__(self, message: str, *, expected: Any = None, actual: Any = None) -> None:
        super().__init__(message)
        self.expected = expected
        self.actual = actual


class CorruptionError(StoreError):
    """Stored bytes are damaged."""


class EncryptionError(StoreError):
    """The base of the errors about encryption keys and encrypted bytes."""


class KeyRequiredError(EncryptionError):
    """The data is encrypted, and the store was opened without a key."""


class WrongKeyError(EncryptionError):
    """The store was not given the key that the namespace, or a value in it, is encrypted under."""


class TamperedError(EncryptionError):
    """Encrypted bytes were altered, or moved from where they were written."""


class PlaintextError(EncryptionError):
    """Unencrypted data in a store that was opened with a key, or the other way round when writing."""


class SerializationError(StoreError):
    """A value cannot be dumped, or its stored bytes cannot be loaded."""


class UnsafeValueError(SerializationError):
    """A pickled record in a store whose serializer is not pickle; it was not loaded."""


class NewerSchemaError(SerializationError):
    """A change was recorded under a newer schema version than this program has; it was not read. Run the newer one."""


class NotSupportedError(StoreError):
    """This backend cannot do that."""


class InvalidArgumentError(StoreError):
    """An argument is of the wrong type or has an impossible value; nothing was done."""


class InvalidTypeError(InvalidArgumentError, TypeError):
    """An argument is of the wrong type."""


class InvalidValueError(InvalidArgumentError, ValueError):
    """An argument is of the right type, and its value is impossible."""


# -- secrets ----------------------------------------------------------------------------------------------------------


def forgetful(function: Callable[P, T]) -> Callable[P, T]:
    """Return a function whose errors carry no variables of the frames that they have left.

    For functions that handle passwords and encryption keys, and for their drivers: programs that show the variables of
    a traceback (pytest -l, Sentry, cgitb, rich) would show these.
    """

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return function(*args, **kwargs)
        except BaseException as error:
            del args, kwargs
            _forget(error)
            raise

    return call


def _forget(error: BaseException) -> None:
    left, seen = [error], set[int]()
    while left:
        one = left.pop()
        if id(one) not in seen:
            seen.add(id(one))
            clear_frames(one.__traceback__)
            left += (other for other in (one.__cause__, one.__context__) if other is not None)
