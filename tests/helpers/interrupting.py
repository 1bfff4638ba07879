"""An interrupt at a moment of one's choice."""

from __future__ import annotations

import sys
from collections.abc import Collection
from inspect import CO_GENERATOR
from types import FrameType
from typing import Any


class Interrupting:
    """Raises KeyboardInterrupt at the n-th event of this thread in some files, as a signal could.

    Not before a function in C is called, and not where a generator yields: the interpreter does not look for signals
    there, and what is raised at a yield would skip its `finally`.
    """

    def __init__(self, n: int, files: Collection[str]) -> None:
        self._left = n
        self._files = files

    def __call__(self, frame: FrameType, event: str, _: Any) -> None:
        yields = event == "return" and frame.f_code.co_flags & CO_GENERATOR
        if event != "c_call" and not yields and frame.f_code.co_filename in self._files:
            self._left -= 1
            if self._left == 0:
                sys.setprofile(None)
                raise KeyboardInterrupt
