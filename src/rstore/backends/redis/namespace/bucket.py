"""A bucket of a namespace: a hash tag, and the names of the keys that have it. They lie in one slot of a cluster.

Nouns: a *marker* (the key that says which incarnation of the namespace a bucket is of) and a *generation* (of the
records of a bucket; clearing it begins another one).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

from rstore.backends.common.names import is_name
from rstore.backends.redis.transport.calls import SLOTS
from rstore.backends.types import KEYS_BYTES, Log
from rstore.errors import CorruptionError

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
_OF_RECORDS: Final = (b"v", b"i", b"x")
_BODY_ID: Final = slice(28, 40)  # of the entry of a chunk

NAMESPACES: Final = b"rs{namespaces}"
"""Names the hash of all namespaces and their incarnations. It may hold one that is gone, never lack one that exists."""


class Bucket(NamedTuple):
    """The names that go with one marker of a bucket. Without a namespace, they are names of nothing."""

    number: int
    """How many of the namespace's come before."""
    tag: int
    slot: int
    prefix: bytes
    marker_key: bytes
    marker: bytes | None
    incarnation: bytes
    """Empty if there is no namespace."""
    records: bytes
    """The 16 bytes with which the name of a record begins; the key follows."""
    key_index: bytes
    """Names the sorted set of keys."""
    expiry_index: bytes
    """Names the sorted set of the keys that expire, by the last millisecond that they are there."""
    batch: bytes = b""
    """Names a batch of records that is visible and not absorbed yet."""

    @property
    def mark(self) -> bytes:
        """The marker as scripts compare it; an empty one equals none of them."""
        return self.marker or b""

    @property
    def identity(self) -> bytes:
        """The part of the incarnation that names are made of: facts that are added change none of them."""
        return self.incarnation[:IDENTITY_BYTES]

    @property
    def garbage(self) -> bytes:
        """The name of the set of garbage in this bucket, of any namespace."""
        return self.prefix + b"g"

    @property
    def staged(self) -> bytes:
        """The name of the sorted set of the batches that are being staged, by the second at which they are given up."""
        return self.prefix + b"s"

    @property
    def awaited(self) -> bytes:
        """The name of a key that is written only to wait until replicas have it."""
        return self.prefix + b"w"

    @property
    def indexes(self) -> tuple[bytes, bytes, bytes]:
        return self.marker_key, self.key_index, self.expiry_index

    def of_records(self, generation: bytes) -> Bucket:
        """Return the bucket with the names of the records of another generation, or of a batch."""
        records, keys, expiries = (self.prefix + kind + generation for kind in _OF_RECORDS)
        return self._replace(records=records, key_index=keys, expiry_index=expiries)

    def logs(self, model: int) -> bytes:
        """Return the name of the sorted set of the keys of logs."""
        return b"%bl%b%d" % (self.prefix, self.identity, model)

    def log(self, kind: bytes, log: Log) -> bytes:
        """Return the name of a part of a log: h its head, r rows, c chunks, k checkpoints, t lease."""
        return b"%b%b%b%d%b" % (self.prefix, kind, self.identity, log.model, log.key.encode())

    def heads(self, model: int) -> bytes:
        """Return with what the names of the heads of logs begin."""
        return b"%bh%b%d" % (self.prefix, self.identity, model)

    def parts(self, log: Log, kinds: bytes) -> list[bytes]:
        rest = b"%b%d%b" % (self.identity, log.model, log.key.encode())
        return [b"%b%c%b" % (self.prefix, kind, rest) for kind in kinds]

    def body(self, entry: bytes) -> bytes:
        return b"%bb%b%b" % (self.prefix, self.identity, entry[_BODY_ID])

    def dropped(self, random: bytes) -> bytes:
        """Return a name for the chunks of a log that is dropped."""
        return b"%bd%b%b" % (self.prefix, self.identity, random)


def make_buckets(n: int, namespace: bytes) -> list[Bucket]:
    """Return the buckets of a namespace of which nothing is known yet, as far from each other as can be."""
    return [make_bucket(number, number * MAX_BUCKETS // n, namespace, None) for number in range(n)]


def make_bucket(number: int, tag: int, namespace: bytes, marker: bytes | None) -> Bucket:
    """Return the bucket that a marker stands for.

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
        incarnation, batch = marker[:INCARNATION_BYTES], marker[_BATCH_AT:]
        generation = marker[INCARNATION_BYTES:_BATCH_AT]
    records, keys, expiries = (prefix + kind + generation for kind in _OF_RECORDS)
    slot, marker_key = tag * (SLOTS // MAX_BUCKETS), prefix + b"m" + namespace
    return Bucket(number, tag, slot, prefix, marker_key, marker, incarnation, records, keys, expiries, batch)


def is_incarnation(incarnation: bytes) -> bool:
    """Return whether bytes can be an incarnation, or its identity, whose last one says how many buckets there are."""
    return len(incarnation) in (IDENTITY_BYTES, INCARNATION_BYTES) and buckets_of(incarnation) <= MAX_BUCKETS


def is_of(marker: bytes | None, incarnation: bytes) -> bool:
    """Return whether a marker says that the bucket belongs to an incarnation."""
    return marker is not None and len(marker) > IDENTITY_BYTES and marker[:INCARNATION_BYTES] == incarnation


def buckets_of(incarnation: bytes) -> int:
    """Return the number of buckets of a namespace."""
    return 1 << incarnation[IDENTITY_BYTES - 1]


def tells_of_end(marker: bytes | None, incarnation: bytes) -> bool:
    """Return whether a marker is the tombstone of an incarnation, or is of a later one, which begins after its end.

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


def registry_key(namespace: bytes) -> bytes:
    """Return the name of the hash that says whether a namespace exists, and holds its facts."""
    return b"rs:" + namespace
