# The part of pcodec that rstore uses; pcodec ships no types.

from pcodec import standalone as standalone

class ChunkConfig:
    def __init__(self, *, compression_level: int = ..., enable_8_bit: bool = ...) -> None: ...

class Progress:
    n_processed: int
    finished: bool
