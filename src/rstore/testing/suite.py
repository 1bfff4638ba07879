"""The base of the suite: its fixtures, and the flags by which a backend says what it lacks."""

from __future__ import annotations

import re
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import pytest

from rstore import Store
from rstore.testing.flavours import PICKLED, Flavour
from rstore.testing.integrity import check_integrity
from rstore.testing.oracle import Oracle


def shown(value: object) -> str:
    """Return the name of a parameter in the list of tests: short, in ASCII, the same in every process."""
    return re.sub(r" at 0x[0-9a-f]+", "", ascii(value))[:30]


@contextmanager
def about(case: object) -> Generator[None]:
    """Add a note with the case to a failure inside.

    For cases that share one store: a test of its own for each would open a store, which on a server costs more.
    """
    try:
        yield
    except BaseException as error:  # the exception of `pytest.fail` is no Exception
        error.add_note(f"in the case {case}")
        raise


class Opener:
    """Makes stores on one DSN, in one flavour unless another is given; discards their namespaces at the end."""

    def __init__(self, dsn: str, flavour: Flavour) -> None:
        self.dsn = dsn
        self.flavour = flavour
        self._namespaces: set[str | None] = set()

    def __call__(
        self, namespace: str | None = None, *, frozen: bool = False, flavour: Flavour | None = None, **options: Any
    ) -> Store:
        """Return a store, not yet open and writable unless `frozen`; options are those of `Store`."""
        # No test here sees a power cut, and thousands of them would wait for the disk.
        options = {"durability": "normal", **options}
        store = (flavour or self.flavour).make(self.dsn, namespace, frozen=frozen, **options)
        self._namespaces.add(namespace)
        return store

    def discard(self) -> None:
        """Discard every namespace that was used."""
        for namespace in self._namespaces:
            with Store(self.dsn, namespace, frozen=False, allow_plaintext=True) as store:
                store.discard()


class Suite:
    """The base of all tests. A subclass names the DSN, and sets the flags of what its backend lacks to False."""

    persistent: ClassVar[bool] = True
    """Whether another process sees the same store."""
    local_clock: ClassVar[bool] = True
    """Whether the backend's clock is `time.time()` of this process."""
    across_keys: ClassVar[bool] = True
    """Whether one call on several keys, series or sequences is applied to all of them or to none."""
    transactional: ClassVar[bool] = True
    """Whether the backend has transactions over several calls."""
    snapshots: ClassVar[bool] = True
    """Whether the backend has snapshots."""
    backups: ClassVar[bool] = True
    """Whether the store can be copied as of one moment."""

    @pytest.fixture
    def dsn(self) -> str:
        """Return the DSN of a store that does not exist yet."""
        raise NotImplementedError

    @pytest.fixture(params=PICKLED, ids=str)
    def flavour(self, request: pytest.FixtureRequest) -> Flavour:
        """Return the flavour of the test's stores: plain and encrypted in turn."""
        flavour: Flavour = request.param
        return flavour

    @pytest.fixture
    def opener(self, dsn: str, flavour: Flavour) -> Iterator[Opener]:
        """Return the opener, for tests that open stores of their own."""
        opener = Opener(dsn, flavour)
        yield opener
        opener.discard()

    @pytest.fixture
    def oracle(self) -> Oracle:
        """Return the oracle, which the test keeps in step with the store; both are compared at the end."""
        return Oracle()

    @pytest.fixture
    def _transactional(self) -> None:
        """Skip a test where the backend has no transactions."""
        if not self.transactional:
            pytest.skip("the backend has no transactions")

    @pytest.fixture
    def store(self, opener: Opener, oracle: Oracle, request: pytest.FixtureRequest) -> Iterator[Store]:
        """Return an open, writable store; at the end a frozen one reads everything back."""
        with opener() as store:
            yield store
        with opener(frozen=True) as frozen:
            check_integrity(frozen, oracle if "oracle" in _named_by(request) else None)


def _named_by(request: pytest.FixtureRequest) -> tuple[str, ...]:
    # Not `fixturenames`: those include `oracle`, since `store` itself depends on it.
    code = request.function.__code__
    names: tuple[str, ...] = code.co_varnames[: code.co_argcount]
    return names
