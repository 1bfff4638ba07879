# The part of pcodec that rstore uses; pcodec ships no types.

from typing import Self

from pcodec import standalone as standalone

class DeltaSpec:
    @classmethod
    def try_consecutive(cls, order: int) -> Self: ...

class ChunkConfig:
    def __init__(
        self, *, compression_level: int = ..., enable_8_bit: bool = ..., delta_spec: DeltaSpec = ...
    ) -> None: ...

class Progress:
    n_processed: int
    finished: bool
