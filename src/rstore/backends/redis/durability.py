"""The durability of Redis servers, as INFO tells it, and CONFIG where the user may ask for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from rstore.backends.maintenance import Durability

_MEANINGS = {
    "always": "what a call has stored is on the server's disk, as far as the disk keeps its promises",
    "everysec": "a crash may undo the calls of the last two seconds",
    "no": "a crash may undo the calls of the last half minute: the system writes to the disk when it likes",
    "unknown": "whether a crash undoes calls the server does not tell this user, who may not ask for its configuration",
    "off": "a crash undoes all calls since the server's last snapshot, if it makes any",
    "failing": "the server cannot write its log at the moment: a crash may undo any call since",
}
_FROM_WEAK_TO_STRONG = ("off", "failing", "no", "everysec", "unknown", "always")
SETTINGS = ("appendonly", "appendfsync", "no-appendfsync-on-rewrite", "save")
_FACTS = (
    "role",
    "aof_enabled",
    "aof_last_write_status",
    "rdb_last_bgsave_status",
    "connected_slaves",
    "maxmemory_policy",
)
_KEEPS_ALL = "noeviction"


class ServerDurability(NamedTuple):
    """The durability of one server, and the settings that it was read from."""

    kind: str
    settings: dict[str, str]

    @staticmethod
    def weakest(servers: Sequence[ServerDurability], *, wait_replicas: int) -> Durability:
        """Return the durability of all servers together: that of the weakest."""
        kind = min((one.kind for one in servers), key=_FROM_WEAK_TO_STRONG.index)
        survives = {"always": True, "unknown": None}.get(kind, False)
        names = dict.fromkeys(name for one in servers for name in one.settings)
        settings = {
            name: ", ".join(sorted({one.settings.get(name, "unknown") for one in servers})) for name in names
        } | {"wait_replicas": f"{wait_replicas}"}
        meaning = _MEANINGS[kind]
        if wait_replicas:
            meaning += f"; {wait_replicas} replicas have confirmed it, one of which is most likely to take over"
        policies = {one.settings.get("maxmemory_policy", _KEEPS_ALL) for one in servers} - {_KEEPS_ALL}
        if policies:
            meaning += (
                "; but the server evicts keys when its memory is full, and what is stored may vanish at any time "
                f"(maxmemory-policy {', '.join(sorted(policies))})"
            )
        return Durability(survives, survives, True, wait_replicas > 0, meaning, settings)


def durability_of(info: Mapping[bytes, bytes], config: Mapping[str, str]) -> ServerDurability:
    """Return the durability of one server."""
    facts = {name: info[name.encode()].decode() for name in _FACTS if name.encode() in info}
    settings = {name: config.get(name, "unknown") for name in SETTINGS} | facts
    if facts.get("aof_enabled", "1") != "1":
        return ServerDurability("off", settings)
    if facts.get("aof_last_write_status", "ok") != "ok":
        return ServerDurability("failing", settings)
    if settings["no-appendfsync-on-rewrite"] == "yes":  # while the server rewrites its log or takes a snapshot
        return ServerDurability("no", settings)
    return ServerDurability(settings["appendfsync"], settings)
