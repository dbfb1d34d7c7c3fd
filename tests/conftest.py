"""What several test files share: a project of one's own, and nothing of the user's."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from mww_ha.store import Project, create_project


@pytest.fixture(autouse=True)
def _nothing_of_the_users(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Voices that the user downloaded would change what a test sees."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path_factory.getbasetemp() / "data-home"))


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    """A new project for ``hey kitchen``."""
    made = create_project(tmp_path / "project", "hey kitchen")
    yield made
    made.catalogue.close()
