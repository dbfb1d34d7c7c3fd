"""Files in the ESPHome folder: ours, which carry a digest in their first line, and the user's, which are left alone.

A file of ours that was changed by hand is refused, or replaced and kept as ``*.bak``. ``secrets.yaml`` is the user's,
made once; ``mww_ha/capture/secrets.yaml`` is ours and holds one token for each device that sends captures.
"""

from __future__ import annotations

import base64
import fcntl
import hashlib
import os
import re
import secrets
import shutil
import stat
import tempfile
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from mww_ha import store
from mww_ha.devices.known import SECRETS_FILE, read_secrets
from mww_ha.errors import ConfigError

SECRET_NAMES = ("wifi_ssid", "wifi_password", "mww_api_encryption_key", "mww_ota_password")
"""What ``secrets.yaml`` is made with."""

_WIFI_PLACEHOLDERS = {"wifi_ssid": "your-wifi-name", "wifi_password": "your-wifi-password"}
_MARK = "Rendered by mww-ha, digest "
_COMMENT = {".h": "//", ".hpp": "//", ".c": "//", ".cpp": "//"}
_SOURCES = (".py", ".h", ".hpp", ".c", ".cpp")
_TOKEN = re.compile(r"[A-Za-z0-9._~+/=-]{20,200}")


# --- files with a digest ------------------------------------------------------------------------------------------


def refuse_changed_by_hand(files: Iterable[Path], force: bool) -> None:
    """Raises ConfigError for the first of ``files`` that is there and not as we left it; ``force`` keeps a copy."""
    for path in files:
        if not (path.exists() or path.is_symlink()):
            continue
        try:
            text = path.read_bytes().decode("utf-8")
        except (OSError, UnicodeDecodeError):
            text = ""
        if is_untouched(path, text):
            continue
        if not force:
            what = "was changed by hand" if text.startswith(_mark(path)) else "was not made by mww-ha"
            raise ConfigError(
                f"{path} {what} and is left as it is",
                hint="choose another --name, move the file away, or replace it with --force (it is kept as .bak)",
            )
        if path.exists():
            with store.storage_errors(path):
                shutil.copy2(path, path.with_name(f"{path.name}.bak"))


def write_owned(path: Path, body: str) -> None:
    """Writes ``body`` below its digest; the same content is not written again."""
    text = f"{_mark(path)}{hashlib.sha256(body.encode()).hexdigest()}\n{body}"
    if not (path.is_file() and path.read_bytes() == text.encode()):
        store.write_text(path, text)


def remove_left_over(folder: Path, wanted: Iterable[Path]) -> None:
    """Removes sources in ``folder`` that an older version wrote and this one does not: they would be compiled."""
    keep = set(wanted)
    for path in sorted(folder.glob("*")):
        if path in keep or path.suffix not in _SOURCES or not path.is_file():
            continue
        try:
            untouched = is_untouched(path, path.read_bytes().decode("utf-8"))
        except UnicodeDecodeError:
            untouched = False
        if untouched:
            path.unlink()


def component_sources(folder: Path) -> dict[str, str]:
    """The sources of an ESPHome component, by name; its README stays behind."""
    return {p.name: p.read_text(encoding="utf-8") for p in sorted(folder.iterdir()) if p.suffix in _SOURCES}


def _mark(path: Path) -> str:
    return f"{_COMMENT.get(path.suffix, '#')} {_MARK}"


def is_untouched(path: Path, text: str) -> bool:
    """Whether ``text``, found at ``path``, is what we wrote there."""
    first, _, body = text.partition("\n")
    mark = _mark(path)
    return first.startswith(mark) and first.removeprefix(mark) == hashlib.sha256(body.encode()).hexdigest()


# --- the user's secrets -------------------------------------------------------------------------------------------


def create_secrets(path: Path) -> bool:
    """Makes ``secrets.yaml`` for its owner only; never touches one that is there. True when it was made."""
    key = base64.b64encode(secrets.token_bytes(32)).decode()
    text = (
        "# Yours: mww-ha made this once; only what you type into its panel is written here again. Do not share it.\n"
        f'wifi_ssid: "{_WIFI_PLACEHOLDERS["wifi_ssid"]}"\n'
        f'wifi_password: "{_WIFI_PLACEHOLDERS["wifi_password"]}"\n'
        "# Home Assistant asks for this key when it finds the device.\n"
        f'mww_api_encryption_key: "{key}"\n'
        f'mww_ota_password: "{secrets.token_urlsafe(18)}"\n'
    )
    if path.exists():
        return False
    with _private_file(path, text) as name:
        try:
            os.link(name, path)  # unlike a rename it fails when another process was first
        except FileExistsError:
            return False
    ignored = path.with_name(".gitignore")
    if not ignored.exists():
        store.write_text(ignored, f"/{SECRETS_FILE}\n/.esphome/\n")
    return True


def fill_secrets(path: Path, values: Mapping[str, str]) -> list[str]:
    """Writes what somebody typed into the user's ``secrets.yaml``, which is made where there is none.

    The Wi-Fi may be changed; any other secret is written only where there is none yet, for the satellites that were
    flashed with it know no other. An API key or a password for updates that is left empty is made up. Everything else
    in the file stays, comments too. Returns the names that were written. Raises ConfigError, which quotes no value,
    StorageError.
    """
    with _filling_secrets:
        create_secrets(path)
        before = read_secrets(path)
        changes = {name: _checked_secret(name, value) for name, value in values.items()}
        fixed = [name for name in changes if name in before and name not in _WIFI_PLACEHOLDERS]
        if fixed:
            raise ConfigError(
                f"{', '.join(fixed)} stands in {path} already, and satellites may know it",
                hint="to change it, edit the file, and flash them by cable or with the old one still in force",
            )
        text = store.change_yaml(path.read_text(encoding="utf-8"), changes, where=str(path))
        with _private_file(path, text) as name:
            if read_secrets(Path(name)) != before | changes:
                raise ConfigError(f"{path} cannot be changed from here", hint="edit it by hand")
            Path(name).replace(path.resolve())
        return list(changes)


def _checked_secret(name: str, value: str) -> str:
    """``value``, or a fresh one where it is empty and can be made up. Raises ConfigError, which does not quote it."""
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_-]{0,39}", name, re.ASCII):
        raise ConfigError(f"{name[:40]!a} is no name of a secret", hint="use letters, digits and _")
    if not value.isprintable():
        raise ConfigError(f"{name} has characters that cannot be shown", hint="write one line of plain text")
    if name == "wifi_ssid" and not 1 <= len(value.encode()) <= 32:
        raise ConfigError(f"{name} has {len(value.encode())} bytes", hint="the name of a Wi-Fi has 1 to 32")
    if name == "wifi_password" and value and not 8 <= len(value) <= 64:
        raise ConfigError(f"{name} has {len(value)} characters", hint="it has 8 to 64, or none in an open Wi-Fi")
    if name == "mww_ota_password":
        return value or secrets.token_urlsafe(18)
    if name in _WIFI_PLACEHOLDERS:
        return value
    if not value:
        return base64.b64encode(secrets.token_bytes(32)).decode()
    try:
        key = base64.b64decode(value, validate=True)
    except ValueError:
        key = b""
    if len(key) != 32:
        raise ConfigError(
            f"{name} is no API key", hint="it is 32 bytes in base64, as ESPHome shows it; or leave it empty"
        )
    return value


_filling_secrets = threading.Lock()


def check_secrets(path: Path, names: Iterable[str]) -> None:
    """Raises ConfigError for the ``names`` that the user's ``secrets.yaml`` lacks."""
    document = read_secrets(path)
    missing = [name for name in names if name not in document]
    if missing and "<<" not in document:  # "<<": more secrets from another file, which ESPHome resolves
        raise ConfigError(
            f"{path} lacks {', '.join(missing)}",
            hint="add them there, or in the panel under Devices; a key is made by: openssl rand -base64 32",
        )


def wifi_placeholders(path: Path) -> list[str]:
    """Names of the Wi-Fi secrets that nobody filled in yet."""
    document = read_secrets(path)
    return [name for name, placeholder in _WIFI_PLACEHOLDERS.items() if document.get(name) == placeholder]


@contextmanager
def _private_file(path: Path, text: str) -> Iterator[str]:
    """A complete file beside ``path`` that only its owner can read; gone after the block unless renamed."""
    with store.storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)  # mode 0600
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            yield name
        finally:
            Path(name).unlink(missing_ok=True)


# --- tokens of captures -------------------------------------------------------------------------------------------


def ensure_token(folder: Path, host: str) -> bool:
    """Sees to it that ``folder/secrets.yaml`` holds a token for ``host``. True when one was made.

    A token is made once and stays; those of other devices stay as well. The file is for its owner only, and is made so
    when it is not. Raises ConfigError on a file that cannot be read, a link, or a token no header can carry.
    """
    path = folder / SECRETS_FILE
    with store.storage_errors(path):
        folder.mkdir(parents=True, exist_ok=True)
        write_owned(folder / ".gitignore", f"/{SECRETS_FILE}\n/.lock\n")
        with (folder / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # two renders at once must not lose one another's token
            known = check_tokens(folder)
            if path.exists() and stat.S_IMODE(path.stat().st_mode) & 0o077:
                path.chmod(0o600)
            if host in known:
                return False
            text = (
                path.read_text(encoding="utf-8") if path.exists() else "# One token for each device; made by mww-ha.\n"
            )
            text += "" if text.endswith("\n") else "\n"
            with _private_file(path, f'{text}"{host}": "{secrets.token_urlsafe(32)}"\n') as name:
                Path(name).replace(path)
    return True


def check_tokens(folder: Path) -> Mapping[str, str]:
    """The tokens by device. Raises ConfigError, which never quotes one."""
    path = folder / SECRETS_FILE
    for place in (folder, path):
        if place.is_symlink():
            raise ConfigError(
                f"{place} is a link; tokens are not written through it", hint="remove it, and mww-ha makes its own"
            )
    if not path.exists():
        return {}
    if not path.is_file():
        raise ConfigError(f"{path} is not a file", hint="remove it, and mww-ha makes its own")
    known = read_secrets(path) if _has_entries(path) else {}
    for host, token in known.items():
        if not isinstance(token, str) or not _TOKEN.fullmatch(token):
            raise ConfigError(
                f"{path}: the token of {host} cannot be sent in a header",
                hint="use 20 to 200 letters, digits or - . _ ~ + / =, or remove the line for a fresh token",
            )
    return known


def _has_entries(path: Path) -> bool:
    text = path.read_text(encoding="utf-8", errors="replace")
    return any(line.strip() and not line.lstrip().startswith("#") for line in text.splitlines())
