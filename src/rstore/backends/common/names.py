"""Names of namespaces, keys and logs as a store keeps them: bytes, which damage may have made no text."""

from __future__ import annotations

from collections.abc import Iterable

from rstore.errors import CorruptionError


def names_of(raws: Iterable[bytes], what: str, *, around_damage: bool = False) -> list[str]:
    """Return names as text; damaged ones are left out, or refused."""
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
