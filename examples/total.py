"""A live total: the sum of all accounts, kept up to date by `project`, whatever happens to the program.

Run it with `python examples/total.py`.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from operator import add, sub

from rstore import Change, Store

ACCOUNTS = [f"account:{n}" for n in range(50)]


def total(balance: int, change: Change) -> int:
    """Return the sum of all balances behind one more change: dated back, taken back, or neither."""
    return balance + (change.after or 0) - (change.before or 0) if change.item == "balance" else balance


def project(store: Store) -> int | None:
    """Count what was committed since the last time; each change counts once, however many count."""
    return store.project("total", total, prefix="account:", initial=0)


def main() -> None:
    """Open accounts, pay from one to another, and watch the total."""
    with Store("bank.db", frozen=False) as store:
        store.apply_many((account, 1, {"owner": account, "balance": 100}) for account in ACCOUNTS)
        print("accounts were opened:", project(store))

        for one, other in pairwise(ACCOUNTS):
            with store.transaction() as tx:  # both or neither
                tx.apply(one, {"balance": (sub, 10)})
                tx.apply(other, {"balance": (add, 10)})
        print("money went around:", project(store))

        store.apply(ACCOUNTS[7], {"balance": (add, 7)}, 2)  # forgotten at the time
        print("a payment was dated back:", project(store))

    with Store("bank.db", frozen=False) as store:  # another run of the program goes on where the last one ended
        store.apply(ACCOUNTS[0], {"balance": 0})
        with ThreadPoolExecutor(4) as pool:
            print("four counted at once:", *pool.map(lambda _: project(store), range(4)))
        print("it is a value like any other:", store["total"]["value"])
        print("and it is right:", sum(state["balance"] for state in map(store.current, ACCOUNTS) if state))


if __name__ == "__main__":
    main()
