"""The entry point of Home Assistant's app: its options become the service's environment, then the service takes over.

``python -m mww_ha.web.appstart`` reads ``/data/options.json``, makes the folders that the service expects below
``/data`` and becomes ``mww-ha serve``. Everything else that an app needs to know, where what lies and that ingress is
on, is constant and stands in the image (``addon/Dockerfile``).
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

from mww_ha.errors import ConfigError, MwwError
from mww_ha.store import storage_errors

DATA = Path("/data")
OPTIONS_FILE = "options.json"
PROJECT_DIR = "project"

_LONGEST_OPTIONS = 64 << 10


def read_options(path: Path) -> dict[str, str]:
    """What the user set in Home Assistant, as environment variables. Raises ConfigError.

    The Supervisor has checked it against the schema of ``addon/config.yaml``. No file at all: nothing is set.
    """
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}", hint="restart the app") from None
    try:
        document: Any = json.loads(text[:_LONGEST_OPTIONS])
    except ValueError:
        document = None
    if not isinstance(document, dict):
        raise ConfigError(f"{path} holds no options", hint="save the app's configuration in Home Assistant once more")
    piper = document.get("piper") or ""
    if not isinstance(piper, str):
        raise ConfigError(f"the option piper is {piper!r}", hint="write wyoming://host:10200, or leave it empty")
    return {"MWW_HA_PIPER": piper.strip()} if piper.strip() else {}


def prepare(data: Path, environ: Mapping[str, str]) -> tuple[list[str], dict[str, str]]:
    """Command line and environment of the service; makes the folders it needs. Raises ConfigError, StorageError."""
    from mww_ha.train import install

    environment = {**environ, **read_options(data / OPTIONS_FILE)}
    project = data / PROJECT_DIR
    with storage_errors(project):
        project.mkdir(mode=0o700, parents=True, exist_ok=True)
        install.make_room(environment)
    # Whoever may come in is decided by the peer's address, see access.py; the network is the app's own.
    serve = ["serve", "--host", "0.0.0.0", "--port", "8099", "--device-port", "8098"]  # noqa: S104
    # -P: what lies in the current folder is no module of ours.
    return [sys.executable, "-P", "-m", "mww_ha", "--project", str(project), *serve], environment


def main(
    data: Path = DATA,
    *,
    environ: Mapping[str, str] = os.environ,
    become: Callable[[str, list[str], Mapping[str, str]], Any] = os.execve,
) -> NoReturn:
    """Becomes the service. Exits with the error's code when something the user can change is in the way."""
    try:
        command, environment = prepare(data, environ)
    except MwwError as error:
        print(f"mww-ha: {error}", file=sys.stderr, flush=True)  # noqa: T201  the app's log is all there is
        sys.exit(error.exit_code)
    become(command[0], command, environment)
    raise AssertionError("the service returned")


if __name__ == "__main__":
    main()
