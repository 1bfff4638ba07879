"""TLS to Redis, with real certificates: whom they name, who vouches for them, and how old the protocol may be."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis_sentinels import Service
from redis_servers import SYSTEM, Server, executables, free_port
from redis_tls import Authority, Tunnel

from rstore import InvalidArgumentError, Store, StoreNotAvailableError


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("server")) as server:
        yield server


def works(port: int, options: str, host: str = "127.0.0.1") -> bool:
    try:
        with Store(f"rediss://{host}:{port}?{options}", frozen=False, timeout=2) as store:
            store["k"] = 1
            return bool(store["k"] == 1)
    except StoreNotAvailableError:
        return False


def test_the_name_of_the_host_is_looked_at(server: Server, authority: Authority) -> None:
    trusted = f"ssl_ca_certs={authority.file}"
    with Tunnel(server.port, *authority.certify("redis.example.com")) as tunnel:
        assert not works(tunnel.port, trusted)
        assert not works(tunnel.port, "ssl_check_hostname=false")  # nobody vouches for it
        assert works(tunnel.port, f"{trusted}&ssl_check_hostname=false")
    with Tunnel(server.port, *authority.certify("127.0.0.1", "localhost")) as tunnel:
        assert works(tunnel.port, trusted)
        assert works(tunnel.port, trusted, host="localhost")
        assert not works(tunnel.port, "")
        assert works(tunnel.port, "ssl_cert_reqs=none")


def test_no_protocol_older_than_1_2_is_spoken(server: Server, authority: Authority) -> None:
    trusted = f"ssl_ca_certs={authority.file}"
    certificate = authority.certify("127.0.0.1")
    for most, least in ((ssl.TLSVersion.TLSv1_1, None), (ssl.TLSVersion.TLSv1_2, "1.2"), (None, "1.3")):
        with Tunnel(server.port, *certificate, most=most) as tunnel:
            assert works(tunnel.port, trusted) is (least is not None)
            assert works(tunnel.port, f"{trusted}&ssl_min_version=1.3") is (least == "1.3")


def test_a_server_may_ask_for_a_certificate(server: Server, authority: Authority) -> None:
    trusted = f"ssl_ca_certs={authority.file}"
    mine, key = authority.certify("client")
    with Tunnel(server.port, *authority.certify("127.0.0.1"), clients=authority.file) as tunnel:
        assert not works(tunnel.port, trusted)
        assert works(tunnel.port, f"{trusted}&ssl_certfile={mine}&ssl_keyfile={key}")


@pytest.mark.parametrize("name", ["ssl_ca_certs", "ssl_certfile", "ssl_keyfile"])
@pytest.mark.parametrize("fault", ["missing", "empty", "garbage"])
def test_a_file_that_cannot_be_used_is_named(authority: Authority, tmp_path: Path, name: str, fault: str) -> None:
    mine, _ = authority.certify("client")
    file = tmp_path / "file.pem"
    if fault != "missing":
        file.write_text("" if fault == "empty" else "-----BEGIN CERTIFICATE-----\nxx\n")
    options = f"{name}={file}" + (f"&ssl_certfile={mine}" if name == "ssl_keyfile" else "")
    with pytest.raises(StoreNotAvailableError, match=f"{name}.* cannot be used"):
        Store(f"rediss://127.0.0.1:{free_port()}?{options}", frozen=False).open()


def test_a_key_with_a_passphrase_does_not_stop_the_program(authority: Authority) -> None:
    mine, key = authority.certify("client", passphrase=b"hunter2")
    with pytest.raises(StoreNotAvailableError, match="ssl_keyfile"):
        Store(f"rediss://127.0.0.1:{free_port()}?ssl_certfile={mine}&ssl_keyfile={key}").open()


@pytest.mark.parametrize(
    "option",
    ["ssl_min_version=1.1", "ssl_min_version=x", "ssl_cert_reqs=x", "ssl_check_hostname=no", "ssl_keyfile=x"],
)
def test_what_is_no_option_is_refused(option: str) -> None:
    with pytest.raises(InvalidArgumentError, match=option.split("=", maxsplit=1)[0]):
        Store(f"rediss://h?{option}").open()


def test_sentinels_and_servers_that_speak_nothing_else(authority: Authority, tmp_path: Path) -> None:
    executable = executables().get(SYSTEM)
    if executable is None:
        pytest.skip("the bundled server has no TLS, and there is no redis-server or valkey-server on the PATH")
    certificate, key = authority.certify("127.0.0.1")
    service = Service(tmp_path, executable=executable, tls=(certificate, key, authority.file))
    try:
        dsn = service.dsn.replace("redis+", "rediss+") + f"?ssl_ca_certs={authority.file}"
        with Store(dsn, frozen=False, timeout=20) as store:
            store["k"] = 1
            before = service.master().port
            service.fail_over()
            store["k"] = 2
            assert store["k"] == 2
        assert service.master().port != before
        for wrong in (service.dsn, dsn.split("?")[0]):
            with pytest.raises(StoreNotAvailableError):
                Store(wrong, frozen=False, timeout=2).open()
    finally:
        service.kill()
