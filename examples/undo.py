"""Undo and redo for an application. They outlive the program, since the notes of a history tell what was undone.

Run it with `python examples/undo.py`.
"""

from __future__ import annotations

from typing import Any

from rstore import Store


class Document:
    """A dict with undo and redo. A new edit ends what could be redone."""

    def __init__(self, store: Store, key: str) -> None:
        self.store, self.key = store, key

    def edit(self, **items: Any) -> None:
        """Set some items; an edit that changes nothing is none."""
        self.store.apply(self.key, lambda now: {i: new for i, new in items.items() if (i, new) not in now.items()})

    def undo(self) -> bool:
        """Take back the last edit; return whether there was one."""
        return self._take_back("undo", self._stacks()[0])

    def redo(self) -> bool:
        """Do again what was taken back last; return whether there was anything."""
        return self._take_back("redo", self._stacks()[1])

    def _take_back(self, how: str, commits: list[int]) -> bool:
        if commits:
            with self.store.noting(how=how):
                self.store.undo(self.key, commits[-1])
        return bool(commits)

    def _stacks(self) -> tuple[list[int], list[int]]:
        done, undone = list[int](), list[int]()
        for n, note in {change.n: change.note for change in self.store.history(self.key)}.items():
            how = (note or {}).get("how", "edit")
            if how == "edit":
                undone.clear()
            else:
                (done if how == "undo" else undone).pop()
            (undone if how == "undo" else done).append(n)
        return done, undone


def main() -> None:
    """Edit a letter, change one's mind, and change it again in another run of the program."""
    with Store("letters.db", frozen=False) as store:
        letter = Document(store, "to the editor")
        letter.edit(title="Sirs", text="I protest!")
        letter.edit(text="I wonder.")
        letter.edit(title="Dear all", sent=False)
        letter.undo()
        letter.undo()
        print("after two undos:", store.current("to the editor"))

    with Store("letters.db", frozen=False) as store:
        letter = Document(store, "to the editor")
        letter.redo()
        print("after a redo:", store.current("to the editor"))
        letter.edit(text="Well done.")
        print("anything to redo?", letter.redo())
        while letter.undo():
            pass
        print("after all undos:", store.current("to the editor"))
        print("all of it is kept:", len(store.events("to the editor") or ()), "events")


if __name__ == "__main__":
    main()
