"""The notes of blocks, in tasks and threads."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import weakref
from collections.abc import Generator
from uuid import uuid4

from rstore import Store
from rstore.testing.noting import notes_of


def test_each_task_has_notes_of_its_own() -> None:
    with Store(f"memory://{uuid4()}", frozen=False) as store:

        async def apply(name: str) -> None:
            with store.noting(by=name):
                for t in range(5):
                    store.apply(name, {"n": t}, t)
                    await asyncio.sleep(0)
                await asyncio.to_thread(store.apply, name, {"n": 5}, 5)

        async def both() -> None:
            await asyncio.gather(apply("ada"), apply("alan"))

        asyncio.run(both())
        for name in ("ada", "alan"):
            assert notes_of(store, name) == [{"by": name}] * 6


def test_a_block_that_ends_in_another_context() -> None:
    with Store(f"memory://{uuid4()}", frozen=False) as store:

        def noting() -> Generator[None, None, None]:
            with store.noting(by="ada"):
                yield

        block = noting()
        contextvars.copy_context().run(next, block)
        block.close()
        store.apply("k", {"n": 1})
        assert notes_of(store, "k") == [None]


def test_a_store_is_collected() -> None:
    store = Store(f"memory://{uuid4()}", frozen=False)
    with store, store.noting(by="ada"):
        store.apply("k", {"n": 1})
    gone = weakref.ref(store._notes)  # noqa: SLF001 - a context that kept it would keep it for ever
    del store
    gc.collect()
    assert gone() is None


def test_a_note_has_entries_of_any_name() -> None:
    with Store(f"memory://{uuid4()}", frozen=False) as store:
        with store.noting(self="ada", note="n", key="k"):
            store.apply("k", {"n": 1})
        assert notes_of(store, "k") == [{"self": "ada", "note": "n", "key": "k"}]
