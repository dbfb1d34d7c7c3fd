"""Who may add captures: one token per satellite, known here only by its hash.

A token lets one satellite add captures and nothing else; which satellite it is says the token, never the upload.
"""

from __future__ import annotations

import dataclasses
import hashlib
import hmac
import re
import secrets
from datetime import UTC, datetime

from mww_ha.devices.known import read_secrets
from mww_ha.errors import InputError
from mww_ha.schema import Token
from mww_ha.store import Catalogue, Project, now

TOKEN_BYTES = 32

_SHORTEST, _LONGEST = 40, 200  # 32 bytes are 43 characters of base64 or 64 of hex
_PLAIN = re.compile(r"[!-~]+", re.ASCII)
_SECRETS_FILE = "esphome/mww_ha/capture/secrets.yaml"


def make_token(project: Project, device: str) -> str:
    """A new token for ``device``. It is returned this once; only its hash is kept."""
    token = secrets.token_urlsafe(TOKEN_BYTES)
    admit_token(project, device, token)
    return token


def admit_token(project: Project, device: str, token: str) -> Token:
    """Lets in the holder of an existing token, such as the one that was rendered into firmware; again is no change.

    Raises InputError for a token that is too short to be secret, was revoked, or belongs to another satellite.
    """
    if not device:
        raise ValueError("a token belongs to a device")
    if not _SHORTEST <= len(token) <= _LONGEST or not _PLAIN.fullmatch(token):
        raise InputError(
            f"the capture token of {device} is not {_SHORTEST} to {_LONGEST} printable ASCII characters without spaces",
            hint=f"delete its line in {_SECRETS_FILE}; the next flash makes a new one",
        )
    sha256 = hash_token(token)
    with project.catalogue.transaction(durable=True):
        for known in project.catalogue.tokens():
            if known.sha256 != sha256:
                continue
            if known.device != device:
                raise InputError(
                    f"the capture token of {device} is that of {known.device}",
                    hint=f"delete the line of {device} in {_SECRETS_FILE}; the next flash makes a new one",
                )
            if known.revoked_at:
                raise InputError(
                    f"the capture token of {device} was revoked at {known.revoked_at}",
                    hint=f"delete its line in {_SECRETS_FILE} and flash again; that makes a new one",
                )
            return known
        made = Token(sha256=sha256, device=device, scope=scope_of(device), made_at=now())
        project.catalogue.put_token(made)
    return made


def admit_rendered(project: Project) -> list[InputError]:
    """Lets in every device whose firmware carries a token; again is no change. Returns why others are not let in."""
    path = project.root / _SECRETS_FILE
    refused: list[InputError] = []
    for device, token in (read_secrets(path) if path.exists() else {}).items():
        try:
            admit_token(project, device, str(token))
        except InputError as error:  # one satellite's token is no reason to turn the next one away
            refused.append(error)
    return refused


def scope_of(device: str) -> str:
    """What the token of ``device`` may do."""
    return f"device:{device}:append"


def hash_token(token: str) -> str:
    """SHA-256 in hex. No salt: a token is 256 random bits, nothing that could be looked up."""
    return hashlib.sha256(token.encode()).hexdigest()


def find_token(catalogue: Catalogue, token: str) -> Token | None:
    """The entry of ``token``, also a revoked one. Every known hash is compared, each in constant time."""
    sha256 = hash_token(token)
    found = None
    for known in catalogue.tokens():
        if hmac.compare_digest(known.sha256, sha256):
            found = known
    return found


def note_use(catalogue: Catalogue, token: Token, at: datetime) -> None:
    """Notes that the token was used, to the hour: at most one write an hour and token."""
    hour = at.astimezone(UTC).replace(minute=0, second=0, microsecond=0).isoformat(timespec="seconds")
    if token.last_used_at < hour:
        catalogue.put_token(dataclasses.replace(token, last_used_at=hour))


def list_tokens(project: Project) -> list[Token]:
    """All tokens, oldest first."""
    return project.catalogue.tokens()


def revoke_tokens(project: Project, device: str, *, sha256: str = "") -> int:
    """Ends all tokens of ``device``, or the one with this hash. Returns how many were in force."""
    number = 0
    with project.catalogue.transaction(durable=True):
        for known in project.catalogue.tokens():
            if known.device == device and sha256 in ("", known.sha256) and not known.revoked_at:
                project.catalogue.put_token(dataclasses.replace(known, revoked_at=now()))
                number += 1
    return number
