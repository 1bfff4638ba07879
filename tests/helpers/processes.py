"""Programs in processes of their own: started, told what to do, killed. And what is looked at when they are done.

Nouns: a *program* (a function of `programs.py`, running) and a *remote* (a store that a program has open).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import apsw
import programs

import rstore

_SOURCE = Path(rstore.__file__).parent.parent

linux = Path("/proc/self/fd").is_dir()
"""Whether /proc tells which files a process has open."""


class Program:
    """A function of `programs.py` in a process of its own; it answers in lines, and is killed when left too early."""

    def __init__(self, program: Callable[..., None], *arguments: object) -> None:
        self._process = subprocess.Popen(
            [sys.executable, programs.__file__, program.__name__, *map(str, arguments)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, "PYTHONPATH": str(_SOURCE)},
        )  # fmt: skip

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    def hear(self) -> str:
        """Return the next line that it says; fails if it ended instead."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line.endswith("\n"), f"the program ended with {self._process.wait()}"
        return line[:-1]

    def tell(self, line: str = "") -> None:
        """Say a line to it."""
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def end(self) -> list[str]:
        """Let it end, and return the lines that it said since."""
        said = self._rest()
        assert self._process.returncode == 0, self._process.returncode
        return said.splitlines()

    def _rest(self) -> str:
        # Not `communicate`: it reads the pipe itself, past what `hear` has taken out of it together with a line.
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        with self._process.stdout as out:
            said = out.read()
        self._process.wait()
        return said

    def kill(self) -> list[str]:
        """Kill it at once, unless it ended, and return the lines that it had said in full."""
        if self._process.returncode is not None:
            return []
        self._process.kill()
        said = self._rest()
        return [line[:-1] for line in said.splitlines(keepends=True) if line.endswith("\n")]


class Remote(Program):
    """A store that another process has open. Values are what JSON can say."""

    def __init__(self, path: Path, **options: Any) -> None:
        super().__init__(programs.serve, path, json.dumps({"frozen": False, **options}))
        assert self.hear() == "open"

    def __call__(self, verb: str, *arguments: Any) -> Any:
        """Return what a verb returns there, or the name of the error that it raises."""
        self.tell(json.dumps([verb, *arguments]))
        return json.loads(self.hear())


def forked(work: Callable[[], object]) -> Callable[[], None]:
    """Do some work in a child that is forked now; return what waits for it and fails unless it was done."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12: forking with threads is discouraged
        child = os.fork()
    if child == 0:
        programs.as_child(work)

    def wait() -> None:
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0

    return wait


def descriptors(path: Path) -> list[str]:
    """Return what this process has open of a store: the file, and what lies beside it."""
    found = []
    for descriptor in Path("/proc/self/fd").iterdir():
        try:
            found.append(str(descriptor.readlink()))
        except OSError:  # the one that listed the directory
            continue
    return [name for name in found if str(path) in name]


def check_file(path: Path) -> None:
    """Assert that nothing in the file is damaged, and that nothing lies in it that belongs to nothing.

    Through SQLite, as ever while a store may be open: whoever closes another descriptor of the file drops all locks
    that the process has on it.
    """
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)
    try:
        assert connection.pragma("integrity_check") == "ok"
        for orphans in (
            "SELECT id FROM blobs EXCEPT SELECT blob FROM records",
            "SELECT blob FROM records WHERE blob IS NOT NULL EXCEPT SELECT id FROM blobs",
            "SELECT 1 FROM records WHERE (blob IS NULL) = (record IS NULL)",
            *(f"SELECT ns FROM {table} EXCEPT SELECT id FROM namespaces" for table in ("records", "logs", "facts")),
            *(f"SELECT log FROM {table} EXCEPT SELECT id FROM logs" for table in ("hot", "chunks", "checkpoints")),
            """SELECT 1 FROM chunks a JOIN chunks b ON a.log = b.log AND a.id <> b.id
            WHERE (a.first_t, a.first_seq) <= (b.first_t, b.first_seq)
            AND (a.last_t, a.last_seq) >= (b.first_t, b.first_seq)""",
        ):
            assert connection.execute(orphans).fetchall() == [], orphans
    finally:
        connection.close()


def snapshot(directory: Path) -> dict[str, tuple[bytes, int]]:
    """Return the bytes and the time of change of all files that hold data. No store in it may be open in this process.

    A connection that only reads leaves an empty log and its index behind: it is not allowed to remove them.
    """
    files = [file for file in sorted(directory.iterdir()) if not file.name.endswith("-shm")]
    files = [file for file in files if not (file.name.endswith("-wal") and file.stat().st_size == 0)]
    return {file.name: (file.read_bytes(), file.stat().st_mtime_ns) for file in files}


@contextmanager
def public_directory() -> Generator[Path, None, None]:
    """Yield a directory that every user can reach; pytest's own can be entered by its owner only."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name).resolve()
        directory.chmod(0o777)
        try:
            yield directory
        finally:
            directory.chmod(0o777)
