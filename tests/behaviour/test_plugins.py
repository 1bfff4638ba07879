"""Backends of other distributions, as entry points register them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from distributions import add_distribution

from rstore import InvalidValueError, Store, StoreNotAvailableError

MODULE = """
import json
from rstore.backends.contract import Backend
from rstore.backends.memory.backend import MemoryBackend

class Attic(MemoryBackend):
    pass

class Cellar(MemoryBackend):
    takes_credentials = True

class Unfinished(Backend):
    def __init__(self, place, namespace, options):
        pass

number = 42
"""


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of the import path."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "attic_of_the_tests.py").write_text(MODULE, encoding="utf-8")
    monkeypatch.delitem(sys.modules, "attic_of_the_tests", raising=False)
    return tmp_path


def test_a_scheme_of_another_distribution_is_found(site: Path) -> None:
    add_distribution(site, "rstore-attic", {"Attic": "attic_of_the_tests:Attic"})
    with Store("attic://plugins", frozen=False) as store:
        store["k"] = 1
        assert store["k"] == 1
        store.discard()


def test_credentials_go_to_a_backend_that_takes_them(site: Path) -> None:
    values = {"attic": "attic_of_the_tests:Attic", "cellar": "attic_of_the_tests:Cellar"}
    add_distribution(site, "rstore-attic", values)
    Store("cellar://x", credentials=lambda: "secret")
    with pytest.raises(InvalidValueError, match=r"attic:// asks for no login"):
        Store("attic://x", credentials=lambda: "secret")


def test_built_in_schemes_win(site: Path) -> None:
    schemes = ("memory", "sqlite", "sqlite3", "redis+attic")
    add_distribution(site, "rstore-attic", dict.fromkeys(schemes, "attic_of_the_tests:Attic"))
    with Store("memory://plugins", frozen=False) as store:
        store["k"] = 1
        store.discard()
    assert "attic_of_the_tests" not in sys.modules
    for reserved in schemes[2:]:
        with pytest.raises(InvalidValueError, match="is another library's"):
            Store(f"{reserved}://x")


def test_built_in_schemes_read_no_entry_points() -> None:
    program = (
        "import sys; from rstore import Store\n"
        "with Store('memory://x', frozen=False) as store: store['k'] = 1\n"
        "print({'importlib.metadata', 'rstore.backends.plugins'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "set()\n"


def test_an_unknown_scheme_is_refused_with_all_that_are_known(site: Path) -> None:
    add_distribution(site, "rstore-attic", {"attic": "attic_of_the_tests:Attic"})
    with pytest.raises(InvalidValueError, match=r"did you mean attic://\? .*memory://.* attic://.* and bare paths"):
        Store("attics://x")


def test_two_distributions_with_one_scheme_are_named(site: Path) -> None:
    add_distribution(site, "rstore-attic", {"attic": "attic_of_the_tests:Attic"})
    add_distribution(site, "loft", {"ATTIC": "attic_of_the_tests:Cellar"}, version="2.0")
    with pytest.raises(StoreNotAvailableError, match=r"attic:// is registered by loft 2\.0 and rstore-attic 1\.0"):
        Store("attic://x").open()


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ("no_such_module_of_the_tests:Attic", "cannot be loaded: ModuleNotFoundError: No module named 'no_such"),
        ("attic_of_the_tests:Nothing", "cannot be loaded: AttributeError: .*'Nothing'"),
        ("attic_of_the_tests:number", r"is no subclass of rstore\.backends\.contract\.Backend"),
        ("attic_of_the_tests:json.JSONDecoder", "is no subclass of"),
        (
            "attic_of_the_tests:Unfinished",
            "is written for another version of rstore: it lacks add_fact, ",
        ),
        ("not a value", "cannot be loaded: "),
    ],
)
def test_a_broken_backend_is_named_with_its_distribution(site: Path, value: str, problem: str) -> None:
    add_distribution(site, "rstore-attic", {"attic": value})
    store = Store("attic://user:hunter2@x")
    with pytest.raises(StoreNotAvailableError, match=f"of rstore-attic 1.0, {problem}") as raised:
        store.open()
    assert "hunter2" not in str(raised.value)


def test_a_distribution_that_is_gone(site: Path) -> None:
    add_distribution(site, "rstore-attic", {"attic": "attic_of_the_tests:Attic"})
    store = Store("attic://x")
    (site / "rstore_attic-1.0.dist-info" / "entry_points.txt").unlink()
    with pytest.raises(StoreNotAvailableError, match="the distribution that registered the scheme attic:// is gone"):
        store.open()


def test_damaged_entry_points_are_told(site: Path) -> None:
    add_distribution(site, "rstore-attic", {})
    (site / "rstore_attic-1.0.dist-info" / "entry_points.txt").write_text("[rstore.backends]\nno value\n")
    with pytest.raises(StoreNotAvailableError, match="the entry points of the installed distributions cannot be read"):
        Store("attic://x")
    Store("memory://x")
