"""Logins that the program is asked for at each new connection: tokens rotate."""

from __future__ import annotations

from redis import CredentialProvider

from rstore.backends.credentials import Credentials, ask_for_login


class AskedLogin(CredentialProvider):
    """Asks a function of the program; redis-py calls it whenever it connects."""

    def __init__(self, credentials: Credentials, user: str | None, where: str) -> None:
        self._credentials = credentials
        self._user = user
        self._where = where

    def get_credentials(self) -> tuple[str] | tuple[str, str]:
        """Return the password, with the user if one is named."""
        login = ask_for_login(self._credentials, f"the Redis server {self._where}")
        user = login.user or self._user
        return (login.password,) if user is None else (user, login.password)
