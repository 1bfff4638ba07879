"""Credentials that a function returns, asked for by each new connection to PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from postgresql import Server

from rstore import Store, StoreNotAvailableError


@pytest.fixture
def vault(postgresql: Server, postgresql_schema: str) -> Iterator[Vault]:
    with postgresql.role("rotating", "SUPERUSER"):
        yield Vault(postgresql, postgresql_schema)
        postgresql.execute(f'ALTER SCHEMA "{postgresql_schema}" OWNER TO postgres')
        postgresql.execute("REASSIGN OWNED BY rotating TO postgres")


class Vault:
    """A vault that gives out the one token that the server takes now."""

    def __init__(self, server: Server, schema: str) -> None:
        self.server = server
        self.dsn = f"postgresql://rotating@127.0.0.1:{server.port}/postgres?schema={schema.replace(' ', '%20')}"
        self.asked = 0
        self.rotate()

    def rotate(self) -> None:
        self.token = f"token-{self.asked}-{id(self)}"
        self.server.execute(f"ALTER ROLE rotating PASSWORD '{self.token}'")

    def password(self) -> str:
        self.asked += 1
        return self.token

    def login(self) -> tuple[str, str]:
        self.asked += 1
        return "rotating", self.token


def test_a_token_that_rotates_is_asked_for_by_each_new_connection(vault: Vault) -> None:
    with Store(vault.dsn, frozen=False, credentials=vault.password) as store:
        store["k"] = 1
        assert vault.asked == 1
        vault.rotate()
        assert store["k"] == 1  # on the connection that is there
        assert vault.asked == 1
        vault.server.terminate()
        assert store["k"] == 1
        assert vault.asked == 2


def test_a_pair_names_the_user_too(vault: Vault) -> None:
    with Store(vault.dsn.replace("rotating@", "nobody_at_all@"), frozen=False, credentials=vault.login) as store:
        store["k"] = 1
        assert store["k"] == 1


def test_who_watches_is_asked_as_well(vault: Vault) -> None:
    with Store(vault.dsn, frozen=False, credentials=vault.password) as store:
        store["k"] = 1
        with store.watch("k", timeout=10) as changes:
            store["k"] = 2
            assert next(changes).key == "k"
        assert vault.asked == 2


def test_a_token_that_is_over_says_so(vault: Vault) -> None:
    Store(vault.dsn, frozen=False, credentials=vault.password).open().close()
    with pytest.raises(StoreNotAvailableError, match="password"):
        Store(vault.dsn, credentials=lambda: "yesterday").open()
