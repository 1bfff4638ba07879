"""The libraries that rstore is compared with, each in a virtual environment of its own.

Of its own, because the first release has the same import name. They are made once, in `benchmarks/.cache`.
"""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Final
from venv import EnvBuilder

CACHE: Final = Path(__file__).parent / ".cache"
FIRST_RELEASE: Final = "rlib-store 0.1"
FIRST_RELEASE_REDIS: Final = "rlib-store 0.1 with redis-py 2.10.6"
FIRST_RELEASE_SERVER: Final = "rlib-store 0.1, psycopg2"
EVENTSOURCING: Final = "eventsourcing 9.5"
DISKCACHE: Final = "diskcache 5.6.3"
SQLITEDICT: Final = "sqlitedict 2.1.0"
LMDB: Final = "LMDB (py-lmdb 3.0)"
ARCTICDB: Final = "ArcticDB 6.28"
DUCKDB: Final = "DuckDB 2.0"
PARQUET: Final = "Parquet with zstd (pyarrow 26)"


def make_cache() -> Path:
    """Return the directory for environments and measured files; git ignores it."""
    CACHE.mkdir(exist_ok=True)
    (CACHE / ".gitignore").write_text("*\n", encoding="utf-8")
    return CACHE


def make_peers() -> dict[str, Path]:
    """Return the Python of each peer, making the environments that are not there yet."""
    # The same release of cryptography as rstore uses, so that both encrypt with the same OpenSSL.
    return {
        FIRST_RELEASE: _make("rlib-store", "rlib-store==0.1", f"cryptography=={version('cryptography')}"),
        FIRST_RELEASE_REDIS: _make(
            "rlib-store-redis", "rlib-store==0.1", "redis==2.10.6", f"cryptography=={version('cryptography')}"
        ),
        FIRST_RELEASE_SERVER: _make(
            "rlib-store-server", "rlib-store==0.1", f"cryptography=={version('cryptography')}", "psycopg2-binary>=2.9"
        ),
        EVENTSOURCING: _make(
            "eventsourcing", "eventsourcing[postgres]>=9.5,<9.6", f"psycopg[binary]=={version('psycopg')}"
        ),
        DISKCACHE: _make("diskcache", "diskcache==5.6.3"),
        SQLITEDICT: _make("sqlitedict", "sqlitedict==2.1.0"),
        LMDB: _make("lmdb", "lmdb>=3.0,<3.1"),
        ARCTICDB: _make("arcticdb", "arcticdb>=6.28,<6.29", "pandas"),
        DUCKDB: _make("duckdb", "duckdb>=2.0,<2.1", "numpy", "pandas"),
        PARQUET: _make("parquet", "pyarrow>=26,<27", "numpy"),
    }


def _make(name: str, *requirements: str) -> Path:
    root = make_cache() / name
    python = root / "bin" / "python"
    made_of, contents = root / "made-of.txt", "\n".join((sys.version, *requirements))
    if made_of.exists() and made_of.read_text(encoding="utf-8") == contents:
        return python
    print(f"Installing {' and '.join(requirements)} into benchmarks/.cache ...", file=sys.stderr)
    EnvBuilder(clear=True, with_pip=False, symlinks=True).create(root)
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", *requirements]
    if subprocess.run(pip, check=False).returncode:  # noqa: S603 - the arguments are all from above
        raise SystemExit("That failed. Peers are fetched once, from the index that pip is set to; --quick needs none.")
    made_of.write_text(contents, encoding="utf-8")
    return python
