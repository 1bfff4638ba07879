"""An audit trail for documents: who changed what, when and why, and what was known at any moment.

Run it with `python examples/audit.py`.
"""

from __future__ import annotations

from datetime import UTC, datetime
from operator import delitem, setitem
from time import sleep
from typing import Any

from rstore import ABSENT, Change, Store, generate_key

CONTRACT = "contract 7"


def at(day: str) -> int:
    """Return the midnight (UTC) that begins a day, in POSIX milliseconds."""
    return int(datetime.fromisoformat(day).replace(tzinfo=UTC).timestamp()) * 1000


def day_of(t: int) -> str:
    """Return the day of a timestamp."""
    return f"{datetime.fromtimestamp(t / 1000, UTC):%Y-%m-%d}"


def line(change: Change) -> str:
    """Return one line of the audit trail."""
    before = "" if change.op is setitem and change.before is None else f"{change.before!r} -> "
    after = "gone" if change.op is delitem else repr(change.after)
    why = f" ({change.note['why']})" if "why" in change.note else ""
    return f"#{change.n} {day_of(change.t)} {change.note['by']}: {change.item} {before}{after}{why}"


def write(store: Store) -> int:
    """Write a contract, and correct it; return the moment before the correction."""
    with store.noting(by="ada"):
        store.apply(CONTRACT, {"tenant": "Miller", "rent": 900, "pets": True}, at("2026-01-01"))
        store.apply(CONTRACT, {"rent": 950}, at("2026-07-01"), note={"why": "index of June"})
    with store.noting(by="ben"):
        store.apply(CONTRACT, {"pets": (delitem, None)}, at("2026-09-01"))
    believed = max(change.recorded for change in store.history(CONTRACT))
    sleep(0.01)  # what was recorded in the same millisecond was known as well
    with store.noting(by="cleo", why="agreed upon in March"):
        store.apply(CONTRACT, {"rent": 930}, at("2026-04-01"))
    return believed


def main() -> None:
    """Write a contract, then ask who did what."""
    key = generate_key()  # notes are encrypted as values are
    with Store("contracts.db", key=key, frozen=False) as store:
        believed = write(store)

    with Store("contracts.db", key=key) as store:
        print("The trail:")
        for change in store.history(CONTRACT):
            print(" ", line(change))

        print("In the order in which it was written:")
        for change in sorted(store.history(CONTRACT, "rent"), key=lambda change: change.n):
            print(" ", line(change))

        [last] = store.history(CONTRACT, "rent", reverse=True, limit=1)
        print("The rent was last set by", last.note["by"])

        may = at("2026-05-01")
        print("The rent in May:", rent(store.past(CONTRACT, may)))
        print("The rent in May, as it was believed before:", rent(store.past(CONTRACT, may, known=believed)))

        print("Since then:")
        for item, (before, after) in (store.diff(CONTRACT, may) or {}).items():
            print(f"  {item}: {before!r} -> {'gone' if after is ABSENT else repr(after)}")


def rent(state: dict[str, Any] | None) -> int | None:
    """Return the rent of a contract."""
    return None if state is None else state["rent"]


if __name__ == "__main__":
    main()
