"""The ground that the tests of the suite stand on: a fresh DSN, the flavours, and stores of both."""

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
    """Return how a parameter is named in the list of tests: short, in ASCII, the same in every process."""
    return re.sub(r" at 0x[0-9a-f]+", "", ascii(value))[:30]


@contextmanager
def about(case: object) -> Generator[None]:
    """Name the case in what a failure inside says.

    For cases that share one store: one test each would open a store each, which on a server costs more than the cases.
    """
    try:
        yield
    except BaseException as error:  # what `pytest.fail` raises is no Exception
        error.add_note(f"in the case {case}")
        raise


class Opener:
    """Makes stores on one DSN, in one flavour unless another is given, and leaves nothing behind."""

    def __init__(self, dsn: str, flavour: Flavour) -> None:
        self.dsn = dsn
        self.flavour = flavour
        self._namespaces: set[str | None] = set()

    def __call__(
        self, namespace: str | None = None, *, frozen: bool = False, flavour: Flavour | None = None, **options: Any
    ) -> Store:
        """Return a store, not yet open and writable unless `frozen`; options are those of `Store`."""
        # No test here can see a power cut, and not waiting for the disk makes thousands of them bearable.
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
    """The ground of all tests. A subclass of the suite names the DSN, and sets what its backend lacks to False."""

    persistent: ClassVar[bool] = True
    """Whether another process sees the same store."""
    local_clock: ClassVar[bool] = True
    """Whether the backend's clock is `time.time()` of this process."""
    across_keys: ClassVar[bool] = True
    """Whether one call on several series or sequences is done to all of them or to none."""
    transactional: ClassVar[bool] = True
    """Whether there are transactions over several calls."""
    snapshots: ClassVar[bool] = True
    """Whether there are snapshots."""
    backups: ClassVar[bool] = True
    """Whether the store can be copied as of one moment."""

    @pytest.fixture
    def dsn(self) -> str:
        """Return the DSN of a store that does not exist yet."""
        raise NotImplementedError

    @pytest.fixture(params=PICKLED, ids=str)
    def flavour(self, request: pytest.FixtureRequest) -> Flavour:
        """Return how the test keeps its values: plain and encrypted."""
        flavour: Flavour = request.param
        return flavour

    @pytest.fixture
    def opener(self, dsn: str, flavour: Flavour) -> Iterator[Opener]:
        """Open stores for tests that open their own."""
        opener = Opener(dsn, flavour)
        yield opener
        opener.discard()

    @pytest.fixture
    def oracle(self) -> Oracle:
        """Keep the expected content beside the store, to be compared at the end."""
        return Oracle()

    @pytest.fixture
    def _transactional(self) -> None:
        """Leave out a test where there are no transactions."""
        if not self.transactional:
            pytest.skip("not possible here, which has a test of its own")

    @pytest.fixture
    def store(self, opener: Opener, oracle: Oracle, request: pytest.FixtureRequest) -> Iterator[Store]:
        """Return an open, writable store; at the end everything in it is read back through a frozen one."""
        with opener() as store:
            yield store
        with opener(frozen=True) as frozen:
            check_integrity(frozen, oracle if "oracle" in _named_by(request) else None)


def _named_by(request: pytest.FixtureRequest) -> tuple[str, ...]:
    # Not `fixturenames`: those include `oracle`, since `store` itself depends on it.
    code = request.function.__code__
    names: tuple[str, ...] = code.co_varnames[: code.co_argcount]
    return names
