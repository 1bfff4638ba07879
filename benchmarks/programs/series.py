"""A long series of numbers by the column, in rstore and in the specialists: one program, so that all do the same.

Nouns: an *engine* (one library with its way to write, read, and append).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from importlib import import_module
from itertools import count
from pathlib import Path
from shutil import rmtree
from statistics import fmean
from typing import Any, Final

import numpy as np
from child import Figures, each, make_store, p50, seconds, serve

WINDOW: Final = 1000
TAIL: Final = 10


def make_columns(n: int, seed: int) -> tuple[Any, Any]:
    """Return a reading a second: POSIX milliseconds with some jitter, and a walk of two decimals."""
    random = np.random.default_rng(seed)
    t = 1_700_000_000_000 + 1000 * np.arange(n) + np.round(random.normal(0, 5, n)).astype(np.int64)
    return t, np.round(20 + np.cumsum(random.normal(0, 0.05, n)), 2)


class Engine(ABC):
    """One library with a place in which it stores one series; there may be one already."""

    appends = True
    """Whether it can add points, and `one_by_one` whether one alone."""
    one_by_one = True

    def __init__(self, room: Path) -> None:
        self.room = room

    @abstractmethod
    def write(self, t: Any, v: Any) -> None:
        """Store a whole series."""

    @abstractmethod
    def between(self, lo: int, hi: int) -> tuple[Any, Any]:
        """Return a range, both ends included, as arrays."""

    def read(self) -> tuple[Any, Any]:
        """Return the whole series as arrays."""
        return self.between(-(2**63), 2**63 - 1)

    def append(self, t: Any, v: Any) -> None:
        """Add some points at the end."""
        self.write(t, v)

    def append_one(self, t: int, v: float) -> None:
        """Add one point at the end."""
        raise NotImplementedError

    @abstractmethod
    def close(self) -> None:
        """Let go of the files."""


class Rstore(Engine):
    """This library."""

    def __init__(self, room: Path, key: str | None = None, durability: str = "normal") -> None:
        super().__init__(room)
        self.store = make_store(room / "series.db", key, {"durability": durability}).open()
        self.store["warm"] = True

    def write(self, t: Any, v: Any) -> None:
        """Store a whole series."""
        self.store.extend_columns("s", t, v)

    def between(self, lo: int, hi: int) -> tuple[Any, Any]:
        """Return a range, both ends included, as arrays."""
        t, v = self.store.range_columns("s", lo, hi)
        return t, v

    def append_one(self, t: int, v: float) -> None:
        """Add one point at the end."""
        self.store.extend("s", (t, v))

    def close(self) -> None:
        """Let go of the files."""
        self.store.close()


class ArcticDb(Engine):
    """ArcticDB in LMDB: a DataFrame with an index of datetimes, which is what it is made for."""

    one_by_one = False

    def __init__(self, room: Path) -> None:
        super().__init__(room)
        self.pandas = import_module("pandas")
        arctic = import_module("arcticdb").Arctic(f"lmdb://{room}/arctic")
        self.library = arctic.get_library("series", create_if_missing=True)

    def _frame(self, t: Any, v: Any) -> Any:
        return self.pandas.DataFrame({"v": v}, index=self.pandas.DatetimeIndex(t.view("M8[ms]").astype("M8[ns]")))

    def write(self, t: Any, v: Any) -> None:
        """Store a whole series."""
        self.library.write("s", self._frame(t, v))

    def read(self) -> tuple[Any, Any]:
        """Return the whole series as arrays."""
        return self._columns(self.library.read("s").data)

    def between(self, lo: int, hi: int) -> tuple[Any, Any]:
        """Return a range, both ends included, as arrays."""
        stamp = self.pandas.Timestamp
        return self._columns(self.library.read("s", date_range=(stamp(lo, unit="ms"), stamp(hi, unit="ms"))).data)

    def append(self, t: Any, v: Any) -> None:
        """Add some points at the end."""
        self.library.append("s", self._frame(t, v))

    def close(self) -> None:
        """Let go of the files."""
        del self.library

    @staticmethod
    def _columns(frame: Any) -> tuple[Any, Any]:
        return frame.index.to_numpy().astype("M8[ms]").astype(np.int64), frame["v"].to_numpy()


class DuckDb(Engine):
    """DuckDB in a file."""

    def __init__(self, room: Path) -> None:
        super().__init__(room)
        self.connection = import_module("duckdb").connect(str(room / "series.duckdb"))
        self.connection.execute("CREATE TABLE IF NOT EXISTS s (t BIGINT, v DOUBLE)")

    def write(self, t: Any, v: Any) -> None:
        """Store a whole series."""
        points = import_module("pandas").DataFrame({"t": t, "v": v}, copy=False)
        self.connection.register("points", points)
        self.connection.execute("INSERT INTO s SELECT * FROM points")
        self.connection.unregister("points")

    def read(self) -> tuple[Any, Any]:
        """Return the whole series as arrays."""
        return self._columns("SELECT t, v FROM s ORDER BY t")

    def between(self, lo: int, hi: int) -> tuple[Any, Any]:
        """Return a range, both ends included, as arrays."""
        return self._columns("SELECT t, v FROM s WHERE t BETWEEN ? AND ? ORDER BY t", (lo, hi))

    def append(self, t: Any, v: Any) -> None:
        """Add some points at the end."""
        self.connection.executemany("INSERT INTO s VALUES (?, ?)", list(zip(t.tolist(), v.tolist(), strict=True)))

    def append_one(self, t: int, v: float) -> None:
        """Add one point at the end."""
        self.connection.execute("INSERT INTO s VALUES (?, ?)", (t, v))

    def close(self) -> None:
        """Let go of the files."""
        self.connection.close()

    def _columns(self, sql: str, arguments: tuple[int, ...] = ()) -> tuple[Any, Any]:
        columns = self.connection.execute(sql, arguments).fetchnumpy()
        return columns["t"], columns["v"]


class Parquet(Engine):
    """A Parquet file with zstd, by pyarrow: nothing can be appended to it."""

    appends = one_by_one = False

    def write(self, t: Any, v: Any) -> None:
        """Store a whole series."""
        arrow, parquet = import_module("pyarrow"), import_module("pyarrow.parquet")
        parquet.write_table(arrow.table({"t": t, "v": v}), self.room / "series.parquet", compression="zstd")

    def read(self) -> tuple[Any, Any]:
        """Return the whole series as arrays."""
        return self._columns(None)

    def between(self, lo: int, hi: int) -> tuple[Any, Any]:
        """Return a range, both ends included, as arrays."""
        return self._columns([("t", ">=", lo), ("t", "<=", hi)])

    def close(self) -> None:
        """Let go of the files."""

    def _columns(self, filters: Any) -> tuple[Any, Any]:
        table = import_module("pyarrow.parquet").read_table(self.room / "series.parquet", filters=filters)
        return table["t"].to_numpy(), table["v"].to_numpy()


class SqliteRows(Engine):
    """A row a point in bare apsw: WAL, `synchronous=NORMAL`."""

    def __init__(self, room: Path) -> None:
        super().__init__(room)
        self.connection = import_module("apsw").Connection(str(room / "rows.db"))
        for sql in (
            "PRAGMA journal_mode = WAL",
            "PRAGMA synchronous = NORMAL",
            "CREATE TABLE IF NOT EXISTS s (series TEXT, t INTEGER, v REAL, PRIMARY KEY (series, t)) WITHOUT ROWID",
        ):
            self.connection.execute(sql).fetchall()

    def write(self, t: Any, v: Any) -> None:
        """Store a whole series."""
        with self.connection:
            self.connection.executemany(
                "INSERT OR REPLACE INTO s VALUES ('s', ?, ?)", zip(t.tolist(), v.tolist(), strict=True)
            )

    def append_one(self, t: int, v: float) -> None:
        """Add one point at the end."""
        self.connection.execute("INSERT OR REPLACE INTO s VALUES ('s', ?, ?)", (t, v))

    def between(self, lo: int, hi: int) -> tuple[Any, Any]:
        """Return a range, both ends included, as arrays."""
        rows = self.connection.execute(
            "SELECT t, v FROM s WHERE series = 's' AND t BETWEEN ? AND ? ORDER BY t", (lo, hi)
        ).fetchall()
        t, v = zip(*rows, strict=True)
        return np.array(t), np.array(v)

    def close(self) -> None:
        """Let go of the files."""
        self.connection.close()


_PEERS: Final[dict[str, Callable[[Path], Engine]]] = {
    "arcticdb": ArcticDb,
    "duckdb": DuckDb,
    "parquet": Parquet,
    "sqlite": SqliteRows,
}


def measure(
    directory: Path, *, library: str, n: int, calls: int, key: str | None = None, durability: str = "normal"
) -> Iterator[Figures]:
    """Write `n` points, read all of them, ranges of a thousand, and append to them; each repetition in a new place."""
    random = np.random.default_rng(0)
    room = directory / "room"

    def enter() -> Engine:
        return Rstore(room, key, durability) if library == "rstore" else _PEERS[library](room)

    for seed in count():
        room.mkdir()
        engine = enter()
        t, v = make_columns(n, seed)
        figures = {"write": seconds(lambda: engine.write(t, v))}  # noqa: B023 - called before the next repetition
        engine.close()
        figures["bytes"] = sum(one.stat().st_blocks * 512 for one in room.rglob("*") if one.is_file()) / n

        engine = enter()
        read: list[tuple[Any, Any]] = []
        figures["read"] = seconds(lambda: read.append(engine.read()))  # noqa: B023 - the same
        if not all(map(np.array_equal, read[0], (t, v))):
            raise SystemExit(f"{library} returned something else")
        windows = [(i, i + WINDOW) for i in random.integers(0, n - WINDOW, calls).tolist()]

        def between(window: tuple[int, int]) -> tuple[Any, Any]:
            return engine.between(int(t[window[0]]), int(t[window[1] - 1]))  # noqa: B023 - the same

        figures["range"] = p50(each(between, windows))
        if not all(map(np.array_equal, between(windows[0]), (t[slice(*windows[0])], v[slice(*windows[0])]))):
            raise SystemExit(f"{library} returned another range")

        later, more = make_columns(calls * (TAIL + 1), seed)
        later += int(t[-1]) - int(later[0]) + 1000
        if engine.appends:
            tails = [slice(i * TAIL, i * TAIL + TAIL) for i in range(calls)]
            figures["append"] = fmean(each(lambda some: engine.append(later[some], more[some]), tails))  # noqa: B023
        if engine.one_by_one:
            points = list(zip(later[-calls:].tolist(), more[-calls:].tolist(), strict=True))
            figures["single"] = fmean(each(lambda point: engine.append_one(*point), points))  # noqa: B023 - the same
        engine.close()
        rmtree(room)
        yield figures


if __name__ == "__main__":
    serve(measure)
