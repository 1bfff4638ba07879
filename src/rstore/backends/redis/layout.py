"""How a namespace lies in Redis: its buckets, the names of its keys, and positions as bytes that sort as they do.

Nouns: a *bucket* (a hash tag, and all keys that have it: they lie in one slot of a cluster), a *marker* (what says
which incarnation of the namespace a bucket is of) and a *place* (the names that go with one marker).
"""

from __future__ import annotations

import binascii
import struct
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from rstore.backends.types import KEYS_BYTES, MAX_SEQ, Chunk, Log, Position, Row
from rstore.errors import CorruptionError

SLOTS: Final = 16384
MAX_BUCKETS: Final = 256

_TAGS: Final = """
1bz 5n3 53t d5m nbd 7me j3j 3xc 04s a2j if5 0i4 o4m cu4 kec 2jb dlj 5js 574 92e 3el bcu 74b fvs 003 4xr akm
0mt 23e cqt 6bk gdr 5nw dhn 96a 530 bgq 3ah frw 70f pt6 047 0ip 4e9 c1x 27a oin 6fo 5j7 9of d1i 57p 7ia fox
38o j7n 4x6 00w 0m0 4ay c58 g9q 2nf kag 17p h8q he6 1j7 n7n 78o box 3ia 0ay 4m0 40w 0x6 oag 6nf c9q g58 130
hx9 hav 1nw 30f brw 7ah fgq 0e9 4ip 447 81f 2fo kin 67a g1x h85 174 1js her bvs 34b fcu 7el 4mt ekm 0xr 403
cdr 2bk gqt 63e qsu 13t 1n3 5bz 7xc n3j 3me jbd 4i4 8le e2j 44s 6jb oec gu4 k4m fjl 7lu 712 3ys 1cj hlk 52d
975 265 k94 cmk 2kr 05c a3z 4dm ebt ng4 7h5 75r f3k 9n2 5kc h5l 93u 22u 6z4 4C9 2o2 m2k 4yb ice 0ld 7l1 nc0
3y7 71v 5og 9j6 1za h1h c0h 26q 2k6 kd7 49n 8x7 8ax any 7hq 3d8 wu7 756 hho 1gn 931 5rh 6zp 221 2ov cio asv
01g 8e8 aj9 356 su7 7d8 3hq 1rh h9a 5gn daw gio 6ov 621 2zp 8iq afp 41g 846 31v 7y7 jc0 3l1 d8p 5za qkn 1og
od7 6k6 66q g0h 8m1 ab0 i6o 09n b3k 35r 3h5 jg4 4nD l5l 1kc hdb 6o2 0C9 2z4 62u 4ld 8i5 0yb i2k 7ys 312 3lu
bjl hym 12d des 5cj 6kr gmk o94 665 abt 0dm 802 45c
"""
TAGS: Final = [tag.encode() for tag in _TAGS.split()]
"""The tag of bucket i falls on slot 64 * i: random ones would leave nodes of a large cluster idle. These are the first
of three digits or letters that do."""

IDENTITY_BYTES: Final = 16
INCARNATION_BYTES: Final = IDENTITY_BYTES + KEYS_BYTES
GENERATION_BYTES: Final = 8
_TIME_BYTES: Final = 8
_BATCH_AT: Final = INCARNATION_BYTES + GENERATION_BYTES
_MARKER_SIZES: Final = (IDENTITY_BYTES, _BATCH_AT, _BATCH_AT + GENERATION_BYTES)
BODY_ID_BYTES: Final = 12
REPLACED_MS: Final = 600_000
"""How long the body of a replaced chunk stays, for readers that have read the index already."""
_POSITION: Final = struct.Struct(">QI")
_POSITION_BYTES: Final = 12
_CHUNK: Final = struct.Struct(">QIQII")
_BODY_ID: Final = slice(28, 40)
_META_AT: Final = 40
_ZERO: Final = 2**63  # what makes signed timestamps sort as unsigned bytes


NAMESPACES: Final = b"rs{namespaces}"
"""Name of the hash from all namespaces to their incarnations. It may name one that is gone, never lack one that is there."""


class Place(NamedTuple):
    """The names that go with one marker of one bucket. Without a namespace, they are names of nothing."""

    bucket: int
    """How many of the namespace's come before."""
    tag: int
    slot: int
    prefix: bytes
    marker_key: bytes
    marker: bytes | None
    incarnation: bytes
    records: bytes
    """What the name of a record begins with; 16 bytes, the key follows."""
    key_index: bytes
    """Sorted set of keys."""
    expiry_index: bytes
    """Sorted set of the keys that expire, by the last millisecond that they are there."""
    batch: bytes = b""
    """What names a batch of records that is visible and not folded in yet."""

    @property
    def mark(self) -> bytes:
        """The marker as scripts compare it; nothing is none of them."""
        return self.marker or b""

    @property
    def identity(self) -> bytes:
        """The part of the incarnation that names are made of: what facts are added changes none of them."""
        return self.incarnation[:IDENTITY_BYTES]

    @property
    def garbage(self) -> bytes:
        """Name of the set of what is to be deleted in this bucket, of any namespace."""
        return self.prefix + b"g"

    @property
    def staged(self) -> bytes:
        """Name of the sorted set of the batches that are being staged, by the second at which they are given up."""
        return self.prefix + b"s"

    @property
    def awaited(self) -> bytes:
        """Name of what is written for the sake of waiting until replicas have it."""
        return self.prefix + b"w"

    def of_batch(self, batch: bytes) -> Place:
        """Return the place where the records of a batch lie."""
        return self._replace(
            records=self.prefix + b"v" + batch,
            key_index=self.prefix + b"i" + batch,
            expiry_index=self.prefix + b"x" + batch,
        )

    def logs(self, model: int) -> bytes:
        """Return the name of the sorted set of the keys of logs."""
        return b"%bl%b%d" % (self.prefix, self.identity, model)

    def log(self, kind: bytes, log: Log) -> bytes:
        """Return the name of a part of a log: h its head, r rows, c chunks, k checkpoints, t lease."""
        return b"%b%b%b%d%b" % (self.prefix, kind, self.identity, log.model, log.key.encode())

    def body(self, entry: bytes) -> bytes:
        """Return the name of the body of a chunk."""
        return b"%bb%b%b" % (self.prefix, self.identity, entry[_BODY_ID])

    def dropped(self, random: bytes) -> bytes:
        """Return a name for the chunks of a log that is dropped."""
        return b"%bd%b%b" % (self.prefix, self.identity, random)


def make_places(buckets: int, namespace: bytes) -> list[Place]:
    """Return the places of a namespace of which nothing is known yet, as far from each other as can be."""
    return [make_place(bucket, bucket * MAX_BUCKETS // buckets, namespace, None) for bucket in range(buckets)]


def make_place(bucket: int, tag: int, namespace: bytes, marker: bytes | None) -> Place:
    """Return the place that a marker stands for.

    A marker is an incarnation, the generation of the records, and the batch that is visible, if any. A tombstone is the
    identity of an incarnation alone, and stands for nothing.
    """
    if marker is not None and not (is_incarnation(marker[:INCARNATION_BYTES]) and len(marker) in _MARKER_SIZES):
        raise CorruptionError(
            f"the marker of a bucket on the Redis server is damaged: the key {b'rs{%b}m%b' % (TAGS[tag], namespace)!r}"
        )
    prefix = b"rs{%b}" % TAGS[tag]
    incarnation, generation, batch = b"", bytes(GENERATION_BYTES), b""
    if marker is not None and len(marker) > IDENTITY_BYTES:
        incarnation, generation, batch = (
            marker[:INCARNATION_BYTES],
            marker[INCARNATION_BYTES:_BATCH_AT],
            marker[_BATCH_AT:],
        )
    return Place(
        bucket,
        tag,
        tag * (SLOTS // MAX_BUCKETS),
        prefix,
        prefix + b"m" + namespace,
        marker,
        incarnation,
        prefix + b"v" + generation,
        prefix + b"i" + generation,
        prefix + b"x" + generation,
        batch,
    )


def is_incarnation(incarnation: bytes) -> bool:
    """Return whether some bytes can be an incarnation, or its identity, whose last one says how many buckets there are."""
    return len(incarnation) in (IDENTITY_BYTES, INCARNATION_BYTES) and buckets_of(incarnation) <= MAX_BUCKETS


def is_of(marker: bytes | None, incarnation: bytes) -> bool:
    """Return whether a marker says that the bucket belongs to an incarnation."""
    return marker is not None and len(marker) > IDENTITY_BYTES and marker[:INCARNATION_BYTES] == incarnation


def buckets_of(incarnation: bytes) -> int:
    """Return in how many buckets a namespace lies."""
    return 1 << incarnation[IDENTITY_BYTES - 1]


def tells_of_end(marker: bytes | None, incarnation: bytes) -> bool:
    """Return whether a marker is the tombstone of an incarnation, or is of a later one, which begins when others have ended.

    Times are compared, as the scripts do, and not what was drawn.
    """
    return marker is not None and (
        marker == incarnation[:IDENTITY_BYTES] or marker[:_TIME_BYTES] > incarnation[:_TIME_BYTES]
    )


def names_of(raws: Iterable[bytes], what: str, *, around_damage: bool = False) -> list[str]:
    """Return names as text; those that are none are left out, or refused."""
    try:
        return [raw.decode() for raw in raws]
    except UnicodeDecodeError as error:
        if around_damage:
            return [raw.decode() for raw in raws if is_name(raw)]
        raise CorruptionError(f"the name {error.object!r} of {what} is damaged, it is no text") from error


def is_name(raw: bytes) -> bool:
    """Return whether bytes can be read as a name."""
    try:
        raw.decode()
    except UnicodeDecodeError:
        return False
    return True


def registry_key(namespace: bytes) -> bytes:
    """Return the name of the hash that says whether a namespace exists, and holds its facts."""
    return b"rs:" + namespace


def slot_of(name: bytes) -> int:
    """Return the slot of a cluster that a name falls on."""
    start = name.find(b"{")
    if start >= 0 and (end := name.find(b"}", start)) > start + 1:
        name = name[start + 1 : end]
    return binascii.crc_hqx(name, 0) % SLOTS


def pack_position(position: Position) -> bytes:
    """Return a position as 12 bytes that sort as positions do."""
    return _POSITION.pack(position[0] + _ZERO, position[1])


def pack_rows(rows: Iterable[Row]) -> list[bytes]:
    """Return rows as members of a sorted set; of two at one position, the later one."""
    pack = _POSITION.pack
    members = [pack(t + _ZERO, seq) + body for t, seq, body in rows]
    if len(members) > 1:
        members = list({member[:_POSITION_BYTES]: member for member in members}.values())
    return members


def unpack_rows(members: Iterable[bytes]) -> list[Row]:
    """Return members of a sorted set as rows."""
    unpack = _POSITION.unpack_from
    rows = []
    try:
        for member in members:
            t, seq = unpack(member)
            if seq > MAX_SEQ:
                raise CorruptionError("a row on the Redis server is at a position that there is not")
            rows.append(Row(t - _ZERO, seq, member[_POSITION_BYTES:]))
    except struct.error as error:
        raise CorruptionError("a row on the Redis server was cut short") from error
    return rows


def check_order(members: Sequence[bytes]) -> None:
    """Refuse members of a sorted set that are out of order: one of them has another score."""
    if members != sorted(members):
        raise CorruptionError("what is indexed on the Redis server is out of order")


def pack_chunk(chunk: Chunk, body_id: bytes) -> bytes:
    """Return the entry of a chunk in the index: everything but the body, which has a key of its own."""
    (t, seq), (last_t, last_seq) = chunk.first, chunk.last
    return _CHUNK.pack(t + _ZERO, seq, last_t + _ZERO, last_seq, chunk.n) + body_id + chunk.meta


def unpack_chunk(entry: bytes, body: bytes) -> Chunk:
    """Return a chunk from its entry in the index, and its body."""
    if len(entry) < _META_AT:
        raise CorruptionError("a chunk on the Redis server was cut short")
    t, seq, last_t, last_seq, n = _CHUNK.unpack_from(entry)
    if not (seq <= MAX_SEQ and last_seq <= MAX_SEQ and 0 < n <= MAX_SEQ):
        raise CorruptionError("a chunk on the Redis server is at a position that there is not")
    return Chunk((t - _ZERO, seq), (last_t - _ZERO, last_seq), n, entry[_META_AT:], body)
