"""Credentials that a function returns: what is refused before anything is reached, and what is told of it."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rstore import InvalidArgumentError, InvalidTypeError, Store, StoreError, StoreNotAvailableError

SECRET = "hunter2"  # noqa: S105 - of nobody
NOWHERE = "postgresql://ada@127.0.0.1:1/db"


async def later() -> str:
    return SECRET


class Later:
    async def __call__(self) -> str:
        return SECRET


def shown(error: BaseException) -> str:
    """Return all that a program can show of an error: its messages, and the variables of the library's frames."""
    told = traceback.TracebackException.from_exception(error, capture_locals=True)
    ours = [str(frame.locals) for frame in told.stack if "rstore" in frame.filename]
    return "\n".join([*traceback.format_exception(error), *ours])


@pytest.mark.parametrize(
    "credentials", [SECRET, ("ada", SECRET), 5, later, Later()], ids=lambda one: type(one).__name__
)
def test_what_is_no_function_is_refused_at_once(credentials: Any) -> None:
    with pytest.raises(InvalidTypeError, match="credentials is a function") as refused:
        Store(NOWHERE, credentials=credentials)
    assert SECRET not in str(refused.value)


@pytest.mark.parametrize("scheme", ["sqlite", "memory"])
def test_a_store_without_a_server_asks_for_none(scheme: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidArgumentError, match=f"{scheme}://"):
        Store(f"{scheme}://{tmp_path}/x", credentials=lambda: SECRET)


@pytest.mark.parametrize(
    "given",
    [None, 5, SECRET.encode(), "", ("ada", ""), ("", SECRET), ("ada", SECRET, SECRET), (5, SECRET), ("ada", None),
     f"{SECRET}\0", f"{SECRET}\ud800", [SECRET]],
    ids=lambda given: repr(given).replace(SECRET, "x"),
)  # fmt: skip
def test_what_is_no_login_is_refused_and_not_told(given: Any) -> None:
    store = Store(NOWHERE, frozen=False, timeout=1, credentials=lambda: given)
    with pytest.raises(InvalidArgumentError, match="credentials") as refused:
        store.open()
    assert SECRET not in shown(refused.value)


def test_an_error_of_the_function_is_the_cause() -> None:
    def fail() -> str:
        raise LookupError("the vault is sealed")

    with pytest.raises(StoreNotAvailableError, match="raised LookupError") as refused:
        Store(NOWHERE, credentials=fail).open()
    assert isinstance(refused.value.__cause__, LookupError)


@pytest.mark.parametrize("login", [SECRET, ("ada", SECRET)], ids=["password", "pair"])
def test_what_it_returned_is_shown_nowhere(login: Any) -> None:
    credentials: Callable[[], Any] = lambda: login  # noqa: E731
    store = Store(NOWHERE, timeout=1, credentials=credentials)
    with pytest.raises(StoreError) as refused:
        store.open()
    assert type(refused.value) is StoreNotAvailableError
    assert SECRET not in shown(refused.value)
    assert SECRET not in repr(store)


def test_a_password_in_the_dsn_as_well_is_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="leave one of them out") as refused:
        Store("postgresql://ada:hunter2@127.0.0.1:1/db", credentials=lambda: "other").open()
    assert SECRET not in str(refused.value)
