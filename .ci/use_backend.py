"""Uses the backend of examples/folder_backend as it is installed, beside the wheel and away from the source."""

import tempfile
from pathlib import Path

import rstore

with tempfile.TemporaryDirectory() as room:
    dsn = f"folder://{Path(room) / 'store'}"
    with rstore.Store(dsn, key=rstore.generate_key(), frozen=False) as store, store.transaction() as tx:
        tx["answer"] = 42
        tx.extend("numbers", (1, 1.5), (2, 2.5))
    with store:
        found = store["answer"], store.last("numbers")
        store.discard()

if found != (42, (2, 2.5)):
    raise SystemExit(f"the backend does not work: {found}")
print("folder://, a backend of another distribution, is found and works")
