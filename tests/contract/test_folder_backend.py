"""The backend of examples/folder_backend is held to the suite, as that of another distribution would be."""

from __future__ import annotations

import multiprocessing
import os
import tomllib
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from distributions import add_distribution

from rstore import CorruptionError, InvalidValueError, Store, StoreBusyError, StoreNotAvailableError
from rstore.testing import StoreSuite
from rstore.testing.flavours import PICKLED, Flavour

EXAMPLE = Path(__file__).parent.parent.parent / "examples" / "folder_backend"


@pytest.fixture(scope="module", autouse=True)
def _registered(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Register it as an installation would; second processes get the path of this one."""
    project = tomllib.loads((EXAMPLE / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    with pytest.MonkeyPatch.context() as patch:
        site = tmp_path_factory.mktemp("site")
        add_distribution(site, project["name"], project["entry-points"]["rstore.backends"], project["version"])
        patch.syspath_prepend(site)
        yield


@pytest.mark.slow  # each of its writes writes a whole namespace
class TestFolder(StoreSuite):
    @pytest.fixture(params=PICKLED[:1], ids=str)
    def flavour(self, request: pytest.FixtureRequest) -> Flavour:
        # Encryption lies above the backend: the tests that are about it choose it themselves.
        flavour: Flavour = request.param
        return flavour

    @pytest.fixture
    def dsn(self) -> Iterator[str]:
        # In memory where that is possible: a file system on a disk writes each file when it replaces another one.
        memory = Path("/dev/shm")  # noqa: S108 - the folder below has a name that is drawn
        with TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
            yield f"folder://{folder}"


MANY = (
    *("test_so_many_changes_that_most_are_packed", "test_find_among_many", "test_writing_while_iterating"),
    *("test_many_in_place_of_small_large_and_expiring_ones", "test_many_pairs", "test_many_short_sequences"),
    *("test_large_changes", "test_a_value_of_fifty_megabytes", "test_a_state_of_many_items"),
)
"""Thousands of writes, each of which writes the whole namespace: minutes, to see what fewer show as well."""
for name in MANY:
    assert hasattr(TestFolder, name), name
    setattr(TestFolder, name, None)


def _die_inside(dsn: str) -> None:
    with Store(dsn, frozen=False) as store, store.transaction() as tx:
        tx["k"] = "never"
        os._exit(1)


def test_a_writer_that_dies_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    dsn = f"folder://{tmp_path}/store"
    with Store(dsn, frozen=False, timeout=5) as store:
        store["k"] = "before"
        dying = multiprocessing.get_context("spawn").Process(target=_die_inside, args=(dsn,))
        dying.start()
        dying.join(30)
        assert dying.exitcode == 1
        assert store["k"] == "before"
        store["k"] = "after"
        assert store["k"] == "after"


def test_a_lock_is_waited_for_no_longer_than_the_time_out(tmp_path: Path) -> None:
    dsn = f"folder://{tmp_path}/store"
    with Store(dsn, frozen=False) as store, Store(dsn, frozen=False, timeout=0.1) as hasty:
        with store.transaction() as tx:
            tx["k"] = 1
            with pytest.raises(StoreBusyError, match=r"its lock for longer than the time-out, 0\.1 s"):
                hasty["k"] = 2
            assert hasty.get("k") is None
        assert hasty["k"] == 1


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    dsn = f"folder://{tmp_path}/store"
    with Store(dsn, frozen=False) as store:
        store["k"] = 1
        [file] = (tmp_path / "store").glob("*.namespace")
        for damaged in (b"", file.read_bytes()[:-1], file.read_bytes() + b"x", b"x" * 16 + b"\x01", b"x" * 20):
            file.write_bytes(damaged)
            with pytest.raises(CorruptionError, match=file.name):
                Store(dsn).open()


def test_a_folder_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(InvalidValueError, match="names a folder"):
        Store("folder://").open()
    with pytest.raises(StoreNotAvailableError, match="No such file or directory; nothing was applied"):
        Store(f"folder://{tmp_path}/none/store", frozen=False).open()
    (tmp_path / "file").touch()
    with pytest.raises(StoreNotAvailableError, match="File exists"):
        Store(f"folder://{tmp_path}/file", frozen=False).open()


def test_any_name_of_a_namespace_has_a_file(tmp_path: Path) -> None:
    names = ["../a", "a/b", "a" * 255, "A" * 255, "\u20ac" * 85]
    for name in names:
        with Store(f"folder://{tmp_path}/store", name, frozen=False) as store:
            store["name"] = name
    for name in names:
        with Store(f"folder://{tmp_path}/store", name) as store:
            assert store["name"] == name
            assert store.namespaces() == sorted(names)
    assert len(list((tmp_path / "store").iterdir())) == len(names) + 1  # and the lock
    assert list(tmp_path.iterdir()) == [tmp_path / "store"]
