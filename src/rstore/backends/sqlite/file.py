"""A SQLite file and the connections to it: one a thread, none across a fork, none to a file that is gone.

Nouns: a *file* (all links of one open store).
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from functools import partial
from math import inf
from threading import get_ident, local
from typing import Final, TypeVar
from weakref import WeakSet

import apsw

from rstore.backends.sqlite.doubt import dispel, distrust
from rstore.backends.sqlite.errors import CommitInDoubtError, is_failed_sync, is_failed_write, translated
from rstore.backends.sqlite.format import add_triggers, check_schema
from rstore.backends.sqlite.link import LOOK_EVERY_S, Link, gate, in_transaction, lost_places, transaction
from rstore.backends.sqlite.opening import connect_frozen, connect_phantom, connect_writable
from rstore.backends.sqlite.pinned import Pinned
from rstore.backends.sqlite.place import Identity, is_there, unreachable
from rstore.backends.sqlite.removing import remove_if_unused
from rstore.backends.sqlite.replaced import are_others, leave, leave_others
from rstore.backends.sqlite.turns import Turn, set_patience, take_turn
from rstore.backends.telemetry import Occurrence
from rstore.backends.types import Options
from rstore.errors import (
    ConflictError,
    OutcomeUnknownError,
    StoreBusyError,
    StoreClosedError,
    StoreError,
    StoreFullError,
    StoreNotAvailableError,
)

T = TypeVar("T")

_log: Final = logging.getLogger("rstore.sqlite")
_FIRST_SAFE_SQLITE: Final = 3_051_003  # before it, a checkpoint that races with a WAL reset can corrupt the file
_MAX_SPARE: Final = 2
_FAILURES: Final = (apsw.Error, UnicodeDecodeError)
"""The errors of a statement; the second where a text in the file is no UTF-8."""
_OF_MIXED_FILES: Final = (apsw.CorruptError, apsw.NotADBError)
_OF_THE_SYSTEM: Final = (apsw.IOError, apsw.CantOpenError, apsw.ReadOnlyError)


class _Local(local):
    """What belongs to one thread; its connection is closed when the thread ends."""

    def __init__(self, path: str, links: WeakSet[Link]) -> None:
        self.link = Link(path)
        with gate:
            links.add(self.link)


class SqliteFile:
    """The connections of one open store to its file."""

    def __init__(self, path: str, options: Options) -> None:
        if apsw.SQLITE_VERSION_NUMBER < _FIRST_SAFE_SQLITE:
            raise StoreNotAvailableError(
                f"SQLite {apsw.sqlite_lib_version()} can corrupt files in WAL mode: pip install --upgrade apsw"
            )
        self.path = path
        self._options = options
        self._links: WeakSet[Link] = WeakSet()
        self._spare: list[Link] = []  # of those who read from one moment, for the next one
        self.local = _Local(path, self._links)
        self._closed = False

    def open(self) -> None:
        """Open the file in this thread, creating it if it is not frozen.

        Raises `StoreNotAvailableError` if it cannot be opened or is no store, and `CorruptionError` if it is damaged.
        """
        self._closed = False
        link = self.local.link
        with link.lock:
            self._connect(link, writing=not self._options.frozen)

    def close(self) -> None:
        """Close the connections of all threads, each as soon as its thread is not using it."""
        self._closed = True
        with gate:
            links = list(self._links)
        for link in links:
            while not link.lock.acquire(timeout=0.05):
                pass  # it may be another one by now
            try:
                link.close()
            finally:
                link.lock.release()

    # -- using it -----------------------------------------------------------------------------------------------------

    def read(self, work: Callable[[apsw.Connection], T]) -> T:
        """Return what `work` reads from a connection."""
        link, turn = self.local.link, None
        while True:
            waits = None
            with link.lock:
                connection = self._look(link)
                if connection is not None:
                    try:
                        result = work(connection)
                    except _FAILURES as error:
                        if link.connection is not connection:
                            continue  # a signal handler has closed it meanwhile
                        if in_transaction(connection) or not link.is_stale():
                            waits = turn = self._turn(error, connection, turn, link)
                    else:
                        if link.stamp is None or not link.is_stale():
                            return result
            if waits is None:
                self._leave()  # whatever went wrong with a file that bears the name no more
            else:
                waits.wait()

    def delete(self, work: Callable[[apsw.Connection], T]) -> T:
        """Do the same as `write` for what only takes away: a file that is not there is not made for it."""
        return self.write(work, create=False)

    def write(self, work: Callable[[apsw.Connection], T], *, create: bool = True, arm: bool = True) -> T:
        """Return what `work` did, in one transaction, to the file that bears the name now.

        The look comes after the commit and not before: a connection that was used keeps others from removing the
        file, so that a file that is still there after a commit stays.

        `arm`: whether it may remove or replace records.
        """
        link, suspicious, turn = self.local.link, True, None
        while True:
            waits, failed = None, None
            done: list[T] = []
            with link.lock:
                connection = link.connection
                if connection is None or link.phantom or link.bound is not None:
                    connection = self.connection(link, create=create)
                try:
                    if arm and not link.armed:
                        add_triggers(link, connection)
                    result = work(connection)
                except _FAILURES as error:
                    if link.connection is not connection:
                        continue  # a signal handler has closed it meanwhile, and nothing was done
                    link.forget_undone()
                    # The first time it may be damage of two files whose logs were mixed up by their name, or a
                    # connection that can only read, for want of descriptors: connected anew, what is damaged is damaged
                    # still. Whatever had begun was rolled back.
                    again = suspicious and _may_pass(error)
                    suspicious = suspicious and not again
                    if is_failed_sync(error) or isinstance(error, CommitInDoubtError):
                        failed = error
                    elif in_transaction(connection) or not (again or link.moved()):
                        waits = turn = self._turn(error, connection, turn, link)
                else:
                    if link.bound is not None or link.is_in_place(connection):
                        return result
                    done = [result]
            if failed is not None:
                raise self.distrusted(failed) from failed
            if waits is not None:
                waits.wait()
            elif not done:
                self._leave()  # whatever went wrong with a file that bears the name no more
            elif self.settle():
                return done[0]

    def settle(self) -> bool:
        """Return whether what this thread has committed just now stays, where something was not seen in its place.

        False: the file bears the name no more, and what was done has to be done to the one that does. Raises
        `OutcomeUnknownError` where it cannot be told.
        """
        link = self.local.link
        try:
            with link.lock:
                moved = link.moved()
                lost = not moved and link.has_lost_log()
            if lost:
                self._leave()  # moves it into the file
        except StoreError as error:
            raise OutcomeUnknownError(f"the call was applied, and then: {error}; read, before you repeat it") from error
        if moved:
            self._leave()
        return not moved

    def distrusted(self, error: apsw.Error | UnicodeDecodeError) -> StoreError:
        """Return the error of rstore for one of the disk, after closing all connections to the file."""
        self._options.telemetry.note(
            _log,
            Occurrence.LOST_REPLY,
            "%s: a commit failed, and may be done",
            self.path,
        )
        distrust(self.path)
        return self.translated(error)

    def _turn(
        self,
        error: apsw.Error | UnicodeDecodeError,
        connection: apsw.Connection,
        turn: Turn | None,
        link: Link | None = None,
    ) -> Turn:
        """Return how to wait for those who have the file locked; raise whatever else an error says."""
        if isinstance(error, apsw.BusyError) and not in_transaction(connection):
            if turn is None:
                self._options.telemetry.note(_log, Occurrence.WAIT, "%s: a call waits for other writers", self.path)
            turn = turn or self.new_turn()
            if not turn.is_over:
                return turn
        if link is not None and link.bound is None and isinstance(error, _OF_THE_SYSTEM):
            link.close()  # for want of descriptors it may not be able to write, and would stay so
        raise self.translated(error) from error

    @contextmanager
    def transaction(self, *, create: bool = True) -> Generator[None, None, None]:
        """Make whatever this thread reads and writes inside one transaction, or one step of the one that is open."""
        link = self.local.link
        with link.lock:
            outermost = link.bound is None
            held = link.connection if outermost and not link.phantom else None
            moved = held is not None and not link.is_in_place(held) and (link.moved() or link.has_lost_log())
        if moved:  # nobody can do it again but who asked for it, so it should not begin on a file that is gone
            self._leave()
        stays, failed, strayed = False, None, False
        with link.held():
            connection = self.connection(link, create=create)
            # What was interrupted at its beginning may be closed by the garbage collector only, inside of another one.
            mine = link.begun = link.begun + outermost

            def alive() -> bool:
                return link.connection is connection and link.begun == mine

            try:
                add_triggers(link, connection)  # outside of the transaction, with which they would be rolled back
                begin = partial(take_turn, turn=self.new_turn())
                with transaction(connection, begin=begin, alive=alive):
                    link.bound = connection
                    yield
                    self._check_bound(link)
                    if link.moved():
                        raise StoreNotAvailableError(f"{self.path!r} was replaced meanwhile; nothing was applied")
                stays = True
                strayed = outermost and not link.is_in_place(connection)
            except (CommitInDoubtError, apsw.ReadOnlyError) as error:
                failed = error
            except apsw.Error as error:
                raise self.translated(error) from error
            finally:
                if not stays:
                    # If the namespace was made inside, it is gone, and the next one that is made is given its number.
                    link.forget()
                if outermost and link.begun == mine:
                    link.bound = None
        if isinstance(failed, CommitInDoubtError):
            raise self.distrusted(failed) from failed
        if failed is not None:
            self._leave()  # for want of descriptors it can only read, and would stay so
            raise self.translated(failed) from failed
        if strayed and not self.settle():
            raise OutcomeUnknownError(f"{self.path!r} was replaced while a transaction was committed; read it again")

    def _check_bound(self, link: Link) -> None:
        """Refuse to go on where the transaction of a link is not there any more."""
        if link.bound is None:
            return
        if link.connection is link.bound:
            if link.bound.get_autocommit():  # or what follows would be done at once, without what was before it
                raise StoreFullError(
                    f"{self.path!r}: the disk or the memory was full, and the whole transaction was rolled back; "
                    "nothing was applied"
                )
            return
        if self._closed:
            raise StoreClosedError("the store was closed inside a transaction; nothing was applied")
        self._check_place()
        raise ConflictError(f"the transaction on {self.path!r} was rolled back; nothing was applied")

    def _check_place(self) -> None:
        if lost_places and os.path.realpath(self.path) in lost_places:
            raise StoreNotAvailableError(
                f"{self.path!r} cannot be used in this process: it was forked inside a transaction, which is its "
                "parent's; fork outside of transactions, or start processes by 'spawn'"
            )

    def connection(self, link: Link, *, create: bool = True) -> apsw.Connection:
        """Return the link's connection for writing, to whoever holds its lock."""
        self._check_bound(link)
        if link.connection is None or (link.phantom and (create or is_there(self.path))):
            return self._connect(link, writing=create)
        return link.connection

    @contextmanager
    def pinned(self) -> Generator[Pinned, None, None]:
        """Keep what the file holds now, for reading on a connection of its own while this thread's one goes on.

        The log cannot be moved into the file beyond this moment until it ends.
        """
        link = self._take_spare()
        try:
            with self._pinned(link) as pinned:
                yield pinned
        finally:
            self._give_back(link)

    @contextmanager
    def moment(self) -> Generator[Pinned, None, None]:
        """Do the same with this thread's connection, which has read much of the file already; it gets another one."""
        mine = self.local.link
        if mine.connection is None or mine.phantom or mine.bound is not None:
            with self.pinned() as pinned:
                yield pinned
            return
        here = self.local.__dict__  # of this thread, wherever it ends
        here["link"] = self._take_spare()
        try:
            with self._pinned(mine) as pinned:
                yield pinned
        finally:
            here["link"], spare = mine, here["link"]
            self._give_back(spare)

    def _take_spare(self) -> Link:
        try:
            return self._spare.pop()
        except IndexError:
            return self.new_link()

    def _give_back(self, link: Link) -> None:
        if len(self._spare) < _MAX_SPARE:
            self._spare.append(link)
        else:
            with link.lock:
                link.close()

    @contextmanager
    def _pinned(self, link: Link) -> Generator[Pinned, None, None]:
        try:
            connection = self._begin(link)
            look_at = link.look_at
            # The moment stays, whatever becomes of the file, unless it is read without locks.
            link.look_at, link.owner = (inf, get_ident()) if link.stamp is None else (0.0, 0)
            try:
                yield Pinned(link, connection, self.translated)
            finally:
                link.look_at, link.owner = look_at, 0
        finally:
            with link.lock:
                if link.connection is not None and link.connection.in_transaction:
                    link.connection.execute("ROLLBACK")

    def _begin(self, link: Link) -> apsw.Connection:
        turn = None
        while True:
            waits = None
            with link.lock:
                connection = self._look(link)
                if connection is not None:
                    try:
                        connection.execute("BEGIN; SELECT 1 FROM namespaces LIMIT 1").fetchall()  # which takes the lock
                    except apsw.Error as error:
                        if in_transaction(connection):
                            connection.execute("ROLLBACK")
                        if not link.moved():
                            waits = turn = self._turn(error, connection, turn)
                    else:
                        return connection
                if waits is None:
                    link.close()
            if waits is not None:
                waits.wait()

    def _look(self, link: Link) -> apsw.Connection | None:
        """Return the link's connection for reading, or None if it is seen now that the file is another one."""
        self._check_bound(link)
        connection = link.connection
        if connection is None:
            return self._connect(link, writing=False)
        if time.monotonic() < link.look_at or connection.in_transaction:
            return connection
        if link.is_stale():
            return None
        if link.look_at:
            link.look_at = time.monotonic() + LOOK_EVERY_S
            self._look_at_schema(link, connection)
        return connection

    def _look_at_schema(self, link: Link, connection: apsw.Connection) -> None:
        try:
            with suppress(apsw.BusyError):  # then at the next look
                check_schema(link, connection)
        except _FAILURES as error:
            if link.connection is connection:
                raise self.translated(error) from error

    def version(self, link: Link) -> tuple[apsw.Connection, int]:
        """Return what is another one after every commit of anybody else, and when another file bears the name.

        The link is one that nothing else is done on: the number is of its connection, and leaves out its own commits.
        """
        turn = None
        while True:
            waits = None
            with link.lock:
                connection = link.connection
                if connection is None:
                    connection = self._connect(link, writing=False)
                try:
                    if not link.is_stale():
                        return connection, int(connection.pragma("data_version"))
                except apsw.Error as error:
                    if link.connection is not connection:
                        continue  # a signal handler has closed it meanwhile
                    if not link.is_stale():
                        waits = turn = self._turn(error, connection, turn)
            if waits is None:
                self._leave(link)
            else:
                waits.wait()

    def new_link(self) -> Link:
        """Return another link for this thread or any, which is closed with the store."""
        link = Link(self.path)
        with gate:
            self._links.add(link)
        return link

    def _leave(self, mine: Link | None = None) -> None:
        self._options.telemetry.note(_log, Occurrence.RECONNECTION, "%s: the file is opened anew", self.path)
        leave(self.path, mine or self.local.link, self._options.timeout_s)

    # -- opening ------------------------------------------------------------------------------------------------------

    def _connect(self, link: Link, *, writing: bool) -> apsw.Connection:
        deadline = time.monotonic() + self._options.timeout_s
        while True:
            if self._closed:
                raise StoreClosedError("the store was closed meanwhile")
            self._check_place()
            leave_others(self.path, self._options.timeout_s)
            with gate:  # no connection is opened while a fork is under way, or while the file is being removed
                link.close()
                try:
                    connection = self._try_connect(link, writing=writing)
                    if not self._options.frozen:
                        dispel(link, connection)
                    set_patience(connection, self._options.timeout_s)
                except FileNotFoundError as error:  # somebody removed it since it was found or created: once more
                    link.close()
                    if time.monotonic() > deadline:
                        raise StoreBusyError(f"{self.path!r} was removed again and again") from error
                except apsw.Error as error:
                    gone = not is_there(self.path) or link.moved()
                    link.close()
                    if not (gone or isinstance(error, apsw.BusyError)) or time.monotonic() > deadline:
                        raise self.translated(error) from error
                except OSError as error:
                    link.close()
                    raise unreachable(self.path, error) from error
                except BaseException:
                    link.close()
                    raise
                else:
                    return connection
            time.sleep(0.002)  # outside of the gate: others must not wait for the lock of a file that is not theirs

    def _try_connect(self, link: Link, *, writing: bool) -> apsw.Connection:
        if are_others(self.path):  # it was replaced once more, since these were left
            raise FileNotFoundError(self.path)
        if self._options.frozen:
            return connect_frozen(link)
        if not writing and not is_there(self.path):
            return connect_phantom(link, self._options.durability)
        return connect_writable(link, self._options.durability)

    # -- removing -----------------------------------------------------------------------------------------------------

    def remove_if_unused(self, is_unused: Callable[[apsw.Connection], bool]) -> None:
        """Remove the file if nobody else has it open and nothing is in it; otherwise, and if it cannot be, it stays."""
        with self.local.link.lock:
            opened: Identity | None = self.local.link.opened
        if opened is not None:
            remove_if_unused(self.path, opened, self._links.__contains__, is_unused, self._options.timeout_s)

    def new_turn(self) -> Turn:
        """Return how long a call that begins now may wait for a lock."""
        return Turn(self._options.timeout_s)

    def translated(self, error: apsw.Error | UnicodeDecodeError) -> StoreError:
        """Return the error of rstore for an error of the driver."""
        return translated(error, self.path, self._options.timeout_s)


def _may_pass(error: apsw.Error | UnicodeDecodeError) -> bool:
    if isinstance(error, apsw.IOError):  # many kinds of it while others remove the file; to write again proves nothing
        return not is_failed_write(error)
    return isinstance(error, (*_OF_MIXED_FILES, apsw.ReadOnlyError))
