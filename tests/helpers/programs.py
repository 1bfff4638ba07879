"""What tests run in processes of their own: `python programs.py NAME ARGUMENT…`. See `processes.py`.

Each says a line when something was acknowledged, and ends when it was told to or is done.
"""

from __future__ import annotations

import json
import operator
import os
import random
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from itertools import count
from pathlib import Path
from shutil import rmtree
from tempfile import TemporaryDirectory, mkdtemp
from typing import Any, NoReturn

import apsw

from rstore import CorruptionError, OutcomeUnknownError, Store, StoreError, StoreFullError

_NOBODY = 65534
_PATIENCE_S = 25


def say(line: object) -> None:
    """Say a line, in one piece."""
    print(line, flush=True)  # noqa: T201 - this is how it answers


def as_child(work: Callable[[], object]) -> NoReturn:
    """Do some work in a child that was just forked, and leave without what its parent would do at its end."""
    status = 1
    try:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(_PATIENCE_S)
        work()
        status = 0
    except BaseException:  # noqa: BLE001 - the parent must never go on twice
        traceback.print_exc()
    finally:
        os._exit(status)


def serve(path: str, options: str) -> None:
    """Keep a store open, and do as told: a JSON list of a verb and its arguments."""
    store = Store(path, **json.loads(options)).open()
    say("open")
    for line in sys.stdin:
        verb, *arguments = json.loads(line)
        try:
            if verb == "add":
                key, item, n = arguments
                answer: Any = store.apply(key, {item: (operator.add, n)})
            else:
                answer = getattr(store, verb)(*arguments)
        except StoreError as error:
            answer = type(error).__name__
        say(json.dumps(None if isinstance(answer, bytes) else answer))  # a version: nobody asks for it here
    store.close()


def discard_often(path: str) -> None:
    """Discard a store again and again, until told to end."""
    ended = threading.Event()

    def listen() -> None:
        sys.stdin.readline()
        ended.set()

    threading.Thread(target=listen, daemon=True).start()
    while not ended.is_set():
        with Store(path, frozen=False, durability="normal") as store:
            store.discard()
    say("done")


def run(program: str) -> None:
    """Run the text of a program."""
    exec(program, {"__name__": "program"})  # noqa: S102 - a test's own


def hold(path: str, statement: str) -> None:
    """Hold a lock of SQLite until told to let go, and say both."""
    connection = apsw.Connection(path)
    connection.execute(statement)
    say("held")
    sys.stdin.readline()
    connection.execute("ROLLBACK")
    connection.close()
    say("released")


# -- several writers --------------------------------------------------------------------------------------------------


def open_at_once(path: str, name: str) -> None:
    """Open a fresh path together with others, and write."""
    say("ready")
    sys.stdin.readline()
    with Store(path, frozen=False) as store:
        store.set(name, name)
        store.apply("log", {name: 1})
    say("done")


def contend(path: str, name: str, rounds: str) -> None:
    """Write the same keys, series and sequence as others."""
    say("ready")
    sys.stdin.readline()
    with Store(path, frozen=False, durability="normal", timeout=_PATIENCE_S) as store:
        for i in range(int(rounds)):
            store.set("same", [name, i])
            store.incr("incremented")
            store.modify("modified", lambda names: [*names, name], default=[])
            store.set("large", [name, i, "x" * 2000])
            store.extend("same", (0, [name, i]), (i * 100 + int(name), [name, i]))
            store.apply("same", {"count": (operator.add, 1), name: i})
            store.apply("same", {f"own {name}": i})
    say("done")


def grow(path: str, parity: str, total: str) -> None:
    """Extend a series in small batches, by every second timestamp, so that it is packed again and again."""
    say("ready")
    sys.stdin.readline()
    with Store(path, frozen=False, durability="normal", timeout=_PATIENCE_S) as store:
        times = range(int(parity), 2 * int(total), 2)
        for i in range(0, len(times), 100):
            store.extend("s", *((t, [parity, t]) for t in times[i : i + 100]))
    say("done")


def rework(path: str, parity: str, total: str) -> None:
    """Write every second timestamp, then overwrite and remove some of them; say what is left."""
    say("ready")
    sys.stdin.readline()
    chosen = random.Random(7)
    left: dict[int, Any] = {}
    with Store(path, frozen=False, durability="normal", timeout=_PATIENCE_S) as store:
        times = list(range(int(parity), 2 * int(total), 2))
        for i in range(0, len(times), 500):
            batch = {t: [parity, t] for t in times[i : i + 500]}
            store.extend("s", *batch.items())
            left |= batch
            again = {t: [parity, -t] for t in chosen.sample(sorted(left), min(len(left), 50))}
            store.extend("s", *again.items())
            left |= again
            gone = chosen.choice(sorted(left))
            store.remove("s", start=gone, end=gone)
            del left[gone]
        again = {t: [parity, "again"] for t in chosen.sample(sorted(left), len(left) // 2)}
        store.extend("s", *again.items())  # enough to be packed at once
        left |= again
    say(json.dumps(sorted(left.items())))


def come_and_go(path: str, name: str, rounds: str) -> None:
    """Open, write, read back through another handle, and discard, as others do with other namespaces."""
    say("ready")
    sys.stdin.readline()
    for i in range(int(rounds)):
        with Store(path, name, frozen=False, durability="normal", timeout=_PATIENCE_S) as store:
            _write_all(store, i)
            _read_all(path, name, i)
            store.discard()
            if i % 2:
                _write_all(store, i)  # the same handle goes on
                _read_all(path, name, i)
                store.discard()
    with Store(path, name, frozen=False) as store:
        _write_all(store, -1)
    say("done")


def _write_all(store: Store, i: int) -> None:
    store.set("k", i)
    store.extend("s", (i, i))
    store.apply("e", {"i": i})


def _read_all(path: str, name: str, i: int) -> None:
    with Store(path, name) as store:
        found = store.get("k"), store.range("s"), store.current("e")
    if found != (i, [(i, i)], {"i": i}):
        raise SystemExit(f"{name} lost what it wrote in round {i}: {found}")


def replace_underneath(path: str, how: str) -> None:
    """Write from several threads while the file is removed or replaced; at the end everything must be in it."""
    stop = threading.Event()
    errors: list[str] = []
    acknowledged: list[str] = []

    def work(n: int) -> None:
        i = 0
        try:
            while not stop.is_set():
                store.set(f"early {n} {i % 100}", "x" * 500)
                store.get(f"early {n} {i % 100}")
                i += 1
            for j in range(20):
                store.set(f"late {n} {j}", j)
                acknowledged.append(f"late {n} {j}")
        except StoreError as error:
            errors.append(repr(error))

    with Store(path, frozen=False, durability="normal", timeout=_PATIENCE_S) as store:
        threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for _ in range(15):
            threads[0].join(0.03)
            if how == "replace":
                with Store(path + ".new", frozen=False) as other:
                    other.update({f"other {i}": "y" * 500 for i in range(100)})
                Path(path + ".new").replace(path)
            else:
                for suffix in ("", "-wal", "-shm") if how == "unlink all" else ("",):
                    Path(path + suffix).unlink(missing_ok=True)
        stop.set()
        for thread in threads:
            thread.join()
    lost: list[str] | None = None
    others = None
    try:
        with Store(path) as store:
            lost = [key for key in acknowledged if key not in store]
            others = len(store.find("other *"))
    except CorruptionError:
        lost = None  # it says so: what it holds cannot be told
    say(json.dumps([errors, lost, others]))


# -- to be killed -----------------------------------------------------------------------------------------------------


def write_values(path: str) -> None:
    """Write three keys at a time, small and large in turns, until killed."""
    with Store(path, frozen=False) as store:
        i = store.get("a", [-1])[0] + 1
        while True:
            store.update(a=[i], b=[i, "x" * 3000] if i % 2 else [i], c=[i])
            say(i)
            i += 1


def write_points(path: str) -> None:
    """Write three points at a time until killed."""
    with Store(path, frozen=False) as store:
        last = store.last("s")
        i = 0 if last is None else last[0] // 3 + 1
        while True:
            store.extend("s", *((3 * i + j, i) for j in range(3)))
            say(i)
            i += 1


def write_chunks(path: str) -> None:
    """Write batches that are packed at once, on top of another, until killed."""
    with Store(path, frozen=False) as store:
        last = store.last("s")
        i = 0 if last is None else last[1] + 1
        while True:
            store.extend_many("s", ((t, i) for t in range(5000)))
            say(i)
            i += 1


def write_changes(path: str) -> None:
    """Change two items at a time until killed."""
    with Store(path, frozen=False) as store:
        i = (store.current("e") or {"a": 0})["a"]
        while True:
            i += 1
            if i == 1:
                store.apply("e", {"a": 1, "b": 1})
            else:
                store.apply("e", {"a": (operator.add, 1), "b": (operator.add, 1)})
            say(i)


def apply_once(path: str) -> None:
    """Add one under an id of its own at a time until killed; begin with some that were applied already."""
    with Store(path, frozen=False) as store:
        store.apply("e", {"n": 0}, id="first")
        done = (store.current("e") or {})["n"]
        for i in count(max(1, done - 3)):
            state = store.apply("e", {"n": (operator.add, 1)}, id=f"{i}") or {}
            if state["n"] > done:
                say(i)


def prune_changes(path: str) -> None:
    """Set two items at a time, and prune what that supersedes, until killed."""
    with Store(path, frozen=False) as store:
        i = (store.current("e") or {"a": 0})["a"]
        while True:
            i += 1
            store.apply("e", {"a": i, "b": i, "n": i} if i % 3 == 0 else {"a": i, "b": i})
            if i % 3 == 2:
                store.prune("e")
            say(i)


# -- to run out of room -----------------------------------------------------------------------------------------------


def outgrow_limit(path: str) -> None:
    """Write until no file may grow, then again when it may."""
    with Store(path, frozen=False) as store:
        _fill_up(path, store, full=lambda: _limit(Path(path).stat().st_size + 300_000), free=lambda: _limit(-1))


def outgrow_disk(path: str) -> None:
    """Write until the disk is full, then again when another file has made room."""
    ballast = Path(path).with_name("ballast")
    ballast.write_bytes(b"\0" * 1_500_000)
    with Store(path, frozen=False) as store:
        _fill_up(path, store, full=lambda: None, free=ballast.unlink)


def _limit(size: int) -> None:
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size if size >= 0 else hard, hard))


def _fill_up(path: str, store: Store, *, full: Callable[[], None], free: Callable[[], None]) -> None:
    values: dict[str, Any] = {}
    points: dict[int, Any] = {}
    count = 0
    noise = random.Random(1)
    store.apply("e", {"count": 0, "text": ""})

    def value(i: int) -> None:
        batch: dict[str, Any] = {f"{i} {j}": noise.randbytes(700 + 600 * j) for j in range(3)}
        store.update(batch)
        values.update(batch)

    def few(i: int) -> None:
        batch: dict[int, Any] = {3 * i + j: noise.randbytes(900) for j in range(3)}
        store.extend("s", *batch.items())
        points.update(batch)

    def many(i: int) -> None:
        batch: dict[int, Any] = {t: noise.random() for t in range(-5000 * i, -5000 * i + 5000)}
        store.extend_many("s", batch.items())
        points.update(batch)

    def change(_: int) -> None:
        nonlocal count
        store.apply("e", {"count": (operator.add, 1), "text": noise.randbytes(900).hex()})
        count += 1

    def check(store: Store) -> None:
        state = store.current("e")
        assert dict(store.items()) == values
        assert dict(store.range("s")) == points
        assert state is not None
        assert state["count"] == count

    def until_full(write: Callable[[int], None], start: int) -> int:
        for i in range(start, start + 10_000):
            try:
                write(i)
            except StoreFullError:
                return i
        raise SystemExit("it never was full")

    full()
    at = {write: until_full(write, 1) for write in (value, few, many, change)}
    check(store)
    with Store(path) as frozen:
        check(frozen)
    say("full")
    free()
    for write, i in at.items():
        write(i)
    check(store)
    with Store(path) as frozen:
        check(frozen)
    say("free")


# -- as an ordinary user ----------------------------------------------------------------------------------------------


def become_nobody() -> None:
    """Give up all privileges, behind importing what is imported late: nobody may not be able to read it."""
    with TemporaryDirectory() as scratch, Store(Path(scratch, "store.db"), frozen=False) as store:
        store["k"] = 1
        store.extend_many("s", ((t, 0) for t in range(5000)))
        store.apply("e", {"a": 1})
        assert (store.keys(), store.last("s"), store.current("e")) == (["k"], (4999, 0), {"a": 1})
    if os.getuid() == 0:
        os.setgroups([])
        os.setgid(_NOBODY)
        os.setuid(_NOBODY)


def lose_the_directory() -> None:
    """Use a store whose directory may not be searched for a while; say what of it was not as it should be."""
    folder = Path(mkdtemp())
    path = folder / "store.db"
    folder.chmod(0o777)
    become_nobody()
    if os.getuid() == _NOBODY:
        folder = folder / "mine"
        folder.mkdir()
        path = folder / "store.db"
    wrong: list[str] = []
    least = most = 0
    with Store(path, frozen=False, timeout=1) as store, Store(path, frozen=False, timeout=1) as other:
        store["n"] = 0
        verbs: dict[str, Callable[[], object]] = {
            "incr": lambda: store.incr("n"),
            "get": lambda: store["n"],
            "keys": store.keys,
            "extend": lambda: store.extend("s", (1, 1)),
            "transaction": lambda: store.run(lambda tx: tx.set("t", 1)),
            "open": Store(path).open,
            "backup": lambda: store.backup(folder / "copy.db"),
            "stats": other.stats,
        }
        for rights in (0, 0o700):
            folder.chmod(rights)
            for name, verb in verbs.items():
                try:
                    verb()
                except StoreError as error:
                    most += name == "incr" and isinstance(error, OutcomeUnknownError)
                    if rights:
                        wrong.append(f"{name} does not work again: {error!r}")
                except Exception as error:  # noqa: BLE001 - which it is, the test tells
                    wrong.append(f"{name}: {error!r}")
                else:
                    least, most = least + (name == "incr"), most + (name == "incr")
        if not least <= store["n"] <= most:
            wrong.append(f"n is {store['n']}, between {least} and {most}")
    rmtree(folder)
    say("; ".join(wrong) or "nothing raw")


def watch_as_nobody(path: str) -> None:
    """Keep a frozen store open without any privilege, and say what is in it whenever asked."""
    become_nobody()
    with Store(path) as store:
        while True:
            say(json.dumps([store["00001"], store.last("s"), sum(1 for _ in store.values())]))
            if not sys.stdin.readline():
                return


def read_as_nobody(path: str, frozen: str) -> None:
    """Open a store without any privilege, and say what it holds, or which error there is."""
    become_nobody()
    try:
        with Store(path, frozen=frozen == "frozen") as store:
            if frozen != "frozen":
                store.set("written", 1)
            say(json.dumps([store.keys(), store.range("s"), store.current("e")]))
    except StoreError as error:
        say(json.dumps([type(error).__name__, str(error)]))


def change_large(dsn: str, key: str, verb: str) -> None:
    """Change or take away a large value, and say how many bytes more than before this process had meanwhile."""

    def resident(line: str) -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(one.split()[1]) * 1024 for one in lines if one.startswith(line))

    verbs: dict[str, Callable[[Store], object]] = {
        "modify": lambda store: store.modify("large", lambda value: b"+" * len(value)),
        "pop": lambda store: store.pop("large"),
        "popitem": lambda store: store.popitem(),
    }
    with Store(dsn, key=key or None, frozen=False, durability="normal") as store:
        store["small"] = 1  # loads what is loaded at first use
        store.modify("small", lambda value: value + 1)
        store.pop("small")
        before = resident("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # the most begins anew: not what its parent had at the most
        verbs[verb](store)
        say(resident("VmHWM") - before)


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
