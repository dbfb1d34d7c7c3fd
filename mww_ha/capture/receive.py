"""Uploads of satellites → captures. The border to whatever is in the network: nothing of an upload is trusted.

Who sends is what the token says; names of files are made here; of sound only one form is taken; every size, rate and
waiting time is bounded. An upload is acknowledged when its sound and its row are on the disk, not before, and the same
upload once more is the same capture with the same answer.

No web framework in here: a route hands over headers, body and the peer's address, and answers with ``Receipt.status``
or ``UploadError.status``.
"""

from __future__ import annotations

import asyncio
import dataclasses
import ipaddress
import os
import re
import struct
import time
import unicodedata
import urllib.parse
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Self

import numpy as np

from mww_ha import audio
from mww_ha.capture import exposure, keep, tokens
from mww_ha.config import CaptureSettings
from mww_ha.errors import InputError, StorageError
from mww_ha.schema import SAMPLE_RATE_HZ, Capture, CaptureKind, Token, digest
from mww_ha.store import Catalogue, Project, storage_errors

PROTOCOL = "1"

WAV_HEADER_BYTES = 44
LONGEST_S = 10.0
"""No setting lets in more."""

BODY_TIMEOUT_S = 30.0
"""A satellite on bad Wi-Fi sends its 320 kB in this time, or again later."""

_LONGEST_HEADER = 1024
_LONGEST_TEXT = 256
_TEXT = re.compile(r"(?:[ -$&-~]|%[0-9A-Fa-f]{2})*", re.ASCII)
_UPLOAD = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)
_WHOLE = re.compile(r"[0-9]{1,10}", re.ASCII)
_DECIMAL = re.compile(r"[0-9]{1,4}(?:\.[0-9]{1,4})?", re.ASCII)
_BEARER = re.compile(r"Bearer ([!-~]{1,256})", re.ASCII)
_JOINERS = "\u200c\u200d"  # letters of Persian and Indic words, though Unicode calls them format characters
_CONTENT_TYPES = frozenset({"audio/wav", "audio/x-wav", "audio/wave", "audio/vnd.wave"})
_RETRY_S = 30.0


class UploadError(InputError):
    """An upload that is not taken; ``status`` is the HTTP answer, ``retry_after_s`` 0 or a wish.

    To a satellite 401 and 403 mean a wrong token, 429 and 5xx "again later", other 4xx "never send this again".
    """

    def __init__(self, message: str, *, status: int, hint: str = "", retry_after_s: float = 0.0) -> None:
        super().__init__(message, hint=hint)
        self.status = status
        self.retry_after_s = retry_after_s


# ---- headers --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Announcement:
    """What the headers say of a capture."""

    upload: str
    kind: CaptureKind
    wake_word: str = ""
    models: str = ""  # as the satellite writes them
    firmware: str = ""
    gain: float = 0.0
    session: str = ""
    trigger_sample: int | None = None
    age_ms: int = 0
    listening_s: int | None = None
    dropped: int = 0


def parse_headers(headers: Iterable[tuple[str, str]]) -> Announcement:
    """The capture's headers (any case; others are ignored). Raises UploadError 400, for another protocol too, 415."""
    named = _collect(headers)
    protocol = named.get("x-mww-protocol", "")
    if protocol != PROTOCOL:
        raise UploadError(
            f"protocol {protocol[:20]!r} is not {PROTOCOL!r}",
            status=400,
            hint="firmware and mww-ha are of different versions: flash the satellite again",
        )
    content_type = named.get("content-type", "").partition(";")[0].strip().lower()
    if content_type not in _CONTENT_TYPES:
        raise UploadError(f"content type {content_type[:40]!r} is not audio/wav", status=415)
    kind = named.get("x-mww-kind", "")
    if kind not in list(CaptureKind):
        raise UploadError(f"X-Mww-Kind is {kind[:40]!r}", status=400, hint="it is one of " + ", ".join(CaptureKind))
    trigger = _whole(named, "x-mww-trigger-sample")
    return Announcement(
        upload=_match(named, "x-mww-capture", _UPLOAD),
        kind=CaptureKind(kind),
        wake_word=_text(named, "x-mww-wake-word"),
        models=_text(named, "x-mww-model"),
        firmware=_text(named, "x-mww-firmware"),
        gain=float(_match(named, "x-mww-gain", _DECIMAL, "0")),
        session=_text(named, "x-mww-session"),
        trigger_sample=trigger,
        age_ms=_whole(named, "x-mww-age-ms") or 0,
        listening_s=_whole(named, "x-mww-listening-s"),
        dropped=_whole(named, "x-mww-dropped") or 0,
    )


def _collect(headers: Iterable[tuple[str, str]]) -> dict[str, str]:
    """The headers that matter, by lower-case name. Raises UploadError for one that is there twice or is too long."""
    named: dict[str, str] = {}
    for name, value in headers:
        key = name.lower()
        if not (key.startswith("x-mww-") or key == "content-type"):
            continue
        if key in named:
            raise UploadError(f"header {key[:60]} is there twice", status=400)
        if len(value) > _LONGEST_HEADER:
            raise UploadError(f"header {key[:60]} is longer than {_LONGEST_HEADER} characters", status=400)
        named[key] = value.strip()
    return named


def _match(named: Mapping[str, str], key: str, pattern: re.Pattern[str], default: str = "") -> str:
    value = named.get(key) or default
    if not pattern.fullmatch(value):
        raise UploadError(f"{key} is {value[:60]!r}", status=400)
    return value


def _whole(named: Mapping[str, str], key: str) -> int | None:
    return int(_match(named, key, _WHOLE)) if named.get(key) else None


def _text(named: Mapping[str, str], key: str) -> str:
    """Percent-encoded UTF-8 without control characters, at most 256 characters."""
    raw = _match(named, key, _TEXT)
    try:
        text = urllib.parse.unquote_to_bytes(raw).decode("utf-8")
    except UnicodeDecodeError:
        raise UploadError(f"{key} is not UTF-8", status=400) from None
    if len(text) > _LONGEST_TEXT:
        raise UploadError(f"{key} is longer than {_LONGEST_TEXT} characters", status=400)
    if any(
        unicodedata.category(c)[0] == "C" or unicodedata.category(c) in ("Zl", "Zp") for c in text if c not in _JOINERS
    ):
        raise UploadError(f"{key} holds control characters", status=400)
    return text


def parse_bearer(headers: Iterable[tuple[str, str]]) -> str:
    """The token of ``Authorization: Bearer``. Raises UploadError 401."""
    values = [value for name, value in headers if name.lower() == "authorization"]
    found = _BEARER.fullmatch(values[0].strip()) if len(values) == 1 else None
    if found is None:
        raise UploadError("no token", status=401, hint="send it as Authorization: Bearer TOKEN")
    return found[1]


# ---- sound ----------------------------------------------------------------------------------------------------------


def parse_wav(content: bytes, *, longest_s: float = LONGEST_S) -> audio.Samples:
    """The samples of a plain WAV file: a 44-byte header, PCM, 16 bit, mono, 16 kHz, every size exact. May be empty.

    Raises UploadError: 415 for anything but that, 400 for sizes that do not fit, 413 for more than ``longest_s``.
    """
    if len(content) < WAV_HEADER_BYTES or content[:4] != b"RIFF" or content[8:12] != b"WAVE":
        raise UploadError("the body is not a WAV file", status=415)
    if content[12:16] != b"fmt " or content[36:40] != b"data":
        raise UploadError("the WAV holds more than format and data", status=415, hint="send a plain 44-byte header")
    riff_bytes, format_bytes = struct.unpack_from("<I", content, 4)[0], struct.unpack_from("<I", content, 16)[0]
    code, channels, rate, byte_rate, block, bits = struct.unpack_from("<HHIIHH", content, 20)
    if (format_bytes, code, channels, rate, byte_rate, block, bits) != (16, 1, 1, SAMPLE_RATE_HZ, 32_000, 2, 16):
        raise UploadError(
            f"the WAV is format {code}, {rate} Hz, {bits} bit, {channels} channels",
            status=415,
            hint="only PCM, 16000 Hz, 16 bit, mono is taken",
        )
    data_bytes = struct.unpack_from("<I", content, 40)[0]
    if data_bytes > longest_s * 2 * SAMPLE_RATE_HZ:
        raise UploadError(f"the WAV says {data_bytes} bytes of sound: over {longest_s:g} s", status=413)
    there = len(content) - WAV_HEADER_BYTES
    if data_bytes != there or riff_bytes != len(content) - 8 or data_bytes % 2:
        raise UploadError(f"the WAV says {data_bytes} bytes of sound and {there} came", status=400)
    return np.frombuffer(content, dtype="<i2", offset=WAV_HEADER_BYTES).astype(np.int16)


async def read_body(body: AsyncIterator[bytes], most_bytes: int, timeout_s: float = BODY_TIMEOUT_S) -> bytes:
    """All of the body. Raises UploadError 413 as soon as it is too long, 503 when it takes too long."""
    content = bytearray()
    try:
        async with asyncio.timeout(timeout_s):
            async for piece in body:
                content += piece
                if len(content) > most_bytes:
                    raise UploadError(f"the body is longer than {most_bytes} bytes", status=413)
    except TimeoutError:
        raise UploadError(f"the body took longer than {timeout_s:g} s", status=503, retry_after_s=_RETRY_S) from None
    return bytes(content)


# ---- limits ---------------------------------------------------------------------------------------------------------


class Buckets:
    """So many per minute for each key, a minute's worth at once. Forgets the keys that were quiet the longest."""

    def __init__(self, per_minute: float, *, clock: Callable[[], float], keys: int = 4096) -> None:
        self._rate = per_minute / 60
        self._most = max(1.0, per_minute)
        self._clock = clock
        self._keys = keys
        self._levels: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, key: str) -> float:
        """0 when there was one left, which is taken; else the seconds until there is."""
        now = self._clock()
        level, then = self._levels.pop(key, (self._most, now))
        level = min(self._most, level + max(0.0, now - then) * self._rate)
        wait_s = 0.0 if level >= 1 else (1 - level) / self._rate if self._rate > 0 else _RETRY_S
        self._levels[key] = (level - 1 if level >= 1 else level, now)
        while len(self._levels) > self._keys:
            self._levels.popitem(last=False)
        return wait_s


class Lockout:
    """After so many wrong tokens in a row of minutes an address gets no answer to any token but those it used before.

    The exception keeps one satellite with an old token from locking out all others behind the same address.
    """

    def __init__(self, failures: int, minutes: float, *, clock: Callable[[], float], keys: int = 4096) -> None:
        self._most = failures
        self._span_s = minutes * 60
        self._clock = clock
        self._keys = keys
        self._failed: OrderedDict[str, list[float]] = OrderedDict()
        self._good: OrderedDict[tuple[str, str], None] = OrderedDict()

    def wait_s(self, address: str, token_sha256: str) -> float:
        """Seconds that this token still has to wait at this address; 0: let it in."""
        failed = self._failed.get(address, [])
        if len(failed) < self._most or (address, token_sha256) in self._good:
            return 0.0
        return max(0.0, failed[-1] + self._span_s - self._clock())

    def fail(self, address: str) -> None:
        """A wrong token came from there."""
        now = self._clock()
        recent = [t for t in self._failed.pop(address, []) if t > now - self._span_s]
        self._failed[address] = [*recent, now][-max(1, self._most) :]
        while len(self._failed) > self._keys:
            self._failed.popitem(last=False)

    def succeed(self, address: str, token_sha256: str) -> None:
        """A token in force came from there."""
        self._good.pop((address, token_sha256), None)
        self._good[address, token_sha256] = None
        while len(self._good) > self._keys:
            self._good.popitem(last=False)


def address_key(peer: str) -> str:
    """What counts as one address: an IPv4 address, the /64 of an IPv6 one, anything else as it is."""
    try:
        address = ipaddress.ip_address(peer.partition("%")[0])
    except ValueError:
        return peer[:64]
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped:
            return str(address.ipv4_mapped)
        return str(ipaddress.ip_network((address, 64), strict=False))
    return str(address)


# ---- the intake -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """The answer to an upload that was taken, the first time and every other."""

    id: str
    kind: CaptureKind
    device: str
    status: int = 201


class Intake:
    """Takes uploads, many at once; the disk and the catalogue are touched by one thread of its own.

    It opens the project's catalogue once more for itself. ``taken`` is called in the event loop's thread with each
    capture that is new. ``clock`` gives the time of day, ``monotonic`` seconds for the limits. Use it as an async
    context manager, or ``close`` it.
    """

    def __init__(
        self,
        project: Project,
        *,
        taken: Callable[[Capture], None] = lambda _: None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._root, self._catalogue_path = project.root, project.catalogue.path
        self._taken, self._clock, self._monotonic = taken, clock, monotonic
        self.use(project.settings.capture)
        self._reading = 0
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="captures")
        self._opened: Catalogue | None = None

    def use(self, settings: CaptureSettings) -> None:
        """Other limits from now on; what was counted towards the old ones is forgotten."""
        self._settings = settings
        self._by_token = Buckets(settings.uploads_per_minute, clock=self._monotonic)
        self._by_address = Buckets(settings.address_uploads_per_minute, clock=self._monotonic)
        self._lockout = Lockout(settings.failures, settings.lockout_minutes, clock=self._monotonic)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Waits for what is being stored, and closes the catalogue."""
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._thread, self._close)
        self._thread.shutdown(wait=False)  # it has nothing left to do; waiting would hold up the loop

    def _close(self) -> None:
        if self._opened is not None:
            self._opened.close()
            self._opened = None

    def _catalogue(self) -> Catalogue:
        if self._opened is None:
            self._opened = Catalogue(self._catalogue_path)
        return self._opened

    async def take(self, headers: Iterable[tuple[str, str]], body: AsyncIterator[bytes], *, peer: str) -> Receipt:
        """One upload. Returns when it is safe on the disk.

        Raises UploadError with the HTTP status: 400 headers or sizes, 401 no such token, 403 a revoked one, 409 other
        sound under a known name, 413 too long, 415 not such a WAV, 429 too many, 503 too many at once or too slow,
        507 no room. Nothing is kept of an upload that raises.
        """
        headers = list(headers)
        loop = asyncio.get_running_loop()
        address = address_key(peer)
        _wait(self._by_address.take(address), "this address")
        token = await self._admit(headers, address)
        _wait(self._by_token.take(token.sha256), token.device)
        announced = parse_headers(headers)
        longest_s = min(LONGEST_S, self._settings.longest_s)
        most_bytes = WAV_HEADER_BYTES + int(longest_s * SAMPLE_RATE_HZ) * 2
        if self._reading >= self._settings.uploads_at_once:
            raise UploadError("too many uploads at once", status=503, retry_after_s=1.0)
        self._reading += 1
        try:
            content = await read_body(body, most_bytes)
        finally:
            self._reading -= 1
        samples = parse_wav(content, longest_s=longest_s)
        _check_sound(announced, samples.size)
        capture, new = await loop.run_in_executor(self._thread, self._store, token, announced, samples)
        if new:
            self._taken(capture)
        return Receipt(id=capture.id, kind=capture.kind, device=capture.device)

    async def _admit(self, headers: list[tuple[str, str]], address: str) -> Token:
        """The token's entry. Raises UploadError 401, 403, 429."""
        try:
            text = parse_bearer(headers)
        except UploadError:
            self._lockout.fail(address)
            raise
        sha256 = tokens.hash_token(text)
        wait_s = self._lockout.wait_s(address, sha256)
        if wait_s > 0:
            raise UploadError("too many wrong tokens from this address", status=429, retry_after_s=wait_s)
        found = await asyncio.get_running_loop().run_in_executor(
            self._thread, lambda: tokens.find_token(self._catalogue(), text)
        )
        if found is None:
            self._lockout.fail(address)
            raise UploadError("this token is not known here", status=401, hint="flash the satellite again")
        if found.revoked_at or found.scope != tokens.scope_of(found.device):
            self._lockout.fail(address)
            raise UploadError(f"the token of {found.device} was revoked", status=403, hint="flash it again")
        self._lockout.succeed(address, sha256)
        return found

    def _store(self, token: Token, announced: Announcement, samples: audio.Samples) -> tuple[Capture, bool]:
        """The capture, and whether it is new. File first, row last, both on the disk. Runs in the intake's thread."""
        catalogue = self._catalogue()
        capture = _capture_of(token.device, announced, samples, self._clock())
        path = self._root / capture.path
        written = False
        try:
            with catalogue.transaction(durable=True):
                self._note(catalogue, token, announced)
                known = catalogue.find_upload(capture.device, capture.upload)
                if known is not None:
                    if known.sha256 != capture.sha256:
                        raise UploadError(
                            f"{capture.device} sent other sound as {capture.upload} before",
                            status=409,
                            hint="the first one is kept",
                        )
                    return known, False
                if capture.path:
                    self._make_room(catalogue, samples.size)
                    written = not path.exists()
                    if written:
                        audio.write_flac(path, samples)
                        _sync_folder(path.parent)
                    capture = dataclasses.replace(capture, bytes=path.stat().st_size)
                catalogue.add_capture(capture)
            catalogue.sweep(self._root)
        except BaseException as error:
            if written:
                self._forget(catalogue, capture.path)
            if isinstance(error, StorageError):
                raise UploadError(error.message, status=507, hint=error.hint, retry_after_s=_RETRY_S) from error
            raise
        return capture, True

    def _note(self, catalogue: Catalogue, token: Token, announced: Announcement) -> None:
        at = self._clock()
        tokens.note_use(catalogue, token, at)
        if announced.listening_s is None:
            return
        reading = exposure.Reading(
            device=token.device,
            models=tuple(dict.fromkeys(id for _, id in exposure.parse_models(announced.models))),
            listening_s=float(announced.listening_s),
            dropped=announced.dropped,
            at=at,
        )
        exposure.note_reading(catalogue, reading, known_since=datetime.fromisoformat(token.made_at))

    def _make_room(self, catalogue: Catalogue, samples: int) -> None:
        """Inside the bound on all captures, or UploadError 507."""
        needed = 2 * samples + 16_384  # FLAC of noise may be a little larger than the samples
        most = self._settings.max_mb * 1e6
        if catalogue.capture_bytes() + needed <= most:
            return
        keep.expire_rows(catalogue, self._settings, at=self._clock(), needed_bytes=needed)
        if catalogue.capture_bytes() + needed > most:
            raise UploadError(
                f"judged captures fill the {self._settings.max_mb:g} MB set aside for captures",
                status=507,
                hint="delete some of them, or raise capture.max_mb",
                retry_after_s=3600.0,
            )

    def _forget(self, catalogue: Catalogue, path: str) -> None:
        """Removes a file whose row could not be written, unless somebody else's row names it by now."""
        with suppress(StorageError), catalogue.transaction():  # writes nothing: works on a full disk
            if not catalogue.names_file(path):
                (self._root / path).unlink(missing_ok=True)


def _wait(seconds: float, who: str) -> None:
    if seconds > 0:
        raise UploadError(f"too many uploads of {who}", status=429, retry_after_s=seconds)


def _check_sound(announced: Announcement, samples: int) -> None:
    if samples == 0 and not (announced.kind is CaptureKind.FALSE_WAKE and announced.session):
        raise UploadError("no sound", status=400, hint="only a false wake that names its detection comes without")


def _capture_of(device: str, announced: Announcement, samples: audio.Samples, at: datetime) -> Capture:
    """The noun, its file still to be written."""
    sha256 = audio.samples_digest(samples)
    moment = at - timedelta(milliseconds=announced.age_ms)
    # Beyond its end: the sound broke off before the trigger, and where in it that was nobody knows.
    trigger = announced.trigger_sample if announced.kind is not CaptureKind.PROMPT else None
    trigger_s = trigger / SAMPLE_RATE_HZ if trigger is not None and trigger <= samples.size > 0 else -1.0
    return Capture(
        id=digest([device, announced.upload]),
        device=device,
        upload=announced.upload,
        kind=announced.kind,
        captured_at=moment.isoformat(timespec="milliseconds"),
        received_at=at.isoformat(timespec="milliseconds"),
        wake_word=announced.wake_word,
        model=exposure.choose_model(announced.models, announced.kind, announced.wake_word),
        firmware=announced.firmware,
        gain=announced.gain,
        session=announced.session,
        trigger_s=trigger_s,
        path=f"captures/{sha256[:2]}/{sha256}.flac" if samples.size else "",
        sha256=sha256,
        duration_s=round(samples.size / SAMPLE_RATE_HZ, 6),
    )


def _sync_folder(folder: Path) -> None:
    """Waits until the names in ``folder`` are on the disk, where the system can do that."""
    with storage_errors(folder):
        try:
            handle = os.open(folder, os.O_RDONLY)
        except PermissionError:  # Windows opens no folders
            return
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
