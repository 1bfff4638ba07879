"""TLS before a Redis server that has none: one's own certificate, and a tunnel that ends the encryption."""

from __future__ import annotations

import select
import socket
import ssl
import threading
import warnings
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from types import TracebackType
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


class Tunnel:
    """Takes TLS connections, and forwards what comes through them to a port of the loopback in the clear."""

    def __init__(
        self,
        port: int,
        certificate: Path,
        key: Path,
        *,
        most: ssl.TLSVersion | None = None,
        clients: Path | None = None,
    ) -> None:
        """`most` is the newest protocol that it speaks, `clients` vouches for those that it lets in."""
        self._to = port
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(certificate, key)
        if most is not None:
            self._context.set_ciphers("ALL:@SECLEVEL=0")  # as a server of that time
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)
                self._context.minimum_version = ssl.TLSVersion.TLSv1
                self._context.maximum_version = most
        if clients is not None:
            self._context.load_verify_locations(clients)
            self._context.verify_mode = ssl.CERT_REQUIRED
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.accepted = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self.accepted += 1
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, plain: socket.socket) -> None:
        # One thread for both directions: a TLS connection is no thing for two.
        with (
            suppress(OSError),
            plain,
            self._context.wrap_socket(plain, server_side=True) as client,
            socket.create_connection(("127.0.0.1", self._to)) as server,
        ):
            while True:
                ready = [client] if client.pending() else select.select([client, server], [], [])[0]
                for source, sink in ((client, server), (server, client)):
                    if source in ready:
                        data = source.recv(1 << 16)
                        if not data:
                            return
                        sink.sendall(data)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.close()


class Authority:
    """An authority that signs certificates."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "authority")])
        self._n = 0
        self.file = directory / "authority.pem"
        made = _make(self._name, self._name, self._key, self._key, (), ca=True)
        self.file.write_bytes(made.public_bytes(serialization.Encoding.PEM))

    def certify(self, *names: str, passphrase: bytes | None = None) -> tuple[Path, Path]:
        """Return the files of a certificate for some hosts, and of its key."""
        self._n += 1
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])])
        made = _make(name, self._name, key, self._key, names, ca=False)
        return _write(self._directory, f"{self._n}-", made, key, passphrase)


def certify(directory: Path) -> tuple[Path, Path]:
    """Return a certificate for 127.0.0.1 that vouches for itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    return _write(directory, "", _make(name, name, key, key, ("127.0.0.1",), ca=True), key, None)


def _make(
    name: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    signer: ec.EllipticCurvePrivateKey,
    hosts: tuple[str, ...],
    *,
    ca: bool,
) -> x509.Certificate:
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
    )
    if hosts:
        said = [x509.IPAddress(ip_address(host)) if host[0].isdigit() else x509.DNSName(host) for host in hosts]
        made = made.add_extension(x509.SubjectAlternativeName(said), critical=False)
    return made.sign(signer, hashes.SHA256())


def _write(
    directory: Path, prefix: str, made: x509.Certificate, key: ec.EllipticCurvePrivateKey, passphrase: bytes | None
) -> tuple[Path, Path]:
    paths = directory / f"{prefix}certificate.pem", directory / f"{prefix}key.pem"
    paths[0].write_bytes(made.public_bytes(serialization.Encoding.PEM))
    sealing = serialization.BestAvailableEncryption(passphrase) if passphrase else serialization.NoEncryption()
    paths[1].write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, sealing))
    return paths
