# The part of msgpack that rstore and its examples use; msgpack ships no types.

from collections.abc import Callable
from typing import Any

def packb(o: Any, *, default: Callable[[Any], Any] = ...) -> bytes: ...
def unpackb(packed: bytes, *, use_list: bool = ..., strict_map_key: bool = ...) -> Any: ...
