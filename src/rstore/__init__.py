"""Key/value pairs, time series and event sequences in one store, encrypted by adding one argument."""

from rstore.backends.maintenance import Durability, Finding, Stats
from rstore.codec.data_pickle import DataPickle
from rstore.codec.keys import Passphrase, generate_key
from rstore.errors import (
    ChangeRefusedError,
    ConflictError,
    CorruptionError,
    EncryptionError,
    FrozenStoreError,
    HorizonError,
    InvalidArgumentError,
    InvalidTypeError,
    InvalidValueError,
    KeyRequiredError,
    NewerSchemaError,
    NotSupportedError,
    OutcomeUnknownError,
    PlaintextError,
    SerializationError,
    StoreBusyError,
    StoreClosedError,
    StoreError,
    StoreFullError,
    StoreIntegrityError,
    StoreNotAvailableError,
    TamperedError,
    UnencryptedWarning,
    UnsafeValueError,
    WrongKeyError,
)
from rstore.events.change import ABSENT, Change, Event
from rstore.events.following import Follow, Followed
from rstore.keyvalue.record_store import Entry
from rstore.keyvalue.watching import Watch, Watched
from rstore.maintenance.verbs import Reclaimed
from rstore.series.points import Compaction, Span
from rstore.store import Store
from rstore.transactions import Snapshot, Transaction

__all__ = [
    "ABSENT",
    "Change",
    "ChangeRefusedError",
    "Compaction",
    "ConflictError",
    "CorruptionError",
    "DataPickle",
    "Durability",
    "EncryptionError",
    "Entry",
    "Event",
    "Finding",
    "Follow",
    "Followed",
    "FrozenStoreError",
    "HorizonError",
    "InvalidArgumentError",
    "InvalidTypeError",
    "InvalidValueError",
    "KeyRequiredError",
    "NewerSchemaError",
    "NotSupportedError",
    "OutcomeUnknownError",
    "Passphrase",
    "PlaintextError",
    "Reclaimed",
    "SerializationError",
    "Snapshot",
    "Span",
    "Stats",
    "Store",
    "StoreBusyError",
    "StoreClosedError",
    "StoreError",
    "StoreFullError",
    "StoreIntegrityError",
    "StoreNotAvailableError",
    "TamperedError",
    "Transaction",
    "UnencryptedWarning",
    "UnsafeValueError",
    "Watch",
    "Watched",
    "WrongKeyError",
    "generate_key",
]
__version__ = "0.2.0"  # written here alone: pyproject.toml reads it
