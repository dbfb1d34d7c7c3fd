"""What several test files share: a project of one's own, and nothing of the user's."""

from __future__ import annotations

import shutil
import signal
import socket
from asyncio.selector_events import BaseSelectorEventLoop
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from tiny_project import write_settings

from mww_ha import pipeline
from mww_ha.store import Project, create_project

# A shell that starts tests in the background has them ignore Ctrl-C, and every child would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

# The same examples each time, however slow the machine; pytest --hypothesis-profile=search tries others.
_PATIENT = hypothesis.settings(deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.register_profile("search", _PATIENT)
hypothesis.settings.register_profile("gate", _PATIENT, derandomize=True)
hypothesis.settings.load_profile("gate")

_accept: Any = BaseSelectorEventLoop._accept_connection2  # type: ignore[attr-defined]


async def _accept_unless_closed(
    loop: Any, factory: Any, connection: socket.socket, extra: Any, tls: Any, server: Any, *rest: Any
) -> None:
    """CPython's gh-109564: a connection accepted in the moment in which its server closes was left open for ever."""
    if server is not None and not server.sockets:
        connection.close()
        return
    await _accept(loop, factory, connection, extra, tls, server, *rest)


BaseSelectorEventLoop._accept_connection2 = _accept_unless_closed  # type: ignore[attr-defined]


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


@pytest.fixture(scope="session")
def prepared_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny project with speech and features. Only to be read: ``prepared`` is a copy."""
    root = tmp_path_factory.mktemp("tiny") / "project"
    made = write_settings(root)
    pipeline.run(made, until="prepare")
    made.catalogue.close()
    return root


@pytest.fixture
def prepared(prepared_root: Path, tmp_path: Path) -> Iterator[Project]:
    """A tiny project with speech and features, of one's own."""
    shutil.copytree(prepared_root, tmp_path / "prepared")
    made = write_settings(tmp_path / "prepared")
    yield made
    made.catalogue.close()


@pytest.fixture(scope="session")
def trained_root(prepared_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny project trained in one go. Only to be read."""
    root = tmp_path_factory.mktemp("trained") / "project"
    shutil.copytree(prepared_root, root)
    made = write_settings(root)
    pipeline.run(made, until="train")
    made.catalogue.close()
    return root
