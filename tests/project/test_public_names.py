"""The public surface: it is what `__all__` says, documented, and errors can travel."""

from __future__ import annotations

import copy
import inspect
import pickle
from types import ModuleType
from typing import Any

import pytest

import rstore
import rstore.errors
import rstore.testing

ERRORS = [value for value in vars(rstore.errors).values() if inspect.isclass(value) and issubclass(value, Exception)]

VERBS = """
open close discard transaction run snapshot namespaces ping stats durability check backup vacuum
set get delete has keys find items values pop popitem setdefault update clear
get_many set_many entry add incr modify get_or_set touch scan count delete_prefix watch
range first last missing iscomplete extend extend_many remove timeseries
range_columns range_many batches tail latest span gaps at resample downsample to_pandas to_polars to_arrow
extend_columns extend_frame replace_range compact
apply current past events follow project prune eventsources eventsequences
history diff
version check_change noting
revert undo apply_many
forget digest verify
"""


@pytest.mark.parametrize("module", [rstore, rstore.testing], ids=lambda module: module.__name__)
def test_all_is_sorted_and_is_what_is_public(module: ModuleType) -> None:
    assert module.__all__ == sorted(module.__all__)
    public = {
        name for name, value in vars(module).items() if not name.startswith("_") and not isinstance(value, ModuleType)
    }
    assert public == set(module.__all__)


def test_every_error_is_exported_and_in_the_tree_that_is_drawn() -> None:
    drawn = rstore.errors.__doc__ or ""
    for error in ERRORS:
        assert getattr(rstore, error.__name__) is error
        assert error.__name__ in drawn
        assert issubclass(error, rstore.StoreError | Warning)


@pytest.mark.parametrize("name", rstore.__all__)
def test_every_public_name_is_documented(name: str) -> None:
    value = getattr(rstore, name)
    assert inspect.getdoc(value)
    if inspect.isclass(value) and value.__module__.startswith("rstore"):
        for attribute in vars(value):
            if not attribute.startswith("_") and inspect.isroutine(getattr(value, attribute)):
                assert inspect.getdoc(getattr(value, attribute)), f"{name}.{attribute}"


def test_the_verbs_of_a_store_are_the_documented_ones() -> None:
    public = {name for name in dir(rstore.Store) if not name.startswith("_")}
    assert public == set(VERBS.split())
    for name in public:
        assert inspect.getdoc(getattr(rstore.Store, name)), name


def test_the_constructor_is_the_documented_one() -> None:
    parameters = inspect.signature(rstore.Store).parameters
    assert {name: parameter.default for name, parameter in parameters.items()} == {
        "dsn": inspect.Parameter.empty,
        "namespace": None,
        "key": None,
        "frozen": True,
        "serializer": "pickle",
        "durability": "full",
        "timeout": 30.0,
        "allow_plaintext": False,
        "compress": False,
        "id_ttl": 604800,
        "credentials": None,
    }
    positional = [name for name, p in parameters.items() if p.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD]
    assert positional == ["dsn", "namespace", "key", "frozen"]


_EXTRA: dict[str, dict[str, Any]] = {
    "ChangeRefusedError": {"key": "k", "t": 5, "item": "a", "op": len},
    "HorizonError": {"key": "k", "horizon": 5},
    "ConflictError": {"expected": b"1", "actual": b"2"},
}


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: error.__name__)
def test_an_error_can_travel_between_processes(error: type[Exception]) -> None:
    """As `concurrent.futures` and `multiprocessing` send them."""
    extra = _EXTRA.get(error.__name__, {})
    raised = error("the message", **extra)
    for copied in (pickle.loads(pickle.dumps(raised)), copy.copy(raised)):  # noqa: S301 - its own
        assert type(copied) is error
        assert str(copied) == "the message"
        assert {name: getattr(copied, name) for name in extra} == extra


def test_python_names_verbs_as_users_know_them() -> None:
    with rstore.Store("memory://names", frozen=False) as store:
        for name in ("to_pandas", "range", "apply", "get", "incr", "set_many", "watch"):
            with pytest.raises(TypeError, match=rf"^Store\.{name}\(\) got an unexpected keyword argument"):
                getattr(store, name)("k", nothing=1)
        with store.transaction() as tx, pytest.raises(TypeError, match=r"^Store\.extend\(\) missing 1 required"):
            tx.extend()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
