"""Find out whether a port speaks TLS, after a connection to it failed: TLS on one side looks like no server."""

from __future__ import annotations

import socket
import ssl

from redis import exceptions as driver

from rstore.backends.redis.transport.dsn import Address, Target
from rstore.errors import StoreError

_LONGEST_S = 1.0


def tls_on_one_side(target: Target, within_s: float) -> str | None:
    """Return a reason if either the DSN or a server that it names speaks TLS and the other one does not."""
    timeout_s = max(0.1, min(within_s, _LONGEST_S))
    for address in target.addresses[:1]:
        if target.tls and _answers_plainly(address, timeout_s):
            return (
                "it answers without TLS: TLS on one side only? Leave out one s of the DSN's scheme (redis:// is plain)"
            )
        if not target.tls and _shakes_hands(address, timeout_s):
            return "it speaks TLS: TLS on one side only? Use rediss://, rediss+cluster:// or rediss+sentinel://"
    return None


def is_mute(error: Exception) -> bool:
    """Return whether a server was reached, and said nothing that could be read."""
    cause = error.__cause__ if isinstance(error, StoreError) else error
    if isinstance(cause, driver.ResponseError | driver.AuthenticationError | driver.BusyLoadingError | None):
        return False
    return not isinstance(cause.__cause__ or cause.__context__, ConnectionRefusedError)


def _answers_plainly(address: Address, timeout_s: float) -> bool:
    try:
        with socket.create_connection(address, timeout_s) as plain:
            plain.settimeout(timeout_s)
            plain.sendall(b"PING\r\n")
            return plain.recv(1) in (b"+", b"-")
    except OSError:
        return False


def _shakes_hands(address: Address, timeout_s: float) -> bool:
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
