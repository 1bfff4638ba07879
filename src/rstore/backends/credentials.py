"""Credentials that a function returns, such as tokens that rotate: it is called for each new connection."""

from __future__ import annotations

from collections.abc import Callable
from inspect import isasyncgenfunction, iscoroutinefunction, isgeneratorfunction
from typing import Any, Final, NamedTuple, TypeAlias, cast

from rstore.errors import InvalidTypeError, InvalidValueError, StoreNotAvailableError

Credentials: TypeAlias = "Callable[[], str | tuple[str, str]]"
"""Returns a password, or (user, password)."""


class Login(NamedTuple):
    """A user, None for the one that the dsn names, and a password."""

    user: str | None
    password: str

    def __repr__(self) -> str:
        return "Login(…)"  # without the password, which a program that shows variables would print


def check_credentials(credentials: Any) -> Credentials | None:
    """Return `credentials` if it is a function without arguments, or None."""
    if credentials is None:
        return None
    if not callable(credentials):  # a password itself may be here: only its type is told
        raise InvalidTypeError(
            "credentials is a function that returns a password, or (user, password), not of type "
            f"{type(credentials).__name__}; a fixed password belongs into the dsn"
        )
    call = getattr(credentials, "__call__", None)  # noqa: B004 - what is asynchronous in it
    if any(is_begun_later(one) for one in (credentials, call) for is_begun_later in _BEGUN_LATER):
        raise InvalidTypeError(
            "credentials is a function that returns its result, not a generator or coroutine function"
        )
    return cast("Credentials", credentials)  # each result is checked when it is returned


_BEGUN_LATER: Final = (isgeneratorfunction, iscoroutinefunction, isasyncgenfunction)


def ask_for_login(credentials: Credentials, place: str) -> Login:
    """Return the login of a new connection.

    Raises `StoreNotAvailableError`, chained from its cause, if the function raises, and `InvalidArgumentError` if it
    returns anything else. Neither a message nor a variable of a frame in the traceback shows the returned password.
    """
    try:
        given = credentials()
    except Exception as error:
        raise StoreNotAvailableError(
            f"{place}: credentials() raised {type(error).__name__}, see its cause; no connection was opened"
        ) from error
    login = _login(given)
    del given
    if isinstance(login, Login):
        return login
    kind, why = login
    raise kind(f"{place}: credentials() returns a password, or (user, password), not {why}")


def _login(given: Any) -> Login | tuple[type[InvalidTypeError | InvalidValueError], str]:
    pair = given if isinstance(given, tuple) else (None, given)
    if len(pair) != 2:
        return InvalidValueError, f"a tuple of {len(pair)}"
    if not all(isinstance(one, str) or (one is None and i == 0) for i, one in enumerate(pair)):
        inner = ", ".join(type(one).__name__ for one in pair)
        return InvalidTypeError, f"a tuple of {inner}" if isinstance(given, tuple) else type(given).__name__
    if any(one == "" for one in pair):
        return InvalidValueError, "an empty str"
    if any("\0" in one or not is_utf8(one) for one in pair if one is not None):
        return InvalidValueError, "a str with a NUL character or a lone surrogate"
    return Login(*pair)


def is_utf8(text: str) -> bool:
    """Return whether a str can be sent: it holds no lone surrogate."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
