"""Refusals of a Redis server, and what becomes of each: a signal, another try, or an error of this library.

Nouns: a *code* (the word that begins an error reply) and a *signal* (an error reply of our own scripts).
"""

from __future__ import annotations

import re
from typing import Final

from redis import exceptions as driver

from rstore.errors import (
    CorruptionError,
    NotSupportedError,
    OutcomeUnknownError,
    StoreBusyError,
    StoreError,
    StoreFullError,
    StoreNotAvailableError,
)

_CODE: Final = re.compile(r"-?([A-Z]{3,})\b")
# Redis 6.2 wraps the error of a command in a script: "ERR Error running script (call to f_…): @user_script:5: OOM …",
# and its message may begin with a "-".
_WRAPPED: Final = re.compile(r"@user_script: ?\d+: (?:@user_script: ?\d+: )?-?([A-Z]{3,})\b")
_NOT_LOCAL: Final = "attempted to access a non local key"
_NOT_AUTHENTICATED: Final = "unauthenticated"  # of more than ten arguments; it does not read on to say NOAUTH
_OF_DAMAGED_DATA: Final = ("data string too short", "attempt to ")
"""Words of Lua's errors about data of another kind than a script expects."""
_NOT_ALLOWED: Final = ("user executing the script can't", "can't access at least one of the keys")
_REPEATED: Final = re.compile(
    r"Error running script \(call to f_[0-9a-f]{40}\): |@user_script: ?\d+:"
    r"|,? with args beginning with.*|,? ?script: [0-9a-f]{40}.*",
    re.DOTALL,
)
_MAX_WORDS: Final = 300
_UNKNOWN_COMMAND: Final = ("unknown command", "unknown redis command", "unknown subcommand")
_TOO_MANY: Final = "max number of clients reached"
_CODES: Final[dict[type[Exception], str]] = {
    driver.AskError: "ASK",
    driver.AuthenticationError: "NOAUTH",
    driver.BusyLoadingError: "LOADING",
    driver.ClusterDownError: "CLUSTERDOWN",
    driver.MasterDownError: "MASTERDOWN",
    driver.MovedError: "MOVED",
    driver.NoPermissionError: "NOPERM",
    driver.NoScriptError: "NOSCRIPT",
    driver.OutOfMemoryError: "OOM",
    driver.ReadOnlyError: "READONLY",
    driver.TryAgainError: "TRYAGAIN",
}

SIGNALS: Final = frozenset({"STALE", "LEASED", "UNSTAGED", "CHANGED", "DAMAGED"})
"""Answers of our scripts where nothing was done."""

REDIRECTED: Final = frozenset({"MOVED", "ASK"})
PASSING: Final = frozenset({"TRYAGAIN", "LOADING", "CLUSTERDOWN", "MASTERDOWN", "BUSY", "NOSCRIPT"})
"""States that pass: nothing was done, the call is sent again until the time is up."""


class LostReplyError(Exception):
    """The connection was lost after a call was sent that cannot be sent twice."""


class TooFewReplicasError(OutcomeUnknownError):
    """A write that its master has done, and of which it is not known that enough replicas have it."""

    def __init__(self, what: str, replicas: int, reached: int | Exception) -> None:
        self.why = f"fewer than {replicas} replicas confirmed it in time"
        if isinstance(reached, Exception):
            self.why = f"the server refuses to wait until replicas have it: {words_of(reached)}"
        super().__init__(f"{what} was applied, but {self.why}")


NOTHING: Final = "; nothing was applied"
"""How a message ends that speaks of a whole call."""


def reason_of(error: BaseException) -> str:
    """Return why something failed, without a word on what that means for a call of which it is only a part."""
    return str(error).removesuffix(NOTHING)


class Signal(Exception):  # noqa: N818 - an answer, not an error
    """A script answered that it did nothing, and why."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


def code_of(error: Exception) -> str:
    """Return the code of an error reply; the message never decides alone where there is a class."""
    if type(error) in _CODES:
        return _CODES[type(error)]
    message = str(error)
    if _NOT_LOCAL in message:
        return "TRYAGAIN"  # a script met a key that has already moved: half of the slot is elsewhere
    if _NOT_AUTHENTICATED in message:
        return "NOAUTH"
    if any(words in message for words in _NOT_ALLOWED):
        return "NOPERM"
    found = _WRAPPED.search(message) or _CODE.match(message)
    return found[1] if found else "ERR"


def is_refused(error: Exception) -> bool:
    """Return whether a server answered that it does not want to be talked to, which no waiting changes."""
    refused = isinstance(error, driver.AuthenticationError | driver.ResponseError)
    return refused and not isinstance(error, driver.ClusterDownError | driver.BusyLoadingError)


def is_mute(error: Exception) -> bool:
    """Return whether a server was reached, and said nothing that could be read."""
    cause = error.__cause__ if isinstance(error, StoreError) else error
    if isinstance(cause, driver.ResponseError | driver.AuthenticationError | driver.BusyLoadingError | None):
        return False
    return not isinstance(cause.__cause__ or cause.__context__, ConnectionRefusedError)


def words_of(error: Exception) -> str:
    """Return the words of a server in one line, without parts of a command that it repeats: they may hold a value."""
    words = " ".join(_REPEATED.sub("", str(error)).split())
    return f"{words[:_MAX_WORDS]}…" if len(words) > _MAX_WORDS else words


def refusal(error: Exception, where: str, command: str = "") -> StoreError:
    """Return the error that an error reply to a command becomes. Nothing was applied."""
    code, message, words = code_of(error), str(error), words_of(error)
    by = f" to {command}" if command else ""
    if code == "OOM":
        return StoreFullError(f"the Redis server {where} has reached its maxmemory{NOTHING}")
    if code == "MISCONF":
        full = "space" in message.lower()
        says = (
            f"the Redis server {where} cannot write to its disk, and refuses every write, deletions too: {words} - "
            f"{'make room there' if full else 'mend its directory'}, or let it go on without saving "
            f"(CONFIG SET stop-writes-on-bgsave-error no){NOTHING}"
        )
        return StoreFullError(says) if full else StoreNotAvailableError(says)
    if code in ("NOAUTH", "WRONGPASS"):
        return StoreNotAvailableError(f"the Redis server {where} refuses the user or the password: {words}")
    if code == "NOPERM":
        return StoreNotAvailableError(
            f"the user may not do this on the Redis server {where}, see its ACL: {words}{by and f', in answer{by}'}"
        )
    if code == "READONLY":
        return StoreNotAvailableError(f"the Redis server {where} is a replica, which cannot be written to")
    if code == "NOREPLICAS":
        return StoreNotAvailableError(
            f"the Redis server {where} has too few replicas (min-replicas-to-write) and refuses to write"
        )
    if code == "LOADING":
        return StoreNotAvailableError(f"the Redis server {where} is still loading its data")
    if code in ("CLUSTERDOWN", "MASTERDOWN", "MOVED"):
        return StoreNotAvailableError(f"the Redis Cluster {where} does not serve all slots: {code} {words}".rstrip())
    if code in ("TRYAGAIN", "ASK", "BUSY"):
        why = "a script is running" if code == "BUSY" else "a slot is moving"
        return StoreBusyError(f"the Redis server {where} is busy, {why}{NOTHING}")
    if code == "WRONGTYPE":
        return CorruptionError(f"a key of another kind is in the way on the Redis server {where}")
    if code == "ERR" and any(said in message for said in _OF_DAMAGED_DATA):
        return CorruptionError(f"what a script reads on the Redis server {where} is damaged")
    if "DB index is out of range" in message:
        return StoreNotAvailableError(
            f"the Redis server {where} has no database of the number that the DSN names: {words} (see its `databases`)"
        )
    if any(said in message.lower() for said in _UNKNOWN_COMMAND):
        return NotSupportedError(
            f"the Redis server {where} lacks a command that is needed, or has another name for it: {words}"
            f"{by and f', in answer{by}'}"
        )
    return StoreNotAvailableError(f"the Redis server {where} answered{by} with an error: {words}")


def unreachable(error: Exception, where: str) -> StoreError:
    """Return the error that a failed connection becomes. Nothing was sent."""
    if isinstance(error, driver.AuthenticationError | driver.BusyLoadingError | driver.ResponseError):
        return refusal(error, where)
    if _TOO_MANY in str(error):
        return StoreNotAvailableError(f"the Redis server {where} takes no more connections (maxclients): {_TOO_MANY}")
    return StoreNotAvailableError(
        f"the Redis server {where} cannot be reached: {_reason(error)}; is it running, and is this its address?"
    )


def _reason(error: Exception) -> str:
    """Return why a connection failed, as the operating system says it: the driver may tell more than it should."""
    if isinstance(error, driver.TimeoutError | TimeoutError):
        return "no answer in time"
    # No further than one step, and only into what the driver's own connection raised: behind that there is what the
    # program was in the middle of handling.
    cause = error if isinstance(error, OSError) else error.__cause__ or error.__context__
    if isinstance(cause, OSError) and cause.strerror and (cause is error or _is_of_driver(cause)):
        return cause.strerror
    if isinstance(error, driver.InvalidResponse):
        return "it answers in another protocol than that of Redis"
    return "the connection was closed" if type(error) is driver.ConnectionError else type(error).__name__


def _is_of_driver(error: BaseException) -> bool:
    trace = error.__traceback__
    return trace is not None and trace.tb_frame.f_globals.get("__name__", "").startswith("redis.")
