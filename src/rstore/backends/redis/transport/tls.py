"""TLS, as a DSN asks for it: TLS 1.2 at least, and a certificate that bears the name of the host.

A port is asked whether it speaks TLS after a connection failed: TLS on one side looks like no server.
"""

from __future__ import annotations

import socket
import ssl
from typing import Any, Final

from rstore.errors import InvalidValueError, StoreNotAvailableError

_PATHS: Final = ("ssl_ca_certs", "ssl_ca_path", "ssl_certfile", "ssl_keyfile")
_VERSIONS: Final = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}
_CHECKS: Final = ("required", "optional", "none")
_MAX_PROBE_S: Final = 1.0
_FLAGS: Final = {"true": True, "false": False}
TLS: Final = frozenset({*_PATHS, "ssl_cert_reqs", "ssl_check_hostname", "ssl_min_version"})
"""The options of a DSN."""


def check_tls(options: dict[str, str]) -> dict[str, Any]:
    """Return the options as redis-py takes them.

    Raises `InvalidValueError`.
    """
    checks = options.get("ssl_cert_reqs", "required")
    if checks not in _CHECKS:
        raise InvalidValueError(f"ssl_cert_reqs of a Redis DSN is one of {', '.join(_CHECKS)}")
    version = options.get("ssl_min_version", "1.2")
    if version not in _VERSIONS:
        raise InvalidValueError(f"ssl_min_version of a Redis DSN is {' or '.join(_VERSIONS)}: older ones are broken")
    named = options.get("ssl_check_hostname", "true").lower()
    if named not in _FLAGS:
        raise InvalidValueError("ssl_check_hostname of a Redis DSN is true or false")
    if ("ssl_keyfile" in options) > ("ssl_certfile" in options):
        raise InvalidValueError("ssl_keyfile of a Redis DSN is the key of a certificate: give ssl_certfile, too")
    return {
        **{name: options[name] for name in _PATHS if name in options},
        "ssl_cert_reqs": checks,
        "ssl_check_hostname": _FLAGS[named],
        "ssl_min_version": _VERSIONS[version],
    }


def check_files(options: dict[str, Any]) -> None:
    """Refuse certificates and keys that cannot be read; a connection would say that the server cannot be reached.

    Raises `StoreNotAvailableError`, which names the option.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authorities = {"cafile": options.get("ssl_ca_certs"), "capath": options.get("ssl_ca_path")}
    certificate = options.get("ssl_certfile")
    named = "ssl_ca_certs or ssl_ca_path"
    try:
        if any(authorities.values()):
            context.load_verify_locations(**authorities)
        named = "ssl_certfile or ssl_keyfile"
        if certificate is not None:
            # A key with a passphrase is refused: asking for it would stop the program at its terminal.
            context.load_cert_chain(certificate, options.get("ssl_keyfile"), password=_no_passphrase)
    except (OSError, ValueError) as error:  # of the first kind are those of ssl
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise StoreNotAvailableError(f"{named} of the Redis DSN cannot be used: {reason}") from error


def _no_passphrase() -> str:
    raise ValueError("the key has a passphrase")


def tls_on_one_side(address: tuple[str, int], within_s: float, *, tls: bool) -> str | None:
    """Return a reason if either the DSN or the server speaks TLS, and the other one does not."""
    timeout_s = max(0.1, min(within_s, _MAX_PROBE_S))
    if tls and _answers_plainly(address, timeout_s):
        return "it answers without TLS: TLS on one side only? Leave out one s of the DSN's scheme (redis:// is plain)"
    if not tls and _shakes_hands(address, timeout_s):
        return "it speaks TLS: TLS on one side only? Use rediss://, rediss+cluster:// or rediss+sentinel://"
    return None


def _answers_plainly(address: tuple[str, int], timeout_s: float) -> bool:
    try:
        with socket.create_connection(address, timeout_s) as plain:
            plain.settimeout(timeout_s)
            plain.sendall(b"PING\r\n")
            return plain.recv(1) in (b"+", b"-")
    except OSError:
        return False


def _shakes_hands(address: tuple[str, int], timeout_s: float) -> bool:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    # Nothing is sent through it, and what it says of itself is not believed.
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        with socket.create_connection(address, timeout_s) as plain, context.wrap_socket(plain):
            return True
    except ssl.SSLError as error:
        return "ALERT" in (error.reason or "")  # it speaks TLS, and wants something of us
    except OSError:
        return False
