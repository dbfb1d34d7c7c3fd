"""Bytes of a sound file from a browser or a disk → samples. The border to whatever somebody sends."""

from __future__ import annotations

import tempfile
from pathlib import Path

from mww_ha import audio
from mww_ha.errors import AudioFileError
from mww_ha.store import storage_errors

MOST_BYTES = 16 << 20
"""30 s in stereo at 48 kHz and 32 bit are 12 MB."""

LONGEST_S = 30.0
_MOST_CHANNELS = 8
_MATROSKA = b"\x1a\x45\xdf\xa3"
_MP4 = b"ftyp"


def read_upload(content: bytes, *, name: str = "the upload") -> audio.Samples:
    """WAV, FLAC, Ogg (Opus, Vorbis) or MP3 as 16 kHz mono int16, at most ``LONGEST_S``. Raises AudioFileError.

    ``name`` is only for messages. What it says of itself (a file name, a type) is not believed: the bytes decide.
    WebM and MP4, which browsers like to record, cannot be read: a page has to send WAV.
    """
    name = "".join(c for c in name if c.isprintable())[:80] or "the upload"
    if len(content) > MOST_BYTES:
        raise AudioFileError(f"{name} is larger than {MOST_BYTES >> 20} MB", hint="send one take at a time")
    if not content:
        raise AudioFileError(f"{name} is empty (0 bytes)", hint="record it again")
    check_form(content, name)
    # libsndfile wants a file; a suffix of our own, so that no name of a stranger chooses how it is read.
    with tempfile.NamedTemporaryFile(prefix="mww-ha-", suffix=".sound") as file:
        path = Path(file.name)
        with storage_errors(path):
            file.write(content)
            file.flush()
        try:
            _check_channels(path)
            return audio.read_audio(path, max_duration_s=LONGEST_S)
        except AudioFileError as error:
            raise AudioFileError(error.message.replace(str(path), name), hint=error.hint) from None


def check_form(beginning: bytes, name: str) -> None:
    """Refuses what libsndfile cannot read and people often have, by its first bytes. Raises AudioFileError."""
    if beginning.startswith(_MATROSKA) or beginning[4:8] == _MP4:
        raise AudioFileError(
            f"{name} is a {'WebM' if beginning.startswith(_MATROSKA) else 'MP4'} file",
            hint="send WAV, FLAC or Ogg; to convert: ffmpeg -i IN -ar 16000 -ac 1 OUT.wav",
        )


def _check_channels(path: Path) -> None:
    import soundfile

    try:
        channels = int(soundfile.info(path).channels)
    except soundfile.LibsndfileError:
        return  # ``read_audio`` says what is wrong
    if channels > _MOST_CHANNELS:
        raise AudioFileError(f"{path} has {channels} channels", hint="record with one")
