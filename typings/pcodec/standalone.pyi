from typing import Any

from numpy.typing import NDArray
from pcodec import ChunkConfig, Progress

def simple_compress(src: NDArray[Any], config: ChunkConfig) -> bytes: ...
def simple_decompress_into(src: bytes, dst: NDArray[Any]) -> Progress: ...
