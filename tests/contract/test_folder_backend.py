"""The backend of examples/folder_backend is held to the suite, as that of another distribution would be."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from distributions import add_distribution

from rstore.testing import PICKLED, Flavour, StoreSuite

EXAMPLE = Path(__file__).parent.parent.parent / "examples" / "folder_backend"


@pytest.fixture(scope="session", autouse=True)
def _registered(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Register it as an installation would; second processes get the path of this one."""
    project = tomllib.loads((EXAMPLE / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    with pytest.MonkeyPatch.context() as patch:
        site = tmp_path_factory.mktemp("site")
        add_distribution(site, project["name"], project["entry-points"]["rstore.backends"], project["version"])
        patch.syspath_prepend(site)
        yield


class TestFolder(StoreSuite):
    @pytest.fixture(params=PICKLED, ids=str)
    def flavour(self, request: pytest.FixtureRequest) -> Flavour:
        """Return how the test keeps its values: pickled, plain and encrypted."""
        flavour: Flavour = request.param
        return flavour

    @pytest.fixture
    def dsn(self, tmp_path: Path) -> str:
        return f"folder://{tmp_path}/store"
