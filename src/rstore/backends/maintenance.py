"""The part of the contract that is about a store as a whole: namespaces, statistics, durability and soundness.

Nouns: *stats* (counts and bytes), *durability* (what a call that has returned survives) and a *finding* (one thing
that is wrong).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final, NamedTuple, Protocol, Self

from rstore.backends.types import Log, Model
from rstore.errors import StoreError, StoreNotAvailableError

RECORDS: Final = 0
"""Stands for key/value records where models have numbers."""


@dataclass(frozen=True, slots=True)
class Stats:
    """The size of a namespace; bytes are those of the values as they are stored, compressed and encrypted."""

    keys: int
    """Key/value pairs that have not expired."""
    values_bytes: int
    series: int
    points: int
    """A point that was written again counts twice until it is merged, which `compact` does at once."""
    series_bytes: int
    sequences: int
    changes: int
    """Calls of `apply`, each with one event or several."""
    events_bytes: int
    """With the states that are kept so that reading is fast."""
    counters: Mapping[str, int] = field(default_factory=dict[str, int], compare=False)
    """Events behind the calls of this store object since it was made, by name: `'retries'`, `'failovers'` …"""


class Durability(NamedTuple):
    """Which accidents a returned call survives; None where the store cannot know it."""

    survives_crash: bool | None
    """… when the process that holds the data crashes: this one, or the server."""
    survives_power_cut: bool | None
    """… when the power of its machine is cut."""
    stays_intact: bool | None
    """A power cut damages nothing: what is left is as it was at some moment."""
    copied: bool | None
    """Another server has confirmed it before the call returns."""
    meaning: str
    """The same in a sentence."""
    settings: dict[str, str]
    """The settings that it was read from."""


class Finding(NamedTuple):
    """One thing that is wrong with a store."""

    model: str
    """`'values'`, `'series'`, `'events'`, or `'store'` for a problem of none of them."""
    key: str | None
    problem: str


MODELS: Final[Mapping[int, str]] = {RECORDS: "values", Model.SERIES: "series", Model.EVENTS: "events"}
"""The names of the models in findings."""


class BackendMaintenance(ABC):
    """The calls about a store as a whole. All but `reclaim` need no more than the right to read."""

    @abstractmethod
    def namespaces(self) -> list[str]:
        """Return the names of all namespaces of the store, in order."""

    @abstractmethod
    def ping(self) -> None:
        """Come back when every server that holds the namespace has answered.

        Raises `StoreNotAvailableError` if one cannot be reached, or does not answer in time.
        """

    @abstractmethod
    def stats(self) -> Stats:
        """Return the size of the namespace. Chunks are counted by their `n`, and nothing is decoded."""

    @abstractmethod
    def durability(self) -> Durability:
        """Return the present promise of the backend, asked of the server or the file that keeps it."""

    around_damage = False
    """Whether `scan` and `logs` skip entries whose name is damaged or missing, so that `check` goes on behind them."""

    def reading_around_damage(self) -> Self:
        """Return this backend as `check` reads it. `findings` tells what is left out."""
        other = object.__new__(type(self))  # not copy(): it imports, which the end of the interpreter forbids
        vars(other).update(vars(self))
        other.around_damage = True
        return other

    @abstractmethod
    def findings(self) -> Iterator[Finding]:
        """Yield the contradictions below the contract, such as rows without a log, or indexes that miss an entry.

        The layer above looks at all that can be seen through the other calls.
        """

    def save(self, path: str) -> bool:
        """Write all that the store holds, at one moment, into the empty SQLite file at `path`.

        False, and nothing is done, where the backend has no way of its own: the layer above then copies what it reads.

        Raises `NotSupportedError` where there is no moment to copy.
        """
        return False

    def erase(self, logs: Sequence[Log]) -> None:  # noqa: B027 - a backend may have nothing to do
        """Remove what logs that were dropped, or parts of them, have left behind, as far as the backend can reach it.

        Raises `StoreBusyError` if others are in the way longer than the time-out; it may be called again.
        """

    @abstractmethod
    def reclaim(self) -> int | None:
        """Give back the space that is not used any more; return how many bytes, None if that cannot be told.

        Raises `StoreBusyError` if others are in the way longer than the time-out; nothing is lost then.
        """


_MAX_NAMES: Final = 10


class Named(Protocol):
    """An object that lists the namespaces of a store."""

    def namespaces(self) -> list[str]: ...


def no_namespace(backend: Named, namespace: str, where: str) -> StoreNotAvailableError:
    """Return the error for a missing namespace; it names those that exist."""
    message = f"there is no namespace {namespace!r} {where}"
    with suppress(StoreError):  # damage to other namespaces is not the subject of this error
        names = backend.namespaces()
        shown = ", ".join(map(repr, names[:_MAX_NAMES])) + (", …" if len(names) > _MAX_NAMES else "")
        message += f"; there {'is' if len(names) == 1 else 'are'} {shown}" if names else "; there is none at all"
    return StoreNotAvailableError(message)


def stats_of(totals: Iterable[tuple[int, int, int, int]]) -> Stats:
    """Return stats made of (model, how many, how many rows in them, bytes), of which there may be several a model."""
    sums = {model: [0, 0, 0] for model in MODELS}
    for model, *numbers in totals:
        if model in sums:
            sums[model] = [have + more for have, more in zip(sums[model], numbers, strict=True)]
    keys, _, values_bytes = sums[RECORDS]
    series, points, series_bytes = sums[Model.SERIES]
    sequences, changes, events_bytes = sums[Model.EVENTS]
    return Stats(keys, values_bytes, series, points, series_bytes, sequences, changes, events_bytes)
