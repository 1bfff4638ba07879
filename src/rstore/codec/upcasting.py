"""Upcasting: values that were set under an older schema version are brought to the store's own as they are read.

Only the operands of `setitem` pass through `_upcast`: those of other operators are no values of items. Nothing stored
is rewritten: `prune`, packing and digests work with the changes as they were recorded.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from operator import itemgetter
from typing import Final

import numpy as np

from rstore.codec.change_columns import ChangeColumns
from rstore.codec.changes import OP_CODES, Step, StoredChange
from rstore.codec.columns import column_of_encoded
from rstore.codec.segments import Segment
from rstore.codec.serializers import Codec
from rstore.errors import NewerSchemaError, SerializationError

_SET: Final = OP_CODES["setitem"]
_schema_of = itemgetter(StoredChange._fields.index("schema"))


def upcast_changes(changes: Sequence[StoredChange], codec: Codec) -> Sequence[StoredChange]:
    """Return changes with their values brought to the schema version of the store.

    Raises `NewerSchemaError` if one was written under a newer version, `SerializationError` if a value cannot be
    brought to this one.
    """
    if not _are_older({*map(_schema_of, changes)}, codec):
        return changes
    return [_brought(change, codec) for change in changes]


def upcast_change(change: StoredChange, codec: Codec) -> StoredChange:
    """Return one change, as `upcast_changes` does."""
    return upcast_changes((change,), codec)[0]


def upcast_segment(segment: Segment, codec: Codec) -> Sequence[StoredChange]:
    """Return the changes of a segment, as `upcast_changes` does."""
    changes: list[StoredChange] = upcast_columns(segment.column.data, codec).changes(segment.t, segment.seq)
    return changes


def upcast_columns(columns: ChangeColumns, codec: Codec) -> ChangeColumns:
    """Return columns of changes with their values brought to the schema version of the store, as `upcast_changes`."""
    schemas = columns.schemas
    if not _are_older({0} if schemas is None else set(np.unique(schemas).tolist()), codec) or columns.values is None:
        return columns
    versions = np.zeros(len(columns), np.int64) if schemas is None else schemas
    if columns.starts is not None:
        versions = np.repeat(versions, columns.counts())
    older = (columns.ops == _SET) & (versions < codec.schema_version)
    if not older.any():
        return columns
    encoded = columns.values.encoded()
    for i in older.nonzero()[0].tolist():
        at = i if columns.value_starts is None else int(columns.value_starts[i])
        encoded[at] = _upcast(columns.items[i], encoded[at], int(versions[i]), codec)
    steps = columns.starts, columns.ops, columns.items
    extras = columns.tags, columns.schemas, columns.ids, columns.notes
    return ChangeColumns(columns.n, columns.lags, steps, column_of_encoded(encoded), extras)


def _are_older(versions: Iterable[int], codec: Codec) -> bool:
    """Return whether values of these schema versions are to be brought to that of the store."""
    newest = max(versions, default=0)
    if newest > codec.schema_version:
        raise NewerSchemaError(
            f"a change was written under schema version {newest}, by a newer program: this one knows no later than "
            f"{codec.schema_version}"
        )
    return codec.upcast is not None and min(versions, default=newest) < codec.schema_version


def _brought(change: StoredChange, codec: Codec) -> StoredChange:
    if change.schema == codec.schema_version:
        return change
    steps = [
        Step(item, op, _upcast(item, encoded, change.schema, codec))
        if op == "setitem" and encoded is not None
        else Step(item, op, encoded)
        for item, op, encoded in change.steps
    ]
    return change._replace(steps=steps)


def _upcast(item: str, encoded: bytes, version: int, codec: Codec) -> bytes:
    """Return the encoded value of an item, brought from an older schema version to that of the store."""
    if codec.upcast is None:
        return encoded
    value = codec.decode(encoded)
    try:
        return codec.encode(codec.upcast(item, value, version))
    except MemoryError:
        raise
    except Exception as error:  # the program's own code may raise any
        why = f"{error}" if isinstance(error, SerializationError) else f"_upcast raised {type(error).__name__}"
        raise SerializationError(
            f"the item {item!r} cannot be brought from schema version {version} to {codec.schema_version}: {why}"
        ) from error
