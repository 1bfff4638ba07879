"""Uses the installed wheel as its first user would: with core dependencies only, away from the source."""

import importlib.metadata
import importlib.resources
import importlib.util
import tempfile
from pathlib import Path

import rstore

room = Path(tempfile.mkdtemp())
with rstore.Store(room / "data.db", key=rstore.generate_key(), frozen=False) as store:
    store["answer"] = 42
    store.extend("numbers", (1, 1.5), (2, 2.5))
    store.apply("state", {"item": 1})
    found = store["answer"], store.last("numbers"), store.current("state")
    store.discard()  # removes the file
room.rmdir()

if found != (42, (2, 2.5), {"item": 1}):
    raise SystemExit(f"the wheel does not work: {found}")
if not importlib.resources.files(rstore).joinpath("py.typed").is_file():
    raise SystemExit("the wheel lacks py.typed")
if "site-packages" not in str(rstore.__file__):
    raise SystemExit(f"this is not the wheel: {rstore.__file__}")
if extras := [name for name in ("msgpack", "rich", "pytest") if importlib.util.find_spec(name)]:
    raise SystemExit(f"not core dependencies only: {extras}")
print(f"rlib-store {importlib.metadata.version('rlib-store')}: the wheel works with core dependencies only")
